//! Waits until the endpoint was restarted.

use std::time::Duration;

use http::Uri;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::failure::Failure;
use crate::http::host;

const POLL: Duration = Duration::from_millis(5);

/// A connection that stays open for this time shows that the server is running. A process that is shutting down may still
/// accept connections, but it closes them at once.
const STAYS_OPEN: Duration = Duration::from_millis(100);

async fn listens(address: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else {
        return false;
    };
    // Without a listener, a connection to an ephemeral port of this machine can reach itself.
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(local), Ok(peer)) if local != peer => {
            let mut byte = [0];
            timeout(STAYS_OPEN, stream.read(&mut byte)).await.is_err()
        }
        _ => false,
    }
}

/// A connection that shows when the endpoint's process ends.
pub(super) struct Watch {
    address: String,
    idle: Option<TcpStream>,
}

impl Watch {
    /// Connects before the restart is announced, so that the watch can't miss the end of the process.
    pub(super) async fn start(uri: &Uri) -> Self {
        let address = host(uri);
        let idle = TcpStream::connect(&address).await.ok();
        Self { address, idle }
    }

    /// Waits until the endpoint has gone away and listens again, for at most `limit` of real time.
    pub(super) async fn wait(mut self, limit: Duration) -> Result<(), Failure> {
        let end = Instant::now() + limit;
        let restarted = async {
            let mut byte = [0];
            if let Some(idle) = &mut self.idle {
                // The read ends when the server closes the connection.
                let _ = idle.read(&mut byte).await;
            }
            while !listens(&self.address).await {
                sleep(POLL).await;
            }
        };
        timeout_at(end, restarted).await.map_err(|_| {
            Failure::unavailable(format_args!(
                "{} wasn't restarted within {}: see --restart-within",
                self.address,
                humantime::format_duration(limit)
            ))
        })
    }
}

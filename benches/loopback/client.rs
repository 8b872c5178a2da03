use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Fault;
use crate::common::event;

/// The size of an event's body, in bytes.
const SIZE: usize = 600;

/// A connection that carries one request at a time.
pub(crate) struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    /// The position of the 16-digit id in the request, if the request has an id.
    id: Option<usize>,
    number: u64,
    answer: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr, path: &str) -> Result<Self, Fault> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (request, id) = request(path);
        Ok(Self {
            stream,
            request,
            id,
            // The upper half is random, so no other connection or run sends the same id.
            number: u64::from(fastrand::u32(..)) << 24,
            answer: vec![0; 4096],
        })
    }

    /// Sends a request with a new id, and returns the status of the answer.
    pub(crate) async fn send(&mut self) -> Result<u16, Fault> {
        if let Some(place) = self.id {
            self.number += 1;
            let id = format!("{:016x}", self.number);
            self.request[place..place + id.len()].copy_from_slice(id.as_bytes());
        }
        self.stream.write_all(&self.request).await?;
        // Every server of this benchmark writes its answer in a single write.
        let read = self.stream.read(&mut self.answer).await?;
        let status = self.answer[..read]
            .strip_prefix(b"HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|status| std::str::from_utf8(status).ok());
        Ok(status.ok_or("the answer isn't HTTP")?.parse()?)
    }
}

fn request(path: &str) -> (Vec<u8>, Option<usize>) {
    if path == "/" {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        return (request.into_bytes(), None);
    }
    let body = event(0, SIZE).replace("-000000000000", "-0000000000000000");
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let place = body
        .find("-0000000000000000")
        .map(|place| head.len() + place + 1);
    (format!("{head}{body}").into_bytes(), place)
}

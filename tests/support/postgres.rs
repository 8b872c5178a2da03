//! PostgreSQL servers in separate processes, on free ports of the loopback interface and on Unix sockets. A server
//! stops, and its folder is deleted, when its handle is dropped or when the test process ends for any reason.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// The limit of every wait for a server.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(120);

pub(crate) const MISSING: &str = "these tests need a PostgreSQL server: `apt-get install postgresql`, or name the directory of its programs in POSTGRES_BIN";

/// A server, with a data directory that outlives its process.
pub(crate) struct PostgresServer {
    process: Option<Child>,
    port: u16,
    guard: Guard,
    programs: PathBuf,
    directory: PathBuf,
}

/// Whether the server flushes its data to the disk before a commit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fsync {
    On,
    /// Makes tests faster. A test that kills the server needs [`Fsync::On`].
    Off,
}

impl PostgresServer {
    /// Starts a server that doesn't flush its data to the disk.
    pub(crate) fn start() -> Self {
        Self::start_with(Fsync::Off, "")
    }

    /// Starts a server with additional lines in its configuration.
    pub(crate) fn start_with(fsync: Fsync, more: &str) -> Self {
        let parent = env::temp_dir();
        Self::start_in(&parent, fsync, more)
    }

    /// Starts a server that stores its data in a subdirectory of a given directory.
    pub(crate) fn start_in(parent: &Path, fsync: Fsync, more: &str) -> Self {
        let mut server = Self::prepare(parent);
        server.run("initdb", |command| {
            command
                .args(["--no-sync", "--auth=trust", "--username=postgres"])
                .args(["--encoding=UTF8", "--locale=C", "--pgdata"])
                .arg(server.data())
        });
        let speed = match fsync {
            Fsync::On => "",
            Fsync::Off => "fsync = off\nfull_page_writes = off\n",
        };
        server.configure(&format!("{speed}{more}"));
        server.start_on_free_port();
        server
    }

    /// Creates the directory of a server.
    fn prepare(parent: &Path) -> Self {
        let programs = programs();
        let directory = tempfile::Builder::new()
            .prefix("postgres-")
            .tempdir_in(parent);
        // The guard deletes the directory, because no destructor of this process runs after a kill.
        let directory = directory.expect("a temporary directory").keep();
        if let Some(user) = unprivileged() {
            chown(&directory, Some(user.uid), Some(user.gid)).expect("the user owns the directory");
        }
        Self {
            process: None,
            port: 0,
            guard: Guard::start(&directory),
            programs,
            directory,
        }
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Appends lines to the configuration. The last line that sets a parameter is valid.
    fn configure(&self, lines: &str) {
        const ALL: &str = "listen_addresses = '127.0.0.1'\nmax_connections = 200\nshared_buffers = '32MB'\njit = off\n";
        let path = self.data().join("postgresql.conf");
        let file = fs::File::options().append(true).open(path);
        let sockets = format!("unix_socket_directories = '{}'\n", self.directory.display());
        let text = format!("\n{ALL}{sockets}{lines}\n");
        let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
        written.expect("the configuration can be written");
    }

    /// Starts the server. Another process can take a free port, so this tries several ports.
    fn start_on_free_port(&mut self) {
        for _ in 0..5 {
            self.port = free_port();
            if self.spawn() {
                return;
            }
        }
        panic!("five servers failed to start: {}", self.log());
    }

    /// Starts the process, and waits until it accepts clients. Returns `false` if the process ends.
    fn spawn(&mut self) -> bool {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.join("log"))
            .expect("a log can be opened");
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string()])
            .stdout(Stdio::null())
            .stderr(log);
        let process = command.spawn().expect(MISSING);
        self.guard.watch(Some(process.id()));
        let pid = process.id();
        self.process = Some(process);
        let begun = Instant::now();
        while begun.elapsed() < TIMEOUT {
            if self.is_ready(pid) {
                return true;
            }
            let process = self.process.as_mut().expect("the process was started");
            if process
                .try_wait()
                .expect("the process can be waited for")
                .is_some()
            {
                self.forget();
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("the server doesn't start: {}", self.log());
    }

    /// Returns whether the file with the server's status names this process and says that it accepts clients.
    fn is_ready(&self, pid: u32) -> bool {
        let status = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = status.lines().map(str::trim).collect();
        lines.first() == Some(&pid.to_string().as_str()) && lines.get(7) == Some(&"ready")
    }

    /// Returns a command for a program of the server. PostgreSQL refuses to run as root, so root runs the program as
    /// another user.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        if let Some(user) = unprivileged() {
            command.uid(user.uid).gid(user.gid);
        }
        command
            .current_dir(&self.directory)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            // A Ctrl-C in the terminal ends the test, and the guard then stops the server.
            .process_group(0);
        command
    }

    fn run(&self, program: &str, arguments: impl FnOnce(&mut Command) -> &mut Command) -> String {
        let mut command = self.command(program);
        let output = arguments(&mut command).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}; {MISSING}"));
        let (text, errors) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{program}: {text}{errors}");
        text
    }

    /// Runs SQL in the database `postgres`, as a superuser. Returns the rows as lines whose columns are separated
    /// by `|`.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.sql_in("postgres", sql)
    }

    /// Runs SQL in a given database, as a superuser.
    pub(crate) fn sql_in(&self, database: &str, sql: &str) -> String {
        let text = self.run("psql", |command| self.psql(command, database, sql));
        text.trim_end().to_owned()
    }

    fn psql<'a>(&self, command: &'a mut Command, database: &str, sql: &str) -> &'a mut Command {
        command
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres"])
            .args(["-p", &self.port.to_string(), "-d", database, "-c", sql])
            .arg("-h")
            .arg(&self.directory)
    }

    /// Changes a parameter of the running server.
    pub(crate) fn set(&self, parameter: &str, value: &str) {
        self.sql(&format!("ALTER SYSTEM SET {parameter} = '{value}'"));
        self.sql("SELECT pg_reload_conf()");
        // The server's main process reloads the file asynchronously.
        until("the server has the parameter", || {
            self.sql(&format!(
                "SELECT current_setting('{parameter}') = '{value}'"
            )) == "t"
        });
    }

    /// Returns the URL of a database on this server, for a superuser.
    pub(crate) fn url(&self, database: &str) -> String {
        self.url_of("postgres", database)
    }

    /// Returns the URL of a database on this server, for a given role.
    pub(crate) fn url_of(&self, role: &str, database: &str) -> String {
        format!("postgresql://{role}@127.0.0.1:{}/{database}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the process id of the server's main process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("the server runs").id()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Creates an empty database with a unique name.
    pub(crate) fn database(&self) -> Database<'_> {
        static DATABASES: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        self.sql(&format!("CREATE DATABASE {name}"));
        Database { server: self, name }
    }

    /// Stops the server as an operator does: the server ends all connections, and writes its data to the disk.
    pub(crate) fn stop(&mut self) {
        signal(&[self.pid()], "INT");
        self.wait();
    }

    /// Stops the server with `immediate`: the server recovers from its log when it starts again.
    pub(crate) fn stop_immediately(&mut self) {
        signal(&[self.pid()], "QUIT");
        self.wait();
    }

    /// Kills all processes of the server, to simulate a crash.
    pub(crate) fn kill(&mut self) {
        let all = self.freeze();
        signal(&all, "KILL");
        self.wait();
        until("all processes of the server end", || {
            !all.iter().any(|pid| is_alive(*pid))
        });
        self.remove_shared_memory();
    }

    /// Removes the segment of 56 bytes that a killed server leaves in the kernel.
    fn remove_shared_memory(&self) {
        let status = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let segment = status
            .lines()
            .nth(6)
            .and_then(|line| line.split_whitespace().nth(1));
        if let Some(segment) = segment {
            // A segment that stays harms no test.
            let _ = Command::new("ipcrm").args(["-m", segment]).output();
        }
    }

    /// Starts a stopped server again, on the same port and the same data.
    pub(crate) fn restart(&mut self) {
        assert!(self.process.is_none(), "the server runs");
        assert!(self.spawn(), "the server doesn't start: {}", self.log());
    }

    /// Stops all processes of the server with a signal, so the server keeps its connections but answers no client.
    /// Returns the process ids.
    pub(crate) fn freeze(&self) -> Vec<u32> {
        // The main process comes first, because it starts the other processes.
        let main = self.pid();
        signal(&[main], "STOP");
        until("the main process is stopped", || state(main) == Some('T'));
        let mut all = vec![main];
        all.extend(children(main));
        signal(&all, "STOP");
        until("all processes of the server are stopped", || {
            all.iter()
                .all(|pid| state(*pid) == Some('T') || !is_alive(*pid))
        });
        all
    }

    /// Continues the processes of a frozen server.
    pub(crate) fn thaw(&self) {
        let main = self.pid();
        let mut all = children(main);
        all.push(main);
        signal(&all, "CONT");
    }

    /// Waits until the main process has ended.
    fn wait(&mut self) {
        if let Some(process) = &mut self.process {
            process.wait().expect("the process can be waited for");
        }
        self.forget();
    }

    fn forget(&mut self) {
        self.process = None;
        self.guard.watch(None);
    }

    /// Starts a standby that replicates this server. After this call, a commit on this server waits until the standby
    /// has written it.
    pub(crate) fn standby(&self) -> Self {
        let parent = self.directory.parent().expect("the directory has a parent");
        let mut standby = Self::prepare(parent);
        standby.run("pg_basebackup", |command| {
            command
                .args([
                    "--write-recovery-conf",
                    "--wal-method=stream",
                    "--checkpoint=fast",
                ])
                .args(["--no-sync", "--username=postgres", "--pgdata"])
                .arg(standby.data())
                .args(["--port", &self.port.to_string(), "--host"])
                .arg(&self.directory)
        });
        standby.configure("");
        standby.start_on_free_port();
        until("the standby replicates", || {
            self.sql("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1"
        });
        self.set("synchronous_standby_names", "*");
        until("the standby is synchronous", || {
            self.sql("SELECT sync_state FROM pg_stat_replication") == "sync"
        });
        standby
    }

    /// Makes a standby a server that accepts writes.
    pub(crate) fn promote(&self) {
        assert_eq!(self.sql("SELECT pg_promote()"), "t");
        self.set("synchronous_standby_names", "");
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // Reaping the process here lets the guard see that it has ended.
        if let Some(mut process) = self.process.take() {
            let pid = process.id();
            signal(&children(pid), "CONT");
            signal(&[pid], "CONT");
            signal(&[pid], "QUIT");
            let _ = process.wait();
            self.guard.watch(None);
        }
        self.guard.end();
    }
}

/// A database that a test uses alone. Dropping it deletes the database.
pub(crate) struct Database<'a> {
    pub(crate) server: &'a PostgresServer,
    pub(crate) name: String,
}

impl Database<'_> {
    /// Returns the URL of the database, for a superuser.
    pub(crate) fn url(&self) -> String {
        self.server.url(&self.name)
    }

    /// Runs SQL as a superuser. Returns the rows as lines whose columns are separated by `|`.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.server.sql_in(&self.name, sql)
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        // A test that stops the server leaves the database to the deletion of the server's directory.
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        let mut command = self.server.command("psql");
        let _ = self.server.psql(&mut command, "postgres", &sql).output();
    }
}

/// Returns the server that all tests of this binary share. A test that stops or changes a server starts its own.
pub(crate) fn shared() -> &'static PostgresServer {
    static SHARED: OnceLock<PostgresServer> = OnceLock::new();
    SHARED.get_or_init(PostgresServer::start)
}

/// Creates an empty database on the shared server.
pub(crate) fn database() -> Database<'static> {
    shared().database()
}

/// A process that stops the server and deletes its directory after the test process has ended. The end of the test
/// process closes the pipe from which the guard reads.
struct Guard {
    process: Child,
    input: Option<ChildStdin>,
}

/// Reads the id of the server's process from each line. An empty line means that no process runs.
const GUARD: &str = r#"
pid=
while read -r line; do pid=$line; done
if [ -n "$pid" ]; then
    kill -CONT "$pid"; kill -QUIT "$pid"
    tries=0
    while kill -0 "$pid" && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
fi 2>/dev/null
rm -rf "$1"
"#;

impl Guard {
    fn start(directory: &Path) -> Self {
        let mut process = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(directory)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("a shell");
        let input = process.stdin.take();
        Self { process, input }
    }

    fn watch(&mut self, pid: Option<u32>) {
        let pid = pid.map(|pid| pid.to_string()).unwrap_or_default();
        if let Some(input) = &mut self.input {
            // The write fails only if the guard was killed.
            let _ = writeln!(input, "{pid}");
        }
    }

    fn end(&mut self) {
        self.input = None;
        let _ = self.process.wait();
    }
}

/// The user that runs the server if the tests run as root.
#[derive(Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

/// Returns the user that runs the server, or `None` if this process isn't root.
fn unprivileged() -> Option<User> {
    static USER: OnceLock<Option<User>> = OnceLock::new();
    *USER.get_or_init(|| {
        let own = Command::new("id").arg("-u").output().expect("`id` runs");
        if text(&own.stdout).trim() != "0" {
            return None;
        }
        let users = fs::read_to_string("/etc/passwd").expect("the list of users can be read");
        let user = ["postgres", "nobody"]
            .iter()
            .find_map(|name| user(&users, name));
        Some(user.expect("the system has the user `postgres` or `nobody`"))
    })
}

/// Finds a user in the text of `/etc/passwd`.
fn user(users: &str, name: &str) -> Option<User> {
    let mut fields = users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>());
    let fields = fields.find(|fields| fields.first() == Some(&name))?;
    let (uid, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
    Some(User { uid, gid })
}

/// Returns the directory of the server's programs. If they are missing, panics with installation instructions.
fn programs() -> PathBuf {
    let named = env::var_os("POSTGRES_BIN").map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let found = find_programs(named, &path, Path::new("/usr/lib/postgresql"));
    found.unwrap_or_else(|| panic!("{MISSING}"))
}

/// Searches a named directory, or else `PATH`, and then the directories of Debian's packages, newest first.
pub(crate) fn find_programs(
    named: Option<PathBuf>,
    path: &OsStr,
    debian: &Path,
) -> Option<PathBuf> {
    let complete = |directory: &PathBuf| {
        ["initdb", "postgres", "psql"]
            .iter()
            .all(|program| directory.join(program).is_file())
    };
    if named.is_some() {
        return named.filter(complete);
    }
    let mut versions: Vec<u32> = fs::read_dir(debian)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable_by(|one, other| other.cmp(one));
    let debian = versions
        .iter()
        .map(|version| debian.join(version.to_string()).join("bin"));
    env::split_paths(path).chain(debian).find(complete)
}

/// Returns a port that is free now.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    listener
        .local_addr()
        .expect("the listener has an address")
        .port()
}

/// Sends a signal. Ignores a process that has already ended.
fn signal(pids: &[u32], signal: &str) {
    let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
    let kill = Command::new("kill")
        .arg(format!("-{signal}"))
        .args(&pids)
        .output();
    kill.expect("signals can be sent");
}

/// Returns the ids of the child processes of a process.
fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten();
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| status(*pid).is_some_and(|(_, of)| of == parent))
        .collect()
}

/// Returns whether a process exists. A process that only waits for its parent has ended.
pub(crate) fn is_alive(pid: u32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Returns the letter of a process's state, for example `T` for a stopped process.
pub(crate) fn state(pid: u32) -> Option<char> {
    status(pid).map(|(state, _)| state)
}

/// Returns the state and the parent of a process.
fn status(pid: u32) -> Option<(char, u32)> {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, which is in parentheses, can contain spaces.
    let (_, fields) = status.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Polls a condition until it holds.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < TIMEOUT, "not in {TIMEOUT:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

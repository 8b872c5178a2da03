//! Child processes that run the test binary again.

use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio, abort};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// A child process. Dropping it kills the process.
pub(crate) struct Process {
    pub(crate) child: Child,
}

/// Returns the path of this test binary.
pub(crate) fn own_binary() -> PathBuf {
    env::current_exe().unwrap()
}

/// Ends this process when its parent exits for any reason: the parent's exit closes the pipe.
pub(crate) fn end_with_parent() {
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        abort();
    });
}

impl Process {
    /// Starts a command that ends with the path of this binary, and runs its ignored test `test`. Calls
    /// `on_line` with each line that the process prints.
    pub(crate) fn start(
        mut command: Command,
        test: &str,
        mut on_line: impl FnMut(&str) + Send + 'static,
    ) -> Self {
        let mut child = command
            .args(["--ignored", "--exact", test, "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        // The thread reads all output. After a minute, the test harness prints a line, and it exits if the pipe
        // is closed.
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                on_line(&line);
            }
        });
        Self { child }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Waits until the process ends, for at most `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < limit, "the process doesn't end");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Returns a size in KiB from the status of the process: `VmRSS:` is the current memory, and `VmHWM:` is the
    /// peak.
    pub(crate) fn memory(&self, field: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find(|line| line.starts_with(field))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

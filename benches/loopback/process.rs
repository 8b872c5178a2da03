//! Starts this program again, once as the server and once as the load.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs, process, thread};

use crate::Fault;

/// A child process. Dropping this value kills the process.
pub(crate) struct Process(Child);

impl Process {
    /// Starts this program again, on one core or on all.
    pub(crate) fn start(core: Option<usize>, arguments: &[&str]) -> Result<Self, Fault> {
        let program = env::current_exe()?;
        let cores = thread::available_parallelism()?.get();
        let taskset = Command::new("taskset")
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        let pinned = cores > 1 && taskset.is_ok_and(|status| status.success());
        let mut command = match core.filter(|_| pinned) {
            Some(core) => {
                let mut command = Command::new("taskset");
                command.arg("-c").arg(core.to_string()).arg(program);
                command
            }
            None => Command::new(program),
        };
        let child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self(child))
    }

    /// Returns the first line of the process's output.
    pub(crate) fn line(&mut self) -> Result<String, Fault> {
        let stdout = self
            .0
            .stdout
            .take()
            .ok_or("the first line has already been read")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Waits until the process exits, and fails unless its status is 0.
    pub(crate) fn finish(mut self) -> Result<(), Fault> {
        if self.0.wait()?.success() {
            Ok(())
        } else {
            Err("a process failed".into())
        }
    }

    /// Returns the CPU time of the process.
    pub(crate) fn cpu(&self) -> Result<Duration, Fault> {
        let mut nanos = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.0.id()))? {
            let schedstat = fs::read_to_string(task?.path().join("schedstat"))?;
            let ran = schedstat.split_whitespace().next().ok_or("no time")?;
            nanos += ran.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanos))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder on the program's disk, because a temporary folder may be in memory.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Result<Self, Fault> {
        let beside = env::current_exe()?;
        let folder = beside.with_file_name(format!("loopback-{}-{name}", process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

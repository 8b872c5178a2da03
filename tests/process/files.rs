//! Processes that open one inbox under several names, and files on their own mount.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::support::process::own_binary;
use crate::support::server::{ServerFolder, body};

#[test]
fn two_processes_never_own_one_inbox_whatever_names_it_has() {
    let mut place = ServerFolder::new();
    let folder = place.folder().to_owned();
    let (first, second) = (folder.join("1.db"), folder.join("2.db"));
    for link in [&first, &second] {
        symlink("inbox.db", link).unwrap();
    }
    place.name = Some(first);
    let server = place.start().listening();
    let mut client = server.client();
    assert_eq!(client.post(&body("held", r#"{"held":true}"#)).unwrap(), 200);
    let hard = folder.join("hard.db");
    fs::hard_link(&place.inbox, &hard).unwrap();
    let mut names = vec![second, place.inbox.clone()];
    if cfg!(target_os = "linux") {
        names.push(hard);
    }
    for name in names {
        place.name = Some(name);
        let error = place.start().failing();
        assert!(error.contains("lock_timeout"), "{error}");
        if cfg!(target_os = "linux") {
            // Deleting the lock file changes nothing.
            let _ = fs::remove_file(place.beside("-lock"));
            let error = place.start().failing();
            assert!(error.contains("lock_timeout"), "{error}");
        }
    }
    // The first server continues, and no event ran twice.
    assert_eq!(client.post(&body("new", "{}")).unwrap(), 200);
    server.get("/release");
    assert_eq!(server.wait_idle().of("handled"), 2);
    server.end();
    assert_eq!(place.journal().len(), 2);
    place.name = None;
    let server = place.start().listening();
    assert_eq!(server.client().post(&body("last", "{}")).unwrap(), 200);
}

/// Returns a command that runs `mount` and then this binary, in its own mount namespace. Returns `None` if this
/// user may not mount.
#[cfg(target_os = "linux")]
fn mounted(mount: &str) -> Option<Command> {
    let unshare = |program: &mut Command| program.stderr(std::process::Stdio::null()).status();
    let namespaces: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
    let may = |namespace: &&&[&str]| {
        let mut try_it = Command::new("unshare");
        let status = unshare(
            try_it
                .args(**namespace)
                .args(["mount", "--bind", "/tmp", "/tmp"]),
        );
        status.is_ok_and(|status| status.success())
    };
    let namespace = namespaces.iter().find(may)?;
    let mut command = Command::new("unshare");
    let script = format!("{mount} && exec \"$0\" \"$@\"");
    command
        .args(*namespace)
        .args(["sh", "-c", &script])
        .arg(own_binary());
    Some(command)
}

#[cfg(target_os = "linux")]
fn mount_bind(from: &Path, to: &Path) -> String {
    format!("mount --bind '{}' '{}'", from.display(), to.display())
}

/// `docker run -v ./inbox.db:/data/inbox.db` mounts only the file, so the log would be lost with the container.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_mounted_on_its_own_is_refused_and_its_folder_is_not() {
    let mut place = ServerFolder::new();
    let host = place.folder().join("a folder on the host");
    fs::create_dir(&host).unwrap();
    let data = place.folder().join("data");
    fs::create_dir(&data).unwrap();
    let file = host.join("inbox.db");
    for file in [&file, &data.join("inbox.db"), &data.join("an inbox\\.db")] {
        fs::write(file, "").unwrap();
    }
    for name in ["inbox.db", "an inbox\\.db"] {
        place.inbox = data.join(name);
        let Some(command) = mounted(&mount_bind(&file, &place.inbox)) else {
            return;
        };
        let error = place.start_by(command).failing();
        assert!(error.contains("mount its folder"), "{error}");
    }
    assert_eq!(fs::read_dir(&host).unwrap().count(), 1);
    place.inbox = data.join("inbox.db");
    for recovered in [0, 1] {
        let command = mounted(&mount_bind(&host, &data)).unwrap();
        let mut server = place.start_by(command).listening();
        assert_eq!(server.stats().of("recovered"), recovered);
        let id = format!("event-{recovered}");
        let answer = server.client().post(&body(&id, r#"{"held":true}"#));
        assert_eq!(answer.unwrap(), 200);
        server.kill();
    }
}

/// In the file system of a container, the first write copies the file from a lower layer.
#[cfg(target_os = "linux")]
#[test]
fn an_inbox_on_an_overlay_keeps_its_log() {
    let mut place = ServerFolder::new();
    let server = place.serving();
    assert_eq!(
        server
            .client()
            .post(&body("first", r#"{"held":true}"#))
            .unwrap(),
        200
    );
    drop(server);
    let folder = place.folder().to_owned();
    let (lower, layers, merged) = (
        folder.join("lower"),
        folder.join("layers"),
        folder.join("merged"),
    );
    for folder in [&lower, &layers, &merged] {
        fs::create_dir(folder).unwrap();
    }
    for suffix in ["", "-wal"] {
        let file = place.beside(suffix);
        fs::copy(&file, lower.join(file.file_name().unwrap())).unwrap();
    }
    let (lower, layers) = (lower.display(), layers.display());
    let mount = format!(
        "mount -t tmpfs tmpfs '{layers}' && mkdir '{layers}/upper' '{layers}/work' && mount -t overlay overlay -o \
         'lowerdir={lower},upperdir={layers}/upper,workdir={layers}/work' '{}'",
        merged.display()
    );
    place.inbox = merged.join("inbox.db");
    let Some(command) = mounted(&mount) else {
        return;
    };
    let server = place.start_by(command).listening();
    assert_eq!(server.stats().of("recovered"), 1);
    let mut client = server.client();
    for id in ["second", "third"] {
        assert_eq!(client.post(&body(id, "{}")).unwrap(), 200);
    }
    server.get("/release");
    assert_eq!(server.wait_idle().of("handled"), 3);
}

//! Sockets that are missing, refuse, hang or answer nonsense.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::listener::Listener;

/// Returns the reason for the first trouble. Its text names the socket and a remedy.
fn reason(socket: &Path) -> &'static str {
    let trouble = Listener::new(socket).trouble();
    let text = &trouble.text;
    assert!(text.contains(socket.to_str().unwrap()), "{text}");
    assert!(text.contains("; ") && text.len() < 600, "{text}");
    assert!(!text.contains(char::is_control), "{text}");
    println!("{}: {text}", trouble.reason);
    trouble.reason
}

/// Opens a socket that runs `serve` on every connection. Returns its path and the number of connections.
fn server(
    folder: &Path,
    serve: impl Fn(UnixStream) + Send + 'static,
) -> (PathBuf, Arc<AtomicUsize>) {
    let path = folder.join("runtime.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            counted.fetch_add(1, Ordering::Relaxed);
            serve(stream.unwrap());
        }
    });
    (path, count)
}

#[test]
fn what_is_no_socket_of_a_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    assert_eq!(reason(&path("absent")), "absent");
    fs::write(path("file"), "").unwrap();
    assert_eq!(reason(&path("file")), "no_socket");
    assert_eq!(reason(folder.path()), "no_socket");
    symlink("circle", path("circle")).unwrap();
    assert_eq!(reason(&path("circle")), "failed");
    assert_eq!(reason(&path("file").join("below")), "failed");
    assert_eq!(reason(&path(&"x".repeat(300))), "failed");
    drop(UnixListener::bind(path("deserted")).unwrap());
    assert_eq!(reason(&path("deserted")), "refused");
    // A socket's address cannot be that long.
    let deep = path(&"d".repeat(120));
    fs::create_dir(&deep).unwrap();
    let (far, _) = server(folder.path(), drop);
    fs::rename(&far, deep.join("s")).unwrap();
    assert_eq!(reason(&deep.join("s")), "failed");
}

#[test]
fn a_socket_that_says_nonsense_or_hangs_up() {
    let answers: [&[u8]; 4] = [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\0\0\0\x04\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        &[0xa5; 4096],
    ];
    for answer in answers {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = server(folder.path(), move |mut stream| {
            let _ = stream.write_all(answer);
            let mut heard = [0; 4096];
            let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
            let _ = stream.read(&mut heard);
        });
        let reason = reason(&path);
        let expected = ["protocol", "failed", "refused"];
        assert!(expected.contains(&reason), "{reason} for {answer:?}");
    }
}

#[test]
fn a_socket_that_hangs_is_left_after_five_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = server(folder.path(), |stream| {
        std::thread::spawn(move || {
            let mut stream = stream;
            while stream.read(&mut [0; 4096]).is_ok_and(|length| length > 0) {}
        });
    });
    let start = Instant::now();
    assert_eq!(reason(&path), "timeout");
    let took = start.elapsed();
    assert!(
        took > Duration::from_secs(4) && took < Duration::from_secs(10),
        "{took:?}"
    );
}

#[test]
fn a_failing_socket_is_tried_ever_more_rarely_though_names_are_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let (path, count) = server(folder.path(), drop);
    let listener = Listener::new(&path);
    let end = Instant::now() + Duration::from_millis(8500);
    while Instant::now() < end {
        listener.inbox.want();
        std::thread::sleep(Duration::from_millis(10));
    }
    // Attempts are at 0, 1, 3 and 7 seconds. Each tries the connection at most twice.
    let said = listener.inbox.drain().count();
    let count = count.load(Ordering::Relaxed);
    assert!((3..=4).contains(&said), "{said} messages");
    assert!((3..=8).contains(&count), "{count} connections");
}

#[test]
fn a_source_ends_with_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let (path, count) = server(folder.path(), drop);
    drop(Listener::new(&path));
    std::thread::sleep(Duration::from_millis(2500));
    assert!(count.load(Ordering::Relaxed) <= 1);
}

#[test]
fn rights_on_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = server(folder.path(), drop);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o000)).unwrap();
    let outcome = std::thread::spawn(move || {
        // SAFETY: takes a number; concerns file access of this thread and of those that it starts.
        unsafe { libc::setfsuid(65534) };
        reason(&path)
    })
    .join();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(outcome.unwrap(), "denied");
}

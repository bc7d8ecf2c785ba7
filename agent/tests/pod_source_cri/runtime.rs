//! A real containerd without pods, started for the test with its own data and socket.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use stallscope::attribution::pods::feed::Message;
use tempfile::TempDir;

use super::listener::Listener;

/// A running containerd. Dropping it ends the process.
struct Containerd {
    child: Child,
    folder: TempDir,
}

/// Returns the reason why containerd cannot run here, if any.
fn obstacle() -> Option<&'static str> {
    // SAFETY: reads a number.
    if unsafe { libc::geteuid() } != 0 {
        return Some("containerd needs root");
    }
    let version = Command::new("containerd").arg("--version").output();
    version.is_err().then_some("there is no containerd here")
}

impl Containerd {
    fn start(disabled: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let config = format!(
            "version = 2\nroot = \"{path}/root\"\nstate = \"{path}/state\"\ndisabled_plugins = [{disabled}]\n\
             [grpc]\n  address = \"{path}/containerd.sock\"\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\n  path = \"{path}/opt\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\n  disable_apparmor = true\n"
        );
        fs::write(folder.path().join("config.toml"), config).unwrap();
        Self {
            child: start(folder.path()),
            folder,
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("containerd.sock")
    }

    fn stop(&mut self) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: our own child, which was not waited for, so that the pid is still its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        self.child.wait().unwrap();
    }

    fn wait_for_socket(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        while !self.socket().exists() {
            assert!(Instant::now() < end, "containerd does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.stop();
        }
    }
}

fn start(folder: &Path) -> Child {
    Command::new("containerd")
        .arg("--config")
        .arg(folder.join("config.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "needs root and containerd"]
fn a_runtime_is_asked_when_names_are_wanted_and_after_it_restarts() {
    if let Some(why) = obstacle() {
        println!("skipped: {why}");
        return;
    }
    let mut containerd = Containerd::start("");
    containerd.wait_for_socket();
    let listener = Listener::new(&containerd.socket());
    let pods = listener.wait("a list", |message| match message {
        Message::All(pods) => Some(pods.len()),
        _ => None,
    });
    assert_eq!(pods, 0);

    // The source asks at most once a second, however often a name is wanted.
    let end = Instant::now() + Duration::from_millis(3500);
    let mut answers = 0;
    while Instant::now() < end {
        listener.inbox.want();
        answers += listener
            .inbox
            .drain()
            .filter(|message| matches!(message, Message::Up))
            .count();
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!((2..=4).contains(&answers), "{answers} answers");

    containerd.stop();
    listener.inbox.want();
    let reason = listener.wait("trouble", |message| match message {
        Message::Trouble(trouble) => Some(trouble.reason),
        _ => None,
    });
    assert!(["absent", "refused"].contains(&reason), "{reason}");
    containerd.child = start(containerd.folder.path());
    listener.wait("an answer", |message| {
        matches!(message, Message::Up).then_some(())
    });
}

#[test]
#[ignore = "needs root and containerd"]
fn a_runtime_whose_cri_plugin_is_disabled_is_told_apart() {
    if let Some(why) = obstacle() {
        println!("skipped: {why}");
        return;
    }
    let containerd = Containerd::start("\"io.containerd.grpc.v1.cri\"");
    containerd.wait_for_socket();
    let listener = Listener::new(&containerd.socket());
    let text = listener.wait("trouble", |message| match message {
        Message::Trouble(trouble) if trouble.reason == "unsupported" => Some(trouble.text),
        _ => None,
    });
    println!("{text}");
    assert!(text.contains("CRI plugin not disabled"), "{text}");
}

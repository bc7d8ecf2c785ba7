//! Shows the page in a browser, where there is one.

use std::process::{Command, Stdio};

/// Opens an address if there is a display. Failures after the start are the browser's to report.
pub fn open(url: &str) {
    let display = ["DISPLAY", "WAYLAND_DISPLAY"];
    if !display.iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    // Browsers refuse to run as root, so the user's own is started.
    let mut command = match std::env::var_os("SUDO_USER") {
        Some(user) => {
            let mut command = Command::new("sudo");
            command
                .arg("-H")
                .arg("-u")
                .arg(user)
                .args(["--", "xdg-open"]);
            command
        }
        None => Command::new("xdg-open"),
    };
    let opened = command
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    if let Err(error) = opened {
        println!("    open it yourself: {error}");
    }
}

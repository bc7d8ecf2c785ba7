//! A program at its own pseudo-terminal, and an emulator that tracks the screen.
#![allow(dead_code, reason = "each test uses a part")]

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    num::NonZeroU16,
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    process::{Child, Command, ExitStatus},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::{
    fs::{OFlags, fcntl_setfl},
    process::{Pid, Signal, ioctl_tiocsctty, kill_process, setsid},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcgetattr, tcsetwinsize},
};

/// Timeout longer than anything here takes, and short enough to fail a hanging test.
pub const LONG: Duration = Duration::from_secs(60);

/// A program that runs at a terminal. Dropping it kills the program.
pub struct Session {
    child: Child,
    ours: File,
    /// The program's end, kept open so that the terminal outlives the program and its final settings can be read.
    theirs: Option<File>,
    screen: vt100::Parser,
    settings: String,
}

impl Session {
    /// Starts the command at a terminal of that many lines and columns.
    pub fn start(command: &mut Command, (lines, columns): (u16, u16)) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).expect("a pseudo-terminal");
        grantpt(&ours).expect("it is ours");
        unlockpt(&ours).expect("it is unlocked");
        fcntl_setfl(&ours, OFlags::RDWR | OFlags::NONBLOCK).expect("reading does not wait");
        let name = ptsname(&ours, Vec::new()).expect("it has a name");
        let theirs = OpenOptions::new()
            .read(true)
            .write(true)
            .open(OsStr::from_bytes(name.as_bytes()))
            .expect("its other side");
        let size = Winsize {
            ws_row: lines,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&theirs, size).expect("it has a size");
        let settings = settings(&theirs);
        let end = || theirs.try_clone().expect("a descriptor");
        command
            .env("TERM", "xterm-256color")
            .stdin(end())
            .stdout(end())
            .stderr(end());
        // SAFETY: between fork and exec it only makes system calls.
        unsafe {
            command.pre_exec(|| {
                setsid()?;
                ioctl_tiocsctty(rustix::stdio::stdin())?;
                Ok(())
            });
        }
        let child = command.spawn().expect("the binary runs");
        // The command holds descriptors of its own, which would keep the terminal open.
        for close in [Command::stdin, Command::stdout, Command::stderr] {
            close(command, std::process::Stdio::null());
        }
        Self {
            child,
            ours: ours.into(),
            theirs: Some(theirs),
            screen: vt100::Parser::new(size_of(lines), size_of(columns), 0),
            settings,
        }
    }

    /// Types keys.
    pub fn keys(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).expect("it is read");
    }

    /// Waits until a condition on the screen holds.
    pub fn until(&mut self, what: &str, holds: impl Fn(&vt100::Screen) -> bool) {
        let deadline = Instant::now() + LONG;
        loop {
            self.read();
            if holds(self.screen.screen()) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "not on the screen: {what}\n{}",
                self.text()
            );
            sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a text is on the screen.
    pub fn sees(&mut self, text: &str) {
        self.until(text, |screen| screen.contents().contains(text));
    }

    /// Waits until a text is no longer on the screen.
    pub fn sees_no(&mut self, text: &str) {
        self.until(&format!("no more {text}"), |screen| {
            !screen.contents().contains(text)
        });
    }

    /// Returns the text on the screen.
    pub fn text(&self) -> String {
        self.screen.screen().contents()
    }

    /// Returns the screen.
    pub fn screen(&self) -> &vt100::Screen {
        self.screen.screen()
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it runs");
    }

    /// Closes the terminal, like closing its window.
    pub fn hang_up(mut self) -> ExitStatus {
        self.theirs = None;
        // This is the last descriptor of our side.
        let null = File::open("/dev/null").expect("a null");
        drop(std::mem::replace(&mut self.ours, null));
        self.ended()
    }

    /// Waits for the end. Returns the status and the terminal's text after it.
    pub fn end(mut self) -> (ExitStatus, String) {
        let status = self.ended();
        self.read();
        let screen = self.screen.screen();
        assert!(
            !screen.alternate_screen(),
            "the other screen is shown still"
        );
        assert!(!screen.hide_cursor(), "the cursor is hidden still");
        let theirs = self.theirs.as_ref().expect("it is open");
        assert_eq!(settings(theirs), self.settings);
        (status, self.text())
    }

    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            self.read();
            sleep(Duration::from_millis(20));
        }
    }

    /// Feeds the program's output to the emulator.
    fn read(&mut self) {
        let mut buffer = [0; 4096];
        loop {
            match self.ours.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => self.screen.process(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size_of(cells: u16) -> NonZeroU16 {
    NonZeroU16::new(cells).expect("a terminal has a size")
}

/// Formats the terminal's modes of input and output.
fn settings(terminal: &File) -> String {
    let settings = tcgetattr(terminal).expect("a terminal");
    format!(
        "{:?} {:?} {:?} {:?}",
        settings.input_modes, settings.output_modes, settings.control_modes, settings.local_modes
    )
}

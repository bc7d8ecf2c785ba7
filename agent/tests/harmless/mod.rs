//! A shell that tries out printed commands: no name in them may execute anything.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, Stdio},
};

/// Commands in a shell of their own. None of them may make a file.
pub struct Harmless {
    dir: tempfile::TempDir,
    path: tempfile::TempDir,
}

impl Harmless {
    /// Makes a shell that finds no program but `touch`, which malicious names run, and `id`.
    pub fn new() -> Self {
        let made = Self {
            dir: tempfile::tempdir().expect("a directory"),
            path: tempfile::tempdir().expect("a directory"),
        };
        let allow = |path: &Path, bits| {
            fs::set_permissions(path, fs::Permissions::from_mode(bits)).expect("a mode");
        };
        for (name, script) in [("touch", ": > \"$1\""), ("id", "echo 0")] {
            let file = made.path.path().join(name);
            fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("a program");
            allow(&file, 0o755);
        }
        allow(made.path.path(), 0o755);
        allow(made.dir.path(), 0o777);
        made
    }

    /// Runs a command as nobody. As root it would really change this host.
    pub fn run(&self, command: &str) -> Result<(), String> {
        for flags in [&["-n", "-c"][..], &["-c"]] {
            let mut shell = Command::new("/bin/sh");
            shell
                .args(flags)
                .arg(command)
                .current_dir(self.dir.path())
                .env_clear()
                .env("PATH", self.path.path())
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .stdout(Stdio::null());
            if rustix::process::geteuid().is_root() {
                shell.uid(65534).gid(65534);
            }
            let status = shell.status().expect("sh runs");
            if flags.len() == 2 && !status.success() {
                return Err(format!("no shell takes it: {command:?}"));
            }
        }
        let made = fs::read_dir(self.dir.path()).expect("it is there");
        let made: Vec<_> = made.flatten().map(|entry| entry.file_name()).collect();
        if made.is_empty() {
            Ok(())
        } else {
            for name in &made {
                let _ = fs::remove_file(self.dir.path().join(name));
            }
            Err(format!("{command:?} made {made:?}"))
        }
    }
}

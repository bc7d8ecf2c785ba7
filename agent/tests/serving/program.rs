//! Server programs with captured output, which end when dropped.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

/// A running program.
pub struct Program {
    child: Child,
    folder: TempDir,
}

impl Program {
    /// Starts it, or returns the error where the program is not installed.
    pub fn start(command: &mut Command) -> Result<Self, std::io::Error> {
        let folder = tempfile::tempdir().expect("a folder");
        let output = fs::File::create(folder.path().join("output")).expect("a file");
        let errors = output.try_clone().expect("a second descriptor");
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()?;
        Ok(Self { child, folder })
    }

    /// Returns its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns its output and log.
    pub fn said(&self) -> String {
        let output: PathBuf = self.folder.path().join("output");
        fs::read_to_string(output).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).expect("a pid fits");
        // SAFETY: our own child, which was not waited for, so that the pid is still its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let _ = self.child.wait();
    }
}

//! Programs that serve something: started with an output of their own, ended when dropped.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

/// A program that runs.
pub struct Program {
    child: Child,
    folder: TempDir,
}

impl Program {
    /// Starts it; none, with the reason, where there is no such program.
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

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed and logged.
    pub fn said(&self) -> String {
        let output: PathBuf = self.folder.path().join("output");
        fs::read_to_string(output).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).expect("a pid fits");
        // SAFETY: a child of ours that was not waited for.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let _ = self.child.wait();
    }
}

//! Processes beside the measurement, which end with it.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::load;
use crate::shell;

/// A child process. Dropping it ends the process.
pub struct Process(Child);

impl Process {
    /// Starts a child that ends when this program does.
    pub fn start(command: &mut Command) -> Result<Self> {
        // SAFETY: prctl is safe to call between fork and exec.
        unsafe {
            // Without this signal the child would outlive a killed parent.
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("could not start `{}`", shell::line(command)))?;
        Ok(Self(child))
    }

    /// Takes the child's standard output.
    pub fn output(&mut self) -> Option<std::process::ChildStdout> {
        self.0.stdout.take()
    }

    /// Returns an error if the child has ended.
    pub fn check(&mut self, name: &str) -> Result<()> {
        if let Some(status) = self.0.try_wait().context("no news of a child")? {
            bail!("{name} ended with {status}; its last words are above");
        }
        Ok(())
    }

    /// Returns the CPU time of all its threads so far, in nanoseconds.
    pub fn cpu_ns(&self) -> Result<u64> {
        load::process_cpu_ns(self.0.id())
    }

    /// Returns its resident memory in bytes: all of it, and without the part it shares with the kernel or files.
    pub fn resident(&self) -> Result<(u64, u64)> {
        let path = format!("/proc/{}/smaps_rollup", self.0.id());
        let text = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
        let field =
            |name| kibibytes(&text, name).with_context(|| format!("{path} has no line `{name}`"));
        Ok((field("Rss:")? * 1024, field("Anonymous:")? * 1024))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGTERM is enough: the process has nothing to lose.
        // SAFETY: a child of this process that was not waited for, so the id is still its own.
        unsafe { libc::kill(self.0.id().cast_signed(), libc::SIGTERM) };
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn kibibytes(smaps: &str, name: &str) -> Option<u64> {
    let line = smaps.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::kibibytes;

    #[test]
    fn memory_is_read_in_kibibytes() {
        let text = "00-ff ---p [rollup]\nRss:                2948 kB\nAnonymous:   12 kB\n";
        assert_eq!(kibibytes(text, "Rss:"), Some(2948));
        assert_eq!(kibibytes(text, "Anonymous:"), Some(12));
        assert_eq!(kibibytes(text, "Swap:"), None);
    }
}

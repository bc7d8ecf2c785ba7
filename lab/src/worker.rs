//! A process that does one step at a time, so that all it does between two scrapes is that step.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::FromRawFd as _,
};

use anyhow::{Context as _, Result};

use crate::{
    Group,
    task::{self, Task, system},
};

/// A process that waits for orders and answers each step with a number.
#[derive(Debug)]
pub struct Worker {
    task: Task,
    tell: File,
    answer: File,
}

impl Worker {
    /// Starts it in a group. `steps` does the step of that number, and returns the answer.
    ///
    /// # Errors
    /// When it cannot be forked.
    pub fn start(group: &Group, mut steps: impl FnMut(u8) -> Result<u64>) -> Result<Self> {
        let procs = group.entrance()?;
        let (mut orders, tell) = pipe()?;
        let (answer, mut report) = pipe()?;
        let task = task::fork(move || {
            (&procs).write_all(b"0")?;
            let mut step = [0];
            while orders.read(&mut step)? == 1 {
                report.write_all(&steps(step[0])?.to_ne_bytes())?;
            }
            Ok(())
        })?;
        Ok(Self { task, tell, answer })
    }

    /// The process.
    #[must_use]
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// Does a step and waits for its answer.
    ///
    /// # Errors
    /// When the step failed.
    pub fn step(&mut self, step: u8) -> Result<u64> {
        self.begin(step)?;
        self.end()
    }

    /// Begins a step.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn begin(&mut self, step: u8) -> Result<()> {
        self.tell.write_all(&[step]).context("a worker has ended")
    }

    /// Waits for the answer of the step that was begun.
    ///
    /// # Errors
    /// When the step failed.
    pub fn end(&mut self) -> Result<u64> {
        let mut number = [0; 8];
        self.answer
            .read_exact(&mut number)
            .context("a worker failed in its step")?;
        Ok(u64::from_ne_bytes(number))
    }
}

/// The calling thread's minor faults so far (getrusage(2)).
#[must_use]
pub fn minor_faults() -> u64 {
    // SAFETY: all zeros is a valid value, and the pointer is to it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        usage
    };
    usage.ru_minflt.cast_unsigned()
}

fn pipe() -> Result<(File, File)> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors, which are ours then.
    unsafe {
        system(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC)).context("cannot make a pipe")?;
        Ok((File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])))
    }
}

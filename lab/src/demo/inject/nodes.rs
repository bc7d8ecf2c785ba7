//! Threads and memory on different NUMA nodes.

use std::{thread::sleep, time::Duration};

use anyhow::{Context as _, Result};

use super::{During, Scene};
use crate::task;

/// Time after which every thread is moved on.
const STAY: Duration = Duration::from_millis(10);

impl Scene<'_> {
    /// Every thread of the service is moved to the other node and back, again and again.
    pub(super) fn to_and_fro(&mut self, work: During) -> Result<()> {
        let far = self.far()?;
        let (home, threads) = (self.service.cpus.clone(), self.service.task().threads());
        self.service.roam(true)?;
        let moved = threads.clone();
        let mover = task::fork(move || {
            for cpus in [&far, &home].into_iter().cycle() {
                moved.iter().try_for_each(|tid| task::pin(*tid, cpus))?;
                sleep(STAY);
            }
            Ok(())
        })?;
        let done = work(self.service);
        drop(mover);
        self.home(&threads)?;
        self.service.roam(false)?;
        done
    }

    /// Every thread is moved to the other node once; the memory stays.
    pub(super) fn away(&mut self, work: During) -> Result<()> {
        let far = self.far()?;
        let threads = self.service.task().threads();
        threads.iter().try_for_each(|tid| task::pin(*tid, &far))?;
        let done = work(self.service);
        self.home(&threads)?;
        done
    }

    fn far(&self) -> Result<Vec<usize>> {
        let far = self.place.far.as_ref().context("one node only")?;
        Ok(far.cpus.clone())
    }

    fn home(&self, threads: &[libc::pid_t]) -> Result<()> {
        let cpus = &self.service.cpus;
        threads.iter().try_for_each(|tid| task::pin(*tid, cpus))
    }
}

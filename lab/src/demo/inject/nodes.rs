//! Threads and memory on different NUMA nodes.

use std::{thread::sleep, time::Duration};

use anyhow::{Context as _, Result};

use super::{During, Scene};
use crate::task;

/// Time that every thread stays on a node.
const STAY: Duration = Duration::from_millis(10);

impl Scene<'_> {
    /// Moves every thread of the service to the other node and back, again and again.
    pub(super) fn bounced(&mut self, work: During) -> Result<()> {
        let (far, home) = (self.far()?, self.service.cpus.clone());
        let threads = self.service.threads();
        self.service.roam(true)?;
        let served = threads.clone();
        let bouncer = task::fork(move || {
            for cpus in [&far, &home].into_iter().cycle() {
                put(&served, cpus)?;
                sleep(STAY);
            }
            Ok(())
        })?;
        let done = work(self.service);
        drop(bouncer);
        put(&threads, &self.service.cpus)?;
        self.service.roam(false)?;
        done
    }

    /// Moves every thread to the other node once; the memory stays.
    pub(super) fn away(&mut self, work: During) -> Result<()> {
        let threads = self.service.threads();
        put(&threads, &self.far()?)?;
        let done = work(self.service);
        put(&threads, &self.service.cpus)?;
        done
    }

    fn far(&self) -> Result<Vec<usize>> {
        let far = self.place.far.as_ref().context("one node only")?;
        Ok(far.cpus.clone())
    }
}

/// Pins each thread to a CPU, to one each as far as there are as many.
fn put(threads: &[libc::pid_t], cpus: &[usize]) -> Result<()> {
    let mut cpus = cpus.iter().cycle();
    let mut next = || cpus.next().context("no CPU");
    let mut each = threads.iter();
    each.try_for_each(|tid| task::pin(*tid, &[*next()?]))
}

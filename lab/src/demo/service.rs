//! The workload: a service whose threads work in short bursts, and now and then write a checkpoint.

mod inside;

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{
    Group, Worker, World,
    limit::{self, Limit, Source},
};
use inside::{Inside, Order, Settings};

/// Weight of the service, in percent of that of others: high, because other work of this machine is not what is shown.
pub const WEIGHT: u32 = 1600;

/// Step that starts the service in its own process.
const START: u8 = 0;

/// A running service; ended, with its cgroups, when dropped.
#[derive(Debug)]
pub struct Service {
    worker: Worker,
    limit: Option<Limit>,
    /// Its cgroup.
    pub group: Group,
    /// The CPUs it runs on.
    pub cpus: Vec<usize>,
    _state: Source,
}

impl Service {
    /// Starts it in a cgroup of that name, on these CPUs, with its memory on this NUMA node if there are several. On
    /// return all its state is in memory.
    ///
    /// # Errors
    /// When the cgroup or the process cannot be made, or the state cannot be read.
    pub fn start(world: &World, name: &str, cpus: &[usize], node: Option<u32>) -> Result<Self> {
        let group = Group::named(name)?;
        // Without the controller all weigh the same.
        let _ = group.weigh(WEIGHT);
        let limit = limit::can(world)
            .then(|| Limit::none(&group))
            .transpose()?
            .filter(Limit::is_there);
        let state = Source::find(world, inside::STATE)?;
        let mut entrance = limit.as_ref().map(Limit::entrance).transpose()?;
        let settings = Settings {
            cpus: cpus.to_vec(),
            node,
            state: state.path.clone(),
        };
        let mut inside: Option<Inside> = None;
        let mut worker = Worker::start(&group, move |number| {
            if number == START {
                entrance
                    .take()
                    .map_or(Ok(()), |entrance| entrance.enter())?;
                inside = Some(Inside::start(&settings)?);
                return Ok(0);
            }
            let inside = inside.as_ref().context("the service has not started")?;
            inside.obey(number)
        })?;
        worker.step(START).context("the service does not start")?;
        Ok(Self {
            worker,
            limit,
            group,
            cpus: cpus.to_vec(),
            _state: state,
        })
    }

    /// Ids of the threads that serve: one for each of its CPUs, in their order.
    #[must_use]
    pub fn threads(&self) -> Vec<libc::pid_t> {
        let process = self.worker.task();
        let mut threads = process.threads();
        threads.retain(|tid| *tid != process.pid());
        threads
    }

    /// The limit of its memory; `None` where there is no memory controller.
    #[must_use]
    pub fn limit(&self) -> Option<&Limit> {
        self.limit.as_ref()
    }

    /// Takes the longest checkpoint since the last call; `None` if none was written.
    ///
    /// # Errors
    /// When the service has ended.
    pub fn checkpoint(&mut self) -> Result<Option<Duration>> {
        let ns = self.worker.step(Order::Checkpoint as u8)?;
        Ok((ns != 0).then(|| Duration::from_nanos(ns)))
    }

    /// Starts many threads that always want to run, or ends them.
    ///
    /// # Errors
    /// When the service has ended.
    pub fn crowd(&mut self, on: bool) -> Result<()> {
        self.tell(if on { Order::Crowd } else { Order::Alone })
    }

    /// Lets its memory be wherever a thread first touches it, or on its own node only.
    ///
    /// # Errors
    /// When the service has ended.
    pub fn roam(&mut self, on: bool) -> Result<()> {
        self.tell(if on { Order::Roam } else { Order::Stay })
    }

    /// Has it compact the machine's memory in its own time, or leave it alone.
    ///
    /// # Errors
    /// When the service has ended.
    pub fn compact(&mut self, on: bool) -> Result<()> {
        self.tell(if on { Order::Compact } else { Order::Leave })
    }

    fn tell(&mut self, order: Order) -> Result<()> {
        self.worker.step(order as u8).map(|_| ())
    }
}

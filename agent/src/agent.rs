//! The agent: probes in the kernel, the owners of their counts, and the exposition of both.

use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use serde::Serialize;
use stallscope_ebpf::Host;
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    attribution::{
        owners::{LabelSet, Owners},
        pods::{
            PodTrees,
            names::{Chosen, Names},
        },
    },
    doctor,
    host::{
        cgroup::{self, Controller, Hierarchy, Watch},
        deadline::{Reads, at},
        heap::trim_heap,
        topology::Topology,
    },
    ledger::{
        Ledger,
        history::{self, History},
        rows::Rows,
    },
    probe::{Kernel, Probe, Running, State, Status, overhead::Overhead},
    probes::PROBES,
};

pub mod actor;
mod answers;
mod drop_capabilities;
mod families;
mod grow;
mod host;
mod map_bound;
mod record;
mod reserved;
mod scrape;
mod series;
mod worker;

pub use answers::{Explaining, Ranking, Unread};
pub use families::METRICS;
pub use host::tables;
use host::{MAX_SLOTS, SEALED_SLOTS, check_cpus, host, kernel};
pub use map_bound::map_bound;
use reserved::Reserved;
pub use series::{OwnerFamily, owner_families, series_bound};

/// Settings of an agent.
#[derive(Clone, Debug)]
pub struct Config {
    /// Mount point of the cgroup hierarchy; found automatically if not given.
    pub cgroup_root: Option<PathBuf>,
    /// Controller whose cgroups are followed; chosen automatically if not given.
    pub controller: Option<Controller>,
    /// Initial number of slots; derived from the number of cgroups if not given.
    pub slots: Option<u32>,
    /// Maximum number of owners with series of their own.
    pub owners: usize,
    /// Maximum number of series in a scrape; owners with the least activity are folded until it fits.
    pub series: usize,
    /// The labels of owners.
    pub labels: LabelSet,
    /// Source of pods' names.
    pub names: Chosen,
    /// Cgroup trees that are followed as pods.
    pub trees: PodTrees,
    /// True if the tables cannot be enlarged later (see [`Agent::seal`]), so that they have to be large enough from the
    /// start.
    pub sealed: bool,
    /// Hooks to treat as if this kernel refused them.
    pub disabled_hooks: Vec<String>,
    /// Limits of the history; a length of zero for no history.
    pub history: history::Limits,
    /// Host's root directory, from which the files of cgroups and settings are read.
    pub root: PathBuf,
    /// Directory from which the topology is read: `/sys`, or another tree of the same form.
    pub sys: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cgroup_root: None,
            controller: None,
            slots: None,
            owners: 4096,
            series: 100_000,
            labels: LabelSet::default(),
            names: Chosen::default(),
            trees: PodTrees::default(),
            sealed: false,
            disabled_hooks: Vec::new(),
            history: history::Limits::default(),
            root: PathBuf::from("/"),
            sys: PathBuf::from("/sys"),
        }
    }
}

/// A probe and its counts.
struct Instance {
    probe: &'static Probe,
    status: Status,
    running: Option<Running>,
    ledger: Option<Ledger>,
    rows: Rows,
    /// Sizes of its tables.
    host: Host,
    /// Counts of tables that were replaced by larger ones.
    followed: Box<[u64]>,
}

impl Instance {
    /// Reads the counts into the ledger; `more` has counts that the collector does not read.
    fn read(&mut self, owners: &mut Owners, more: Option<&Rows>) {
        let (Some(running), Some(ledger)) = (&mut self.running, &mut self.ledger) else {
            return;
        };
        self.rows.clear(running.collector.columns().width);
        running.collector.read(&mut self.rows);
        for (sum, part) in self.rows.retired().iter_mut().zip(&self.followed) {
            *sum = sum.wrapping_add(*part);
        }
        if let Some(more) = more {
            self.rows.add(more);
        }
        ledger.update(&self.rows, |id| owners.account(id));
    }
}

/// A running agent.
pub struct Agent {
    config: Config,
    topology: Arc<Topology>,
    owners: Owners,
    instances: Vec<Instance>,
    overhead: Overhead,
    doctor: doctor::Repeated,
    /// None when the agent keeps no history.
    history: Option<History>,
    recorder: record::Recorder,
    host: Host,
    started: Instant,
    /// Time at which [`Agent::tick`] last read everything; none before the first time.
    expired: Option<Instant>,
    grown: u64,
    reserved: Reserved,
    /// True once the capabilities are dropped.
    sealed: bool,
    refused_to_grow: bool,
    buffer: BytesMut,
    registry: prometheus::Registry,
    reads: Reads,
}

/// Time for which a look waits for a thread that reads files; usually the result is there at once.
const MOMENT: Duration = Duration::from_millis(100);

/// Report of `stallscope status`.
#[derive(Clone, Debug, Serialize)]
pub struct StatusReport {
    /// Version of the agent.
    pub version: &'static str,
    /// `uname -r`.
    pub kernel: String,
    /// The cgroup hierarchy and controller, with the reason for the choice, and with the reason for full scans, if any.
    pub cgroups: String,
    /// Source of pods' names, and its state.
    pub names: String,
    /// Cgroup trees that are followed as pods.
    pub trees: String,
    /// Slots of the kernel-side tables.
    pub slots: u32,
    /// Kernel memory of all maps, in bytes.
    pub map_bytes: u64,
    /// The agent's effective capabilities; none once they are dropped.
    pub capabilities: Vec<String>,
    /// Status of each probe.
    pub probes: Vec<Status>,
}

impl Agent {
    /// Reads the host and loads the probes into the kernel.
    ///
    /// # Errors
    /// When something is missing that all probes need. Probes that fail by themselves are reported by
    /// [`Agent::status`].
    pub fn start(config: Config, registry: prometheus::Registry) -> anyhow::Result<Self> {
        let topology = Arc::new(Topology::read(&config.sys)?);
        check_cpus(&topology, aya::util::nr_cpus().map_err(|(_, error)| error)?)?;
        let hierarchy = match &config.cgroup_root {
            Some(root) => Hierarchy::at(root, config.controller),
            None => Hierarchy::discover(std::path::Path::new("/proc"), config.controller),
        }?;
        tracing::info!(
            mount = %hierarchy.mount().display(),
            controller = %hierarchy.controller(),
            reason = hierarchy.reason(),
            "following cgroups",
        );
        let writable = cgroup::writable(std::path::Path::new("/proc"));
        if !writable.is_empty() {
            tracing::warn!(
                mounts = ?writable,
                "these cgroup mounts of the host are writable in here, which the agent has no use for and whoever gets \
                 into it has: mount each controller by itself, read-only (docs/privileges.md)",
            );
        }
        let watch = Watch::new(hierarchy)?;
        let names = Names::new(config.names.clone());
        let mut owners = Owners::new(
            watch,
            names,
            config.labels.clone(),
            config.trees.clone(),
            config.owners,
        );
        owners.poll(Instant::now(), &|_| 0)?;
        // Nothing has been counted yet, so no totals have to be folded.
        owners.evicted();
        let wanted = config.slots.unwrap_or_else(|| {
            let spare = u32::try_from(owners.cgroups().count() * 4).unwrap_or(MAX_SLOTS);
            spare.max(if config.sealed { SEALED_SLOTS } else { 0 })
        });
        let host = host(&topology, wanted, config.slots.is_some());
        let now = Instant::now();
        let mut agent = Self {
            config,
            topology,
            owners,
            instances: Vec::new(),
            overhead: Overhead::new(),
            doctor: doctor::Repeated::default(),
            history: None,
            recorder: record::Recorder::default(),
            host,
            started: now,
            expired: None,
            grown: 0,
            reserved: Reserved::new(&host),
            sealed: false,
            refused_to_grow: false,
            buffer: BytesMut::new(),
            reads: Reads::register(&registry)?,
            registry,
        };
        agent.load()?;
        let limits = agent.config.history;
        let keeps = !limits.length.is_zero();
        // The history starts after loading: otherwise its first second would contain the cost of loading.
        agent.history = keeps.then(|| History::new(limits, Instant::now()));
        Ok(agent)
    }

    /// Loads all probes into the kernel.
    fn load(&mut self) -> anyhow::Result<()> {
        at(|| "loading programs and tables into the kernel");
        let kernel = self.kernel(self.host)?;
        for probe in PROBES {
            let (status, running) = probe.start(&kernel);
            log(&status);
            let columns = running.as_ref().map(|running| running.collector.columns());
            self.instances.push(Instance {
                probe,
                status,
                running,
                ledger: columns.map(|columns| Ledger::new(columns, Owners::REMOVED)),
                rows: Rows::default(),
                host: self.host,
                followed: vec![0; columns.map_or(0, |columns| columns.width)].into(),
            });
        }
        drop(kernel);
        self.recorder = record::Recorder::new(&self.instances);
        trim_heap();
        Ok(())
    }

    fn kernel(&self, host: Host) -> anyhow::Result<Kernel> {
        let disabled = self.config.disabled_hooks.clone();
        kernel(self.owners.hierarchy(), host, &self.topology, disabled)
    }

    /// Starts the source of pods' names.
    ///
    /// # Errors
    /// When it can never work with its settings. Failures that may pass are reported by its metrics.
    pub fn start_names(&mut self) -> anyhow::Result<()> {
        self.owners.start_names(&self.reads, MOMENT)
    }

    /// Returns the host's topology.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Starts to audit the node below [`Config::root`], and to export the findings.
    ///
    /// # Errors
    /// When that is not a directory.
    pub fn start_doctor(&self, every: Duration) -> anyhow::Result<()> {
        let mut live = doctor::Live::default();
        live.learn_types();
        live.learn_status(&serde_json::to_value(self.status())?);
        let root = self.config.root.clone();
        self.doctor.start(root, every, live, &self.reads)
    }

    /// Returns the threads that read files for the agent.
    #[must_use]
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// Answers the programs about new cgroups, records the history and drops old cgroups. Must be called about once a
    /// second.
    pub fn tick(&mut self) {
        let now = Instant::now();
        self.reads.check(now);
        at(|| "following cgroups");
        match self.follow(now) {
            // A new cgroup may get the slot of a removed one, whose counts would then have no name.
            Ok(true) => self.read(),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "cannot follow cgroups"),
        }
        at(|| "reading CPU limits");
        for instance in &mut self.instances {
            if let Some(running) = &mut instance.running {
                running.collector.answer(&|id| self.owners.group_of(id));
                running.collector.watch(&self.owners, now);
                if let Some(log) = &mut running.log {
                    log.flush();
                }
            }
        }
        self.overhead.tick(now);
        let read = self.record(now);
        self.give_reserved_slots();
        // Often enough that 32-bit counters cannot wrap unseen. Scrapes read more often.
        let due = |then| now.saturating_duration_since(then) >= Duration::from_secs(30);
        if self.expired.is_none_or(due) || self.owners.crowded() {
            self.expired = Some(now);
            if !read {
                self.read();
            }
            for instance in &mut self.instances {
                instance.ledger.iter_mut().for_each(Ledger::age);
            }
            self.expire(now);
            if let Err(error) = self.grow() {
                tracing::error!(
                    error = format!("{error:#}"),
                    "cannot enlarge the kernel's tables"
                );
            }
        }
    }

    /// Returns the time until the next call of [`Agent::tick`] is due.
    #[must_use]
    pub fn next_tick(&self) -> Duration {
        let history = self.history.as_ref();
        let second = history.map_or(Duration::from_secs(1), |h| h.next(Instant::now()));
        self.overhead.due().map_or(second, |due| due.min(second))
    }

    /// Returns a descriptor that becomes readable when cgroups come or go; none where only full scans find that.
    #[must_use]
    pub fn changes(&self) -> Option<AsyncFd<OwnedFd>> {
        let fd = self.owners.changes()?.try_clone_to_owned().ok()?;
        // SAFETY: the AsyncFd owns this descriptor, and nothing takes it out or closes it.
        unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.ok()
    }

    /// Returns whether the descriptor of [`Agent::changes`] still reports changes.
    #[must_use]
    pub fn follows_changes(&self) -> bool {
        self.owners.changes().is_some()
    }

    /// Reads the counts of all probes.
    fn read(&mut self) {
        at(|| "reading the kernel's tables");
        for instance in &mut self.instances {
            instance.read(&mut self.owners, None);
        }
    }

    fn expire(&mut self, now: Instant) {
        let (owners, cgroups) = self.owners.expire(now);
        for owner in &owners {
            self.fold_history(*owner, Owners::REMOVED);
        }
        for instance in &mut self.instances {
            if let Some(running) = &mut instance.running {
                running.collector.forget(&cgroups, &mut instance.rows);
            }
            if let Some(ledger) = &mut instance.ledger {
                for owner in &owners {
                    ledger.fold(*owner, Owners::REMOVED);
                }
                ledger.forget(&cgroups, &instance.rows);
            }
        }
    }

    /// Returns the state of each probe, and of the agent.
    #[must_use]
    pub fn status(&self) -> StatusReport {
        let hierarchy = self.owners.hierarchy();
        StatusReport {
            version: env!("CARGO_PKG_VERSION"),
            kernel: crate::host::preflight::kernel_release(),
            cgroups: format!(
                "{} by controller {} at {}: {}{}",
                hierarchy.mode().name(),
                hierarchy.controller(),
                hierarchy.mount().display(),
                hierarchy.reason(),
                self.owners
                    .fallback()
                    .map(|why| format!("; {why}"))
                    .unwrap_or_default()
            ),
            names: self.owners.names().to_string(),
            trees: self.owners.trees(),
            slots: self.host.slots,
            map_bytes: self
                .running()
                .map(|(_, r)| crate::probe::overhead::map_bytes(r))
                .sum(),
            capabilities: crate::host::capabilities::effective(),
            probes: self.instances.iter().map(|i| i.status.clone()).collect(),
        }
    }

    /// Checks that the agent has something to serve.
    ///
    /// # Errors
    /// When it has not, with the reason.
    pub fn ready(&self) -> Result<(), String> {
        if self.running().next().is_some() {
            return match self.expired {
                Some(_) => Ok(()),
                None => Err("the first snapshot is yet to be taken".to_owned()),
            };
        }
        let reasons: Vec<_> = self
            .instances
            .iter()
            .map(|i| format!("{}: {}", i.probe.name, i.status.state.detail()))
            .collect();
        Err(format!("no probe is attached: {}", reasons.join("; ")))
    }

    /// Returns the running probes with their names, for measurements of their cost.
    pub fn running_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut Running)> {
        self.instances
            .iter_mut()
            .filter_map(|i| i.running.as_mut().map(|r| (i.probe.name, r)))
    }

    fn running(&self) -> impl Iterator<Item = (&'static str, &Running)> {
        self.instances
            .iter()
            .filter_map(|i| i.running.as_ref().map(|r| (i.probe.name, r)))
    }
}

fn log(status: &Status) {
    let (probe, detail) = (status.probe, status.state.detail());
    match status.state {
        State::Attached { .. } => tracing::info!(probe, by = detail, "attached"),
        State::Unsupported { .. } => tracing::info!(probe, reason = detail, "unsupported"),
        State::Failed { .. } => tracing::error!(probe, error = detail, "failed"),
    }
    for hook in &status.hooks {
        let (hook, detail) = (hook.hook, hook.state.detail());
        tracing::debug!(probe, hook, detail, "hook");
    }
}

//! The agent's own cost: time of its programs, memory of its maps.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{Map, MapData},
    sys::{Stats, enable_stats},
};

use crate::{
    exposition::{
        Encoder,
        metric::{Kind, Metric, Scope, Value},
    },
    probe::Running,
};

/// The families written here.
pub static METRICS: [&Metric; 4] = [
    &PROGRAM_RUNS,
    &PROGRAM_SECONDS,
    &PROGRAM_SAMPLED,
    &MAP_BYTES,
];

static PROGRAM_RUNS: Metric = Metric {
    name: "stallscope_program_runs_total",
    kind: Kind::Counter,
    help: "Runs of a BPF program while the kernel's BPF statistics were on, which is for a tenth of a second in ten.",
    labels: &["probe", "program"],
    scope: Scope::Host,
    source: "bpf(2) `BPF_ENABLE_STATS`, `bpf_prog_info.run_cnt`",
};

static PROGRAM_SECONDS: Metric = Metric {
    name: "stallscope_program_run_seconds_total",
    kind: Kind::Counter,
    help: "Time of those runs; divided by their number it is the cost of one, the kernel's own clock reads included.",
    labels: &["probe", "program"],
    scope: Scope::Host,
    source: "bpf(2) `BPF_ENABLE_STATS`, `bpf_prog_info.run_time_ns`",
};

static PROGRAM_SAMPLED: Metric = Metric {
    name: "stallscope_program_sampled_seconds_total",
    kind: Kind::Counter,
    help: "Time for which the kernel's BPF statistics were on.",
    labels: &[],
    scope: Scope::Host,
    source: "the agent",
};

static MAP_BYTES: Metric = Metric {
    name: "stallscope_map_memory_bytes",
    kind: Kind::Gauge,
    help: "Kernel memory of a BPF map.",
    labels: &["probe", "map"],
    scope: Scope::Host,
    source: "`/proc/self/fdinfo/*`: memlock",
};

/// Period at which the statistics are switched on, and time for which they stay on. They cost a
/// program about as much as it does itself, so they are a sample.
const PERIOD: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_millis(100);

/// Samples the kernel's BPF statistics.
#[derive(Default)]
pub struct Overhead {
    sampling: Option<(OwnedFd, Instant)>,
    next: Option<Instant>,
    sampled: Duration,
    /// Runs, and their time, of programs that newer ones have replaced, by probe and program.
    before: BTreeMap<(&'static str, String), (u64, Duration)>,
}

impl Overhead {
    /// Nothing sampled yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the time until [`Overhead::tick`] wants to be called, if that is before the usual
    /// second is over.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.sampling
            .as_ref()
            .map(|(_, since)| WINDOW.saturating_sub(since.elapsed()))
    }

    /// Switches the statistics on or off when it is time.
    pub fn tick(&mut self, now: Instant) {
        if let Some((_, since)) = &self.sampling {
            if now.saturating_duration_since(*since) >= WINDOW {
                self.sampled += now.saturating_duration_since(*since);
                self.sampling = None;
            }
        } else if self.next.is_none_or(|next| now >= next) {
            self.next = Some(now + PERIOD);
            // Since 5.8, with CAP_SYS_ADMIN up to 6.x: without it the cost stays unpublished.
            match enable_stats(Stats::RunTime) {
                Ok(fd) => self.sampling = Some((fd, now)),
                Err(error) => tracing::debug!(%error, "no BPF statistics"),
            }
        }
    }

    /// Keeps the cost of a probe's programs when newer ones replace them.
    pub fn keep(&mut self, probe: &'static str, ended: &Ebpf) {
        for (name, program) in ended.programs() {
            if let Ok(info) = program.info() {
                let sums = self.before.entry((probe, name.to_owned())).or_default();
                sums.0 += info.run_count();
                sums.1 += info.run_time();
            }
        }
    }

    /// Writes the families.
    pub fn encode<'a>(
        &self,
        running: impl Iterator<Item = (&'static str, &'a Running)>,
        out: &mut Encoder,
    ) {
        let running: Vec<_> = running.collect();
        let mut programs = self.before.clone();
        for (probe, running) in &running {
            for (name, program) in running.ebpf.programs() {
                if let Ok(info) = program.info() {
                    let sums = programs.entry((*probe, name.to_owned())).or_default();
                    sums.0 += info.run_count();
                    sums.1 += info.run_time();
                }
            }
        }
        if !self.sampled.is_zero() {
            let mut family = out.family(&PROGRAM_RUNS);
            for ((probe, name), (runs, _)) in &programs {
                family.sample(None, &[probe, name], Value::Count(*runs));
            }
            let mut family = out.family(&PROGRAM_SECONDS);
            for ((probe, name), (_, time)) in &programs {
                family.sample(
                    None,
                    &[probe, name],
                    Value::Nanoseconds(time.as_nanos() as u64),
                );
            }
            let sampled = Value::Nanoseconds(self.sampled.as_nanos() as u64);
            out.family(&PROGRAM_SAMPLED).sample(None, &[], sampled);
        }
        let mut family = out.family(&MAP_BYTES);
        for (probe, running) in &running {
            for (map, bytes) in maps(running) {
                family.sample(None, &[probe, map], Value::Count(bytes));
            }
        }
    }
}

/// Kernel memory of each map of a probe, in bytes.
fn maps(running: &Running) -> BTreeMap<&str, u64> {
    running
        .ebpf
        .maps()
        .filter_map(|(name, map)| Some((name, memlock(map)?)))
        .collect()
}

/// Kernel memory of all maps of a probe, in bytes.
#[must_use]
pub fn map_bytes(running: &Running) -> u64 {
    maps(running).values().sum()
}

/// The data of a map of any type that the probes use.
pub(crate) fn map_data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::PerCpuHashMap(data)
        | Map::LruHashMap(data)
        | Map::RingBuf(data) => Some(data),
        _ => None,
    }
}

/// Kernel memory of a map, in bytes.
pub(crate) fn memlock(map: &Map) -> Option<u64> {
    let fd = map_data(map)?.fd().as_fd().as_raw_fd();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("memlock:"))?;
    line.trim().parse().ok()
}

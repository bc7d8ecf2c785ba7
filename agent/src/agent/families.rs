//! Metrics of the agent itself.

use super::Agent;
use crate::{
    exposition::{
        Encoder,
        metric::{Kind, Metric, Scope, Value},
    },
    host::topology,
};

/// The families that this module writes.
pub static METRICS: [&Metric; 15] = [
    &BUILD_INFO,
    &PROBE_STATUS,
    &HOOK_STATUS,
    &UPTIME,
    &AGENT_CPU,
    &LOST_EVENTS,
    &SLOTS,
    &SLOTS_GROWN,
    &OWNERS,
    &OWNERS_BUDGET,
    &OWNERS_FOLDED,
    &POD_CGROUPS,
    &SERIES_BUDGET,
    &SERIES,
    &HISTORY_BYTES,
];

static BUILD_INFO: Metric = Metric {
    name: "stallscope_build_info",
    kind: Kind::Info,
    help: "The version of the agent and the kernel it runs on.",
    labels: &["version", "arch", "kernel"],
    scope: Scope::Host,
    source: "the agent, uname(2)",
};

static PROBE_STATUS: Metric = Metric {
    name: "stallscope_probe_status",
    kind: Kind::Gauge,
    help: "What became of each probe: 1 for its state, with the hooks it uses or the reason why it cannot count here.",
    labels: &["probe", "state", "detail"],
    scope: Scope::Host,
    source: "the agent",
};

static HOOK_STATUS: Metric = Metric {
    name: "stallscope_probe_hook_status",
    kind: Kind::Gauge,
    help: "What became of each hook of each probe: 1 for its state.",
    labels: &["probe", "hook", "state", "detail"],
    scope: Scope::Host,
    source: "the agent",
};

static UPTIME: Metric = Metric {
    name: "stallscope_uptime_seconds",
    kind: Kind::Gauge,
    help: "Time since the probes were attached.",
    labels: &[],
    scope: Scope::Host,
    source: "the agent",
};

static AGENT_CPU: Metric = Metric {
    name: "stallscope_agent_cpu_seconds_total",
    kind: Kind::Counter,
    help: "CPU time of the agent's own process; process_cpu_seconds_total has it in whole seconds only. What its programs take in the kernel is in stallscope_program_run_seconds_total.",
    labels: &[],
    scope: Scope::Host,
    source: "clock_gettime(2) `CLOCK_PROCESS_CPUTIME_ID`",
};

static LOST_EVENTS: Metric = Metric {
    name: "stallscope_lost_events_total",
    kind: Kind::Counter,
    help: "Events that a probe could not give to anything, by reason.",
    labels: &["probe", "reason"],
    scope: Scope::Host,
    source: "the probes' maps",
};

static SLOTS: Metric = Metric {
    name: "stallscope_slots",
    kind: Kind::Gauge,
    help: "Cgroups that the kernel-side tables have room for (state capacity; of these, reserved for pods whose css.id is beyond the others: state reserved, and given to one now: state given) and those in the hierarchy (state used).",
    labels: &["state"],
    scope: Scope::Host,
    source: "the agent",
};

static SLOTS_GROWN: Metric = Metric {
    name: "stallscope_slots_grown_total",
    kind: Kind::Counter,
    help: "Times the kernel-side tables were enlarged because there were more cgroups than slots.",
    labels: &[],
    scope: Scope::Host,
    source: "the agent",
};

static OWNERS: Metric = Metric {
    name: "stallscope_owners",
    kind: Kind::Gauge,
    help: "Containers, services and cgroups that have series of their own: those that live, and those that ended in the last five minutes.",
    labels: &[],
    scope: Scope::Host,
    source: "the agent",
};

static OWNERS_BUDGET: Metric = Metric {
    name: "stallscope_owners_budget",
    kind: Kind::Gauge,
    help: "The most containers, services and cgroups that may have series of their own.",
    labels: &[],
    scope: Scope::Host,
    source: "`--max-owners`",
};

static OWNERS_FOLDED: Metric = Metric {
    name: "stallscope_owners_folded_total",
    kind: Kind::Counter,
    help: "Cgroups counted under (other) because the budget of owners or of series was used up.",
    labels: &[],
    scope: Scope::Host,
    source: "the agent",
};

static POD_CGROUPS: Metric = Metric {
    name: "stallscope_pod_cgroups",
    kind: Kind::Gauge,
    help: "Cgroups of pods by whether the source of names knows their pod: named, pending (their counts wait for a name) unresolved (counted under (unresolved)) or refused (another cgroup is that pod, and they are counted by their path).",
    labels: &["state"],
    scope: Scope::Host,
    source: "the agent",
};

static SERIES_BUDGET: Metric = Metric {
    name: "stallscope_series_budget",
    kind: Kind::Gauge,
    help: "The most series that a scrape may have; the owners that did the least lately are summed as (other) until it fits.",
    labels: &[],
    scope: Scope::Host,
    source: "`--max-series`",
};

static SERIES: Metric = Metric {
    name: "stallscope_series",
    kind: Kind::Gauge,
    help: "Series in this scrape up to this one.",
    labels: &[],
    scope: Scope::Host,
    source: "the agent",
};

static HISTORY_BYTES: Metric = Metric {
    name: "stallscope_history_bytes",
    kind: Kind::Gauge,
    help: "Memory that the records of the past take; absent with --history 0.",
    labels: &[],
    scope: Scope::Host,
    source: "the agent",
};

impl Agent {
    pub(super) fn encode_own(&self, out: &mut Encoder) {
        out.family(&BUILD_INFO).sample(
            None,
            &[
                env!("CARGO_PKG_VERSION"),
                std::env::consts::ARCH,
                &crate::host::preflight::kernel_release(),
            ],
            Value::Count(1),
        );
        let one = Value::Count(1);
        let mut family = out.family(&PROBE_STATUS);
        for instance in &self.instances {
            let state = &instance.status.state;
            family.sample(
                None,
                &[instance.probe.name, state.label(), &state.detail()],
                one,
            );
        }
        let mut family = out.family(&HOOK_STATUS);
        for instance in &self.instances {
            for hook in &instance.status.hooks {
                let labels = [
                    instance.probe.name,
                    hook.hook,
                    hook.state.label(),
                    &hook.state.detail(),
                ];
                family.sample(None, &labels, one);
            }
        }
        let uptime = self.started.elapsed().as_secs_f64();
        out.family(&UPTIME).sample(None, &[], Value::Float(uptime));
        out.family(&AGENT_CPU)
            .sample(None, &[], Value::Nanoseconds(super::record::cpu_time()));
        let mut family = out.family(&LOST_EVENTS);
        for (probe, running) in self.running() {
            for (reason, count) in running.collector.lost() {
                family.sample(None, &[probe, reason], Value::Count(count));
            }
        }
        let used = self.owners.cgroups().count() as u64;
        let mut family = out.family(&SLOTS);
        family.sample(
            None,
            &["capacity"],
            Value::Count(u64::from(self.host.slots)),
        );
        family.sample(None, &["used"], Value::Count(used));
        let reserved = u64::from(self.host.reserved_slots());
        family.sample(None, &["reserved"], Value::Count(reserved));
        let given = self.reserved.given() as u64;
        family.sample(None, &["given"], Value::Count(given));
        out.family(&SLOTS_GROWN)
            .sample(None, &[], Value::Count(self.grown));
        let (used, budget) = self.owners.budget();
        out.family(&OWNERS)
            .sample(None, &[], Value::Count(used as u64));
        out.family(&OWNERS_BUDGET)
            .sample(None, &[], Value::Count(budget as u64));
        out.family(&OWNERS_FOLDED)
            .sample(None, &[], Value::Count(self.owners.folded()));
        let names = self.owners.names();
        names.encode(out);
        if names.expected() {
            let pods = self.owners.pod_cgroups();
            let states = [
                ("named", pods.named),
                ("pending", pods.pending),
                ("unresolved", pods.unresolved),
                ("refused", pods.refused),
            ];
            let mut family = out.family(&POD_CGROUPS);
            for (state, count) in states {
                family.sample(None, &[state], Value::Count(count));
            }
        }
        let samples = self.topology.samples();
        for metric in topology::METRICS {
            let mut family = out.family(metric);
            for (_, labels, value) in samples.iter().filter(|(m, _, _)| std::ptr::eq(*m, *metric)) {
                let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
                family.sample(None, &labels, *value);
            }
        }
        self.doctor.encode(out);
        if let Some(history) = &self.history {
            let bytes = Value::Count(history.bytes() as u64);
            out.family(&HISTORY_BYTES).sample(None, &[], bytes);
        }
        self.overhead.encode(self.running(), out);
        out.family(&SERIES_BUDGET)
            .sample(None, &[], Value::Count(self.config.series as u64));
        let series = out.series() as u64;
        out.family(&SERIES).sample(None, &[], Value::Count(series));
    }
}

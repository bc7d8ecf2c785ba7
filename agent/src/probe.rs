//! Probes: their definition, how they are put into this kernel, and their state.
//!
//! A probe is a value: its object, the hooks it needs with their alternatives, and the function
//! that opens its maps. The first alternative that *attaches* wins; loading proves nothing (arm64
//! 5.10 and 6.1 load fentry programs and refuse to attach them).

mod attach;
pub mod cells;
pub mod collector;
pub mod durations;
mod grow;
mod kernel;
pub mod kernel_log;
pub mod mapped_array;
pub mod overhead;

pub use attach::Linked;
pub use kernel::Kernel;

use anyhow::Context as _;
use aya::{Ebpf, EbpfLoader};
use serde::Serialize;
use stallscope_ebpf::{Host, Layout};

use crate::{
    exposition::metric::Metric,
    host::btf::Symbol,
    probe::{collector::Collector, kernel_log::KernelLog},
};

/// The BPF objects this binary carries, by probe name.
mod objects {
    include!(concat!(env!("OUT_DIR"), "/objects.rs"));
}

/// One thing Stallscope measures.
pub struct Probe {
    /// Stem of its object and of its source file on either side.
    pub name: &'static str,
    /// Summary of its measurement, in one line for `status`.
    pub summary: &'static str,
    /// Fields of [`Layout`] without which none of its hooks works.
    pub fields: &'static [&'static str],
    /// Hooks that it attaches to.
    pub hooks: &'static [Hook],
    /// Families that it exports.
    pub metrics: &'static [&'static Metric],
    /// Entries of its maps on this host.
    pub map_sizes: fn(&Host) -> Vec<(&'static str, u32)>,
    /// Fills the maps that its programs read from the first event on. The agent calls it before any
    /// program attaches.
    pub prepare: Option<fn(&mut Ebpf, &Kernel) -> anyhow::Result<()>>,
    /// Takes its maps once a hook is attached.
    pub open: fn(&mut Ebpf, &Kernel, &Attached) -> anyhow::Result<Box<dyn Collector>>,
}

/// A place that a probe attaches to, by the first of its alternatives that this kernel takes.
#[derive(Debug)]
pub struct Hook {
    /// Name of its contribution, for `status`.
    pub name: &'static str,
    /// True if the probe is of no use without it.
    pub required: bool,
    /// Ways to attach, the best first.
    pub alternatives: &'static [Alternative],
}

/// Programs that attach together or not at all.
#[derive(Debug)]
pub struct Alternative {
    /// The programs.
    pub programs: &'static [Attach],
    /// Fields of [`Layout`] it needs besides the probe's own.
    pub fields: &'static [&'static str],
    /// Returns the reason why it does not apply to this kernel; `None` to go ahead.
    pub unsupported: Option<fn(&Kernel) -> Option<String>>,
}

/// One program and the kernel symbol it attaches to.
#[derive(Clone, Copy, Debug)]
pub enum Attach {
    /// BTF-typed raw tracepoint: program, tracepoint.
    TpBtf(&'static str, &'static str),
    /// Function entry through a trampoline: program, function.
    Fentry(&'static str, &'static str),
    /// Function exit through a trampoline: program, function.
    Fexit(&'static str, &'static str),
    /// Function entry through a breakpoint or ftrace: program, function.
    Kprobe(&'static str, &'static str),
    /// Function return through a breakpoint: program, function.
    Kretprobe(&'static str, &'static str),
    /// No program: a file that the agent reads, with what the kernel counts by itself.
    File(&'static str),
}

impl Attach {
    /// The program, if there is one.
    #[must_use]
    pub fn program(self) -> Option<&'static str> {
        match self {
            Self::TpBtf(program, _)
            | Self::Fentry(program, _)
            | Self::Fexit(program, _)
            | Self::Kprobe(program, _)
            | Self::Kretprobe(program, _) => Some(program),
            Self::File(_) => None,
        }
    }

    /// The kernel symbol or file.
    #[must_use]
    pub fn symbol(self) -> &'static str {
        match self {
            Self::TpBtf(_, symbol)
            | Self::Fentry(_, symbol)
            | Self::Fexit(_, symbol)
            | Self::Kprobe(_, symbol)
            | Self::Kretprobe(_, symbol)
            | Self::File(symbol) => symbol,
        }
    }
}

impl Attach {
    /// Returns the symbol as type information describes it; none for a file.
    #[must_use]
    pub fn described(self) -> Option<Symbol> {
        match self {
            Self::TpBtf(_, symbol) => Some(Symbol::Tracepoint(symbol)),
            Self::Fentry(_, symbol)
            | Self::Fexit(_, symbol)
            | Self::Kprobe(_, symbol)
            | Self::Kretprobe(_, symbol) => Some(Symbol::Function(symbol)),
            Self::File(_) => None,
        }
    }
}

impl std::fmt::Display for Attach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TpBtf(_, symbol) => write!(f, "tp_btf/{symbol}"),
            Self::Fentry(_, symbol) => write!(f, "fentry/{symbol}"),
            Self::Fexit(_, symbol) => write!(f, "fexit/{symbol}"),
            Self::Kprobe(_, symbol) => write!(f, "kprobe/{symbol}"),
            Self::Kretprobe(_, symbol) => write!(f, "kretprobe/{symbol}"),
            Self::File(name) => f.write_str(name),
        }
    }
}

/// State of a probe or a hook.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    /// It counts.
    Attached {
        /// The kernel symbols, such as `fentry/unthrottle_cfs_rq`.
        by: Vec<String>,
    },
    /// This kernel or machine cannot do it.
    Unsupported {
        /// Reason for that.
        reason: String,
    },
    /// It should work here and failed.
    Failed {
        /// Error of the kernel.
        error: String,
    },
}

impl State {
    /// The value of the `state` label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Attached { .. } => "attached",
            Self::Unsupported { .. } => "unsupported",
            Self::Failed { .. } => "failed",
        }
    }

    /// The hooks or the reason, as text.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Self::Attached { by } => by.join(" + "),
            Self::Unsupported { reason } => reason.clone(),
            Self::Failed { error } => error.clone(),
        }
    }
}

/// State of a probe and of each of its hooks.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The probe.
    pub probe: &'static str,
    /// Summary of its measurement.
    pub summary: &'static str,
    /// State of the probe.
    #[serde(flatten)]
    pub state: State,
    /// Its hooks.
    pub hooks: Vec<HookStatus>,
}

/// State of one hook.
#[derive(Clone, Debug, Serialize)]
pub struct HookStatus {
    /// Name of its contribution.
    pub hook: &'static str,
    /// State of the hook.
    #[serde(flatten)]
    pub state: State,
}

/// Hooks that attached, by which a probe knows what it can measure.
#[derive(Debug, Default)]
pub struct Attached {
    hooks: Vec<(&'static str, usize)>,
}

impl Attached {
    /// Returns the index of the alternative by which a hook attached.
    #[must_use]
    pub fn alternative(&self, hook: &str) -> Option<usize> {
        self.hooks
            .iter()
            .find(|(name, _)| *name == hook)
            .map(|&(_, i)| i)
    }

    /// Returns whether a hook attached.
    #[must_use]
    pub fn has(&self, hook: &str) -> bool {
        self.alternative(hook).is_some()
    }
}

/// A probe in the kernel; detached when dropped.
pub struct Running {
    /// Its programs and maps.
    pub ebpf: Ebpf,
    /// Reader of its maps.
    pub collector: Box<dyn Collector>,
    /// Messages of its programs, if they are wanted.
    pub log: Option<KernelLog>,
    /// Its programs on their hooks.
    links: Vec<Linked>,
}

impl Probe {
    /// Loads and attaches the probe.
    #[must_use]
    pub fn start(&'static self, kernel: &Kernel) -> (Status, Option<Running>) {
        let mut hooks = Vec::new();
        let (state, running) = match self.try_start(kernel, &mut hooks) {
            Ok((by, running)) => (State::Attached { by }, Some(running)),
            Err(state) => (state, None),
        };
        (
            Status {
                probe: self.name,
                summary: self.summary,
                state,
                hooks,
            },
            running,
        )
    }

    fn try_start(
        &'static self,
        kernel: &Kernel,
        statuses: &mut Vec<HookStatus>,
    ) -> Result<(Vec<String>, Running), State> {
        let failed = |error: anyhow::Error| State::Failed {
            error: format!("{error:#}"),
        };
        if let Some(reason) = self.refusal(kernel) {
            return Err(State::Unsupported { reason });
        }
        let mut ebpf = self.load(kernel).map_err(failed)?;
        if let Some(prepare) = self.prepare {
            prepare(&mut ebpf, kernel).map_err(failed)?;
        }
        let (attached, by, links) = self.attach(kernel, &mut ebpf, statuses)?;
        let collector = (self.open)(&mut ebpf, kernel, &attached).map_err(failed)?;
        let log = KernelLog::open(&mut ebpf);
        let running = Running {
            ebpf,
            collector,
            log,
            links,
        };
        Ok((by, running))
    }

    /// Attaches its hooks, each by the first alternative that this kernel takes.
    fn attach(
        &self,
        kernel: &Kernel,
        ebpf: &mut Ebpf,
        statuses: &mut Vec<HookStatus>,
    ) -> Result<(Attached, Vec<String>, Vec<Linked>), State> {
        let mut attached = Attached::default();
        let mut by = Vec::new();
        let mut links = Vec::new();
        for hook in self.hooks {
            let state = match hook.attach(kernel, ebpf) {
                Ok((alternative, names, linked)) => {
                    links.extend(linked);
                    attached.hooks.push((hook.name, alternative));
                    by.extend(names.iter().cloned());
                    State::Attached { by: names }
                }
                Err(state) => state,
            };
            statuses.push(HookStatus {
                hook: hook.name,
                state: state.clone(),
            });
            if hook.required && !matches!(state, State::Attached { .. }) {
                return Err(state);
            }
        }
        if attached.hooks.is_empty() {
            return Err(none_attached(statuses));
        }
        Ok((attached, by, links))
    }

    /// Returns the reason why none of its hooks can work on this kernel, where that is known before
    /// trying.
    #[must_use]
    pub fn refusal(&self, kernel: &Kernel) -> Option<String> {
        kernel.missing(self.fields).map(missing_field)
    }

    /// Makes the probe's maps for this host, and prepares its programs for loading.
    ///
    /// # Errors
    /// When the binary carries no such object, or the kernel refuses its maps.
    pub fn load(&self, kernel: &Kernel) -> anyhow::Result<Ebpf> {
        let object = object(self.name)?;
        let mut loader = EbpfLoader::new();
        loader
            .btf(Some(&kernel.program_btf))
            .override_global("LAYOUT", &kernel.layout, false)
            .override_global("HOST", &kernel.host, false)
            .override_global(aya_log::LEVEL, kernel_log::level(), false);
        let mut sizes = (self.map_sizes)(&kernel.host);
        sizes.push((kernel_log::MAP, kernel_log::ring_bytes()));
        for (map, entries) in &sizes {
            loader.map_max_entries(map, *entries);
        }
        loader.load(object).context("the kernel refused its maps")
    }
}

/// A BPF object that this binary carries.
///
/// # Errors
/// When the binary was built without it.
pub fn object(name: &str) -> anyhow::Result<&'static [u8]> {
    objects::OBJECTS
        .iter()
        .find_map(|(known, object)| (*known == name).then_some(*object))
        .with_context(|| {
            format!(
                "this binary was built without the BPF object `{name}`; build it with `cargo xtask build`"
            )
        })
}

fn missing_field(field: &str) -> String {
    let (structure, path) = Layout::FIELDS
        .iter()
        .find_map(|(name, structure, path)| (*name == field).then_some((*structure, *path)))
        .unwrap_or(("?", field));
    format!("this kernel has no field {structure}.{path}")
}

/// Returns the state of a probe none of whose hooks attached: failed if one should have attached.
fn none_attached(statuses: &[HookStatus]) -> State {
    statuses
        .iter()
        .map(|status| &status.state)
        .find(|state| matches!(state, State::Failed { .. }))
        .or_else(|| statuses.first().map(|status| &status.state))
        .cloned()
        .unwrap_or(State::Failed {
            error: "it has no hooks".to_owned(),
        })
}

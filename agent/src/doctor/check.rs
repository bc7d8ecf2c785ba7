//! What a check is, and what it finds.

use std::fmt;

use serde::{Serialize, Serializer};

use super::{Node, root::Unread};
use crate::ShellCommand;

/// One thing that is looked at.
#[derive(Debug)]
pub struct Check {
    /// Its name: in tables, as a label value, and of its page `docs/doctor/<name>.md`.
    pub name: &'static str,
    /// What it is about.
    pub group: Group,
    /// What it finds, in a line.
    pub summary: &'static str,
    /// How severe that can be.
    pub severities: &'static [Severity],
    /// Where it looks, for the table.
    pub reads: &'static str,
    /// Looks.
    pub run: fn(&Node) -> Result<Vec<Finding>, Unmade>,
}

/// Why a check was not made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Unmade {
    /// There is nothing here that it is about.
    NotHere(String),
    /// What it needs to know could not be read.
    Unknown(String),
}

impl Unmade {
    /// There is nothing here that it is about.
    pub fn not_here(why: impl Into<String>) -> Self {
        Self::NotHere(why.into())
    }

    /// What it needs to know is not known.
    pub fn unknown(why: impl Into<String>) -> Self {
        Self::Unknown(why.into())
    }
}

impl From<Unread> for Unmade {
    fn from(unread: Unread) -> Self {
        Self::Unknown(unread.to_string())
    }
}

/// What a check is about.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// CPUs, nodes, frequencies, hypervisor.
    Machine,
    /// The kernel and what BPF needs of it.
    Kernel,
    /// Memory settings.
    Memory,
    /// Control groups and who manages them.
    Cgroups,
    /// The kubelet's settings and state.
    Kubernetes,
    /// What runs.
    Workloads,
    /// Limits, interrupts, clock.
    System,
    /// The audit itself.
    Audit,
}

impl Group {
    /// The heading.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Kernel => "kernel",
            Self::Memory => "memory",
            Self::Cgroups => "cgroups",
            Self::Kubernetes => "kubernetes",
            Self::Workloads => "workloads",
            Self::System => "system",
            Self::Audit => "audit",
        }
    }
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know; changes no exit code.
    Info,
    /// Costs time under some workloads.
    Warning,
    /// Something does not work, or costs every workload time.
    Problem,
}

impl Severity {
    /// Every severity, the worst first.
    pub const ALL: [Self; 3] = [Self::Problem, Self::Warning, Self::Info];

    /// The word for text and labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The check that found it.
    pub check: &'static str,
    /// What it is about.
    pub group: Group,
    /// How much it matters.
    pub severity: Severity,
    /// What is found, in a line.
    pub title: String,
    /// The value that says so.
    pub value: String,
    /// The files it was read from.
    pub read: Vec<String>,
    /// Why it matters on this CPU and kernel.
    pub why: String,
    /// Ways to mend it, the best first.
    pub mend: Vec<Mend>,
    /// Its page.
    pub link: String,
}

/// A way to mend something.
#[derive(Clone, Debug, PartialEq)]
pub enum Mend {
    /// A command for a shell on the node, effective at once.
    Command {
        /// The command.
        run: ShellCommand,
        /// Where a reboot undoes it: the command that keeps it.
        keep: Option<ShellCommand>,
    },
    /// Something that no command does.
    Other {
        /// What kind of change.
        kind: MendKind,
        /// The setting as its file takes it, or what to do.
        text: String,
    },
}

/// Kinds of change that no command makes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MendKind {
    /// A setting of the kubelet's configuration file.
    Kubelet,
    /// A part of a pod's manifest.
    Pod,
    /// A word of the kernel's command line, effective after a reboot.
    Boot,
    /// Something to do.
    Advice,
}

impl Mend {
    /// How text introduces it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Command { .. } => "run",
            Self::Other { kind, .. } => match kind {
                MendKind::Kubelet => "kubelet setting",
                MendKind::Pod => "pod manifest",
                MendKind::Boot => "kernel command line",
                MendKind::Advice => "do",
            },
        }
    }

    /// The command as a shell takes it, the setting as its file takes it, or what to do.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Command { run, .. } => run.as_str(),
            Self::Other { text, .. } => text,
        }
    }

    /// For a command that a reboot undoes: the command that keeps it.
    #[must_use]
    pub const fn keep(&self) -> Option<&ShellCommand> {
        match self {
            Self::Command { keep, .. } => keep.as_ref(),
            Self::Other { .. } => None,
        }
    }
}

impl Serialize for Mend {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(tag = "kind", rename_all = "snake_case")]
        enum Shown<'a> {
            Command {
                text: &'a ShellCommand,
                #[serde(skip_serializing_if = "Option::is_none")]
                keep: Option<&'a ShellCommand>,
            },
        }
        #[derive(Serialize)]
        struct Other<'a> {
            kind: MendKind,
            text: &'a str,
        }
        match self {
            Self::Command { run, keep } => Shown::Command {
                text: run,
                keep: keep.as_ref(),
            }
            .serialize(serializer),
            Self::Other { kind, text } => Other { kind: *kind, text }.serialize(serializer),
        }
    }
}

impl Finding {
    /// A finding with its title; the other parts follow.
    fn new(severity: Severity, title: impl Into<String>) -> Self {
        Self {
            check: "",
            group: Group::Audit,
            severity,
            title: title.into(),
            value: String::new(),
            read: Vec::new(),
            why: String::new(),
            mend: Vec::new(),
            link: String::new(),
        }
    }

    /// Something of a given severity.
    pub fn of(severity: Severity, title: impl Into<String>) -> Self {
        Self::new(severity, title)
    }

    /// Something good to know.
    pub fn info(title: impl Into<String>) -> Self {
        Self::new(Severity::Info, title)
    }

    /// Something that costs time under some workloads.
    pub fn warning(title: impl Into<String>) -> Self {
        Self::new(Severity::Warning, title)
    }

    /// Something that does not work, or costs every workload time.
    pub fn problem(title: impl Into<String>) -> Self {
        Self::new(Severity::Problem, title)
    }

    /// The value that says so.
    #[must_use]
    pub fn value(mut self, value: impl fmt::Display) -> Self {
        self.value = value.to_string();
        self
    }

    /// A file it was read from.
    #[must_use]
    pub fn read(mut self, path: impl Into<String>) -> Self {
        self.read.push(path.into());
        self
    }

    /// Why it matters here.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// A `sysctl` that mends it, and the file that keeps it.
    #[must_use]
    pub fn sysctl(self, key: &str, value: impl fmt::Display) -> Self {
        let run = ShellCommand::new("sysctl").arg("-w");
        self.kept(
            run.arg(format!("{key}={value}")),
            ShellCommand::append(
                &format!("{key} = {value}"),
                "/etc/sysctl.d/90-stallscope.conf",
            ),
        )
    }

    /// A value written to a file of sysfs, and the `tmpfiles.d` line that keeps it.
    #[must_use]
    pub fn sysfs(self, path: &str, value: impl fmt::Display) -> Self {
        let line = format!("w {path} - - - - {value}");
        self.kept(
            ShellCommand::write(value, path),
            ShellCommand::append(&line, "/etc/tmpfiles.d/stallscope.conf"),
        )
    }

    fn kept(mut self, run: ShellCommand, keep: ShellCommand) -> Self {
        let keep = Some(keep);
        self.mend.push(Mend::Command { run, keep });
        self
    }

    /// A command that mends it.
    #[must_use]
    pub fn command(mut self, run: ShellCommand) -> Self {
        self.mend.push(Mend::Command { run, keep: None });
        self
    }

    /// Something that no command does.
    #[must_use]
    pub fn mend(mut self, kind: MendKind, text: impl Into<String>) -> Self {
        let text = text.into();
        self.mend.push(Mend::Other { kind, text });
        self
    }
}

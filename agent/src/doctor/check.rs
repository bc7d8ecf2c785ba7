//! What a check is, and what it finds.

use std::fmt;

use serde::Serialize;

use super::{Node, root::Unread};

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
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mend {
    /// What kind of change.
    pub kind: MendKind,
    /// The command as a shell takes it, the setting as its file takes it, or what to do.
    pub text: String,
    /// For a command that a reboot undoes: the command that keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<String>,
}

/// Kinds of change.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MendKind {
    /// A command for a shell on the node, effective at once.
    Command,
    /// A setting of the kubelet's configuration file.
    Kubelet,
    /// A part of a pod's manifest.
    Pod,
    /// A word of the kernel's command line, effective after a reboot.
    Boot,
    /// Something no command does.
    Advice,
}

impl MendKind {
    /// How text introduces it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Command => "run",
            Self::Kubelet => "kubelet setting",
            Self::Pod => "pod manifest",
            Self::Boot => "kernel command line",
            Self::Advice => "do",
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
    pub fn sysctl(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.mend.push(Mend {
            kind: MendKind::Command,
            text: format!("sysctl -w {key}={value}"),
            keep: Some(format!(
                "echo '{key} = {value}' >> /etc/sysctl.d/90-stallscope.conf"
            )),
        });
        self
    }

    /// A value written to a file of sysfs, and the `tmpfiles.d` line that keeps it.
    #[must_use]
    pub fn sysfs(mut self, path: &str, value: impl fmt::Display) -> Self {
        self.mend.push(Mend {
            kind: MendKind::Command,
            text: format!("echo {value} > {path}"),
            keep: Some(format!(
                "echo 'w {path} - - - - {value}' >> /etc/tmpfiles.d/stallscope.conf"
            )),
        });
        self
    }

    /// A command that mends it.
    #[must_use]
    pub fn command(self, text: impl Into<String>) -> Self {
        self.mend(MendKind::Command, text)
    }

    /// A way of any kind to mend it.
    #[must_use]
    pub fn mend(mut self, kind: MendKind, text: impl Into<String>) -> Self {
        self.mend.push(Mend {
            kind,
            text: text.into(),
            keep: None,
        });
        self
    }
}

//! A check of the node audit, and its findings.

use std::fmt;

use serde::{Serialize, Serializer};

use super::{Node, root::Unread};
use crate::text::shell_command::ShellCommand;

/// Check of one aspect of the node.
#[derive(Debug)]
pub struct Check {
    /// Name in tables and as a label value; its page is `docs/doctor/<name>.md`.
    pub name: &'static str,
    /// Subject.
    pub group: Group,
    /// Findings that it makes, in a line.
    pub summary: &'static str,
    /// Severities that its findings can have.
    pub severities: &'static [Severity],
    /// Files that it reads, for the table.
    pub reads: &'static str,
    /// Makes the check.
    pub run: fn(&Node) -> Result<Vec<Finding>, Unmade>,
}

/// Reason for which a check was not made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Unmade {
    /// The node has nothing of the check's subject.
    NotHere(String),
    /// A fact that the check needs could not be read.
    Unknown(String),
}

impl Unmade {
    /// Says that the node has nothing of the check's subject.
    pub fn not_here(why: impl Into<String>) -> Self {
        Self::NotHere(why.into())
    }

    /// Says that a fact that the check needs is not known.
    pub fn unknown(why: impl Into<String>) -> Self {
        Self::Unknown(why.into())
    }
}

impl From<Unread> for Unmade {
    fn from(unread: Unread) -> Self {
        Self::Unknown(unread.to_string())
    }
}

/// Subject of a check.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// CPUs, nodes, frequencies, hypervisor.
    Machine,
    /// The kernel and what BPF needs of it.
    Kernel,
    /// Memory settings.
    Memory,
    /// Control groups and their managers.
    Cgroups,
    /// The kubelet's settings and state.
    Kubernetes,
    /// Running workloads.
    Workloads,
    /// Limits, interrupts, clock.
    System,
    /// The audit itself.
    Audit,
}

impl Group {
    /// Returns the heading.
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

/// Severity of a finding.
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
    /// Every severity, most severe first.
    pub const ALL: [Self; 3] = [Self::Problem, Self::Warning, Self::Info];

    /// Returns the word for text and labels.
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

/// Finding of a check, with its evidence and remedies.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Name of the check that made it.
    pub check: &'static str,
    /// Subject.
    pub group: Group,
    /// Severity.
    pub severity: Severity,
    /// Finding in a line.
    pub title: String,
    /// Value that is the evidence.
    pub value: String,
    /// Files from which the value was read.
    pub read: Vec<String>,
    /// Reason for which it matters on this CPU and kernel.
    pub why: String,
    /// Remedies, best first.
    pub mend: Vec<Mend>,
    /// Page of the check.
    pub link: String,
}

/// Remedy of a finding.
#[derive(Clone, Debug, PartialEq)]
pub enum Mend {
    /// A command for a shell on the node, effective at once.
    Command {
        /// The command.
        run: ShellCommand,
        /// Command that makes the change persist, if a reboot undoes it.
        keep: Option<ShellCommand>,
    },
    /// A change that no command makes.
    Other {
        /// Kind of change.
        kind: MendKind,
        /// The setting in its file's syntax, or an instruction.
        text: String,
    },
}

/// Kind of change that no command makes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MendKind {
    /// A setting of the kubelet's configuration file.
    Kubelet,
    /// A part of a pod's manifest.
    Pod,
    /// A word of the kernel's command line, effective after a reboot.
    Boot,
    /// An instruction.
    Advice,
}

impl Mend {
    /// Returns the words that introduce it in text.
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

    /// Returns the command in shell syntax, the setting in its file's syntax, or the instruction.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Command { run, .. } => run.as_str(),
            Self::Other { text, .. } => text,
        }
    }

    /// Returns the command that makes the change persist, if a reboot undoes it.
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
    /// Makes a finding with a severity and a title. Other methods add the other parts.
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

    /// Makes a finding of the given severity.
    pub fn of(severity: Severity, title: impl Into<String>) -> Self {
        Self::new(severity, title)
    }

    /// Makes a finding that is good to know.
    pub fn info(title: impl Into<String>) -> Self {
        Self::new(Severity::Info, title)
    }

    /// Makes a finding that costs time under some workloads.
    pub fn warning(title: impl Into<String>) -> Self {
        Self::new(Severity::Warning, title)
    }

    /// Makes a finding of something that does not work, or that costs every workload time.
    pub fn problem(title: impl Into<String>) -> Self {
        Self::new(Severity::Problem, title)
    }

    /// Sets the value that is the evidence.
    #[must_use]
    pub fn value(mut self, value: impl fmt::Display) -> Self {
        self.value = value.to_string();
        self
    }

    /// Adds a file from which the value was read.
    #[must_use]
    pub fn read(mut self, path: impl Into<String>) -> Self {
        self.read.push(path.into());
        self
    }

    /// Sets the reason for which it matters on this node.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// Adds a remedy: a `sysctl`, and the line of a `sysctl.d` file that makes it persist.
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

    /// Adds a remedy: a value written to a file of sysfs, and the `tmpfiles.d` line that makes it
    /// persist.
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

    /// Adds a command that is a remedy.
    #[must_use]
    pub fn command(mut self, run: ShellCommand) -> Self {
        self.mend.push(Mend::Command { run, keep: None });
        self
    }

    /// Adds a remedy that no command makes.
    #[must_use]
    pub fn mend(mut self, kind: MendKind, text: impl Into<String>) -> Self {
        let text = text.into();
        self.mend.push(Mend::Other { kind, text });
        self
    }
}

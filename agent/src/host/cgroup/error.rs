//! Errors of finding and reading a hierarchy, with the remedy in the message.

use std::io;
use std::path::{Path, PathBuf};

use super::Controller;

/// Failure to find or read a cgroup hierarchy. The message says what went wrong, at which path, and
/// what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory could not be read.
    #[error("cannot read {path}, expected {expected}: {source}; {remedy}", path = path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Expected content of the path.
        expected: &'static str,
        /// Remedy.
        remedy: &'static str,
        /// The I/O error.
        source: io::Error,
    },
    /// A file exists but its content is not in the expected format.
    #[error(
        "{path} is not a {expected}: line {line} reads {text:?}; check that it is the kernel's own file (a /proc of type proc)",
        path = path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Expected format.
        expected: &'static str,
        /// Number of the first line that could not be parsed, from 1.
        line: usize,
        /// Content of that line, cut to 80 bytes.
        text: String,
    },
    /// No cgroup hierarchy is mounted.
    #[error(
        "{path} lists no cgroup hierarchy, expected a mount of type cgroup2, or cgroup with the cpu controller; mount one \
         (mount -t cgroup2 none /sys/fs/cgroup), or mount the host's /sys/fs/cgroup into this container and pass --cgroup-root",
        path = path.display()
    )]
    NotMounted {
        /// The mountinfo file that the agent searched.
        path: PathBuf,
    },
    /// The cpu controller belongs to a v1 hierarchy that has no usable mount in sight.
    #[error(
        "{cgroups} says that the cpu controller is on cgroup v1 hierarchy {hierarchy}, but {mountinfo} lists no usable mount of it; \
         mount it (mount -t cgroup -o cpu none /sys/fs/cgroup/cpu), or mount the host's /sys/fs/cgroup into this container \
         and pass --cgroup-root",
        cgroups = cgroups.display(),
        mountinfo = mountinfo.display()
    )]
    CpuNotMounted {
        /// The list of controllers that the agent read.
        cgroups: PathBuf,
        /// The mountinfo file that the agent searched.
        mountinfo: PathBuf,
        /// Number of the hierarchy.
        hierarchy: u32,
    },
    /// The cpu controller is on no v1 hierarchy, and no v2 hierarchy is mounted.
    #[error(
        "{cgroups} has the cpu controller on no cgroup v1 hierarchy, expected a usable mount of type cgroup2 in {mountinfo} then; \
         mount one (mount -t cgroup2 none /sys/fs/cgroup), or, where this kernel has no cpu controller, boot one built with \
         CONFIG_CGROUP_SCHED and without cgroup_disable=cpu",
        cgroups = cgroups.display(),
        mountinfo = mountinfo.display()
    )]
    NoCpu {
        /// The list of controllers that the agent read.
        cgroups: PathBuf,
        /// The mountinfo file that the agent searched.
        mountinfo: PathBuf,
    },
    /// The hierarchy has no usable controller.
    #[error(
        "{path} offers none of the controllers cpu, pids and memory (it has: {found:?}); enable one in the cgroup above, \
         remove cgroup_disable= from the kernel command line, or, where v1 holds them, pass the cpu controller's own mount \
         as --cgroup-root",
        path = path.display()
    )]
    NoController {
        /// The `cgroup.controllers` that the agent read.
        path: PathBuf,
        /// Content of that file.
        found: String,
    },
    /// The requested controller cannot be used.
    #[error("the {controller} controller cannot be used at {path}: {why}; leave the choice to stallscope, or choose cpu", path = path.display())]
    Unavailable {
        /// The requested controller.
        controller: Controller,
        /// Mount of the hierarchy.
        path: PathBuf,
        /// Reason.
        why: &'static str,
    },
    /// The given directory is not a cgroup hierarchy.
    #[error(
        "{path} is not a cgroup hierarchy, expected cgroup.controllers (v2) or cpu.shares (v1) in it, or such a directory \
         named cpu, cpu,cpuacct or cpuacct,cpu below it; pass the mount point, such as /sys/fs/cgroup or /sys/fs/cgroup/cpu",
        path = path.display()
    )]
    NotHierarchy {
        /// The directory.
        path: PathBuf,
    },
}

impl Error {
    /// Makes the error of a failure to read a part of the cgroup file system.
    pub(super) fn cgroupfs(path: &Path, source: io::Error) -> Self {
        Self::Read {
            path: path.to_owned(),
            expected: "a directory of a mounted cgroup hierarchy",
            remedy: "check that it is mounted here and that this user may read it",
            source,
        }
    }

    /// Makes the error of a file whose line `line`, from 1, is not in the expected format.
    pub(super) fn malformed(
        path: PathBuf,
        expected: &'static str,
        text: &[u8],
        line: usize,
    ) -> Self {
        let line_text = text
            .split(|&byte| byte == b'\n')
            .nth(line - 1)
            .unwrap_or_default();
        let text = String::from_utf8_lossy(&line_text[..line_text.len().min(80)]).into_owned();
        Self::Malformed {
            path,
            expected,
            line,
            text,
        }
    }

    /// Makes the error of a failure to read a file below proc.
    pub(super) fn proc(path: &Path, expected: &'static str, source: io::Error) -> Self {
        Self::Read {
            path: path.to_owned(),
            expected,
            remedy: "check that proc is mounted there, or pass the cgroup mount as --cgroup-root",
            source,
        }
    }
}

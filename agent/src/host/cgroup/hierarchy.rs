//! Discovery of the hierarchy and of the controller by which the kernel side identifies a task's cgroup.

use std::fmt::Write;
use std::fs;
use std::iter;
use std::path::{Path, PathBuf};

use super::coverage::Coverage;
use super::mountinfo::{self, Mount};
use super::{Cgroup, Controller, Error, walk};

/// Cgroup versions that this host uses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Version 1 alone: one hierarchy per controller.
    V1,
    /// The cpu controller on version 1, a version 2 hierarchy beside it.
    Hybrid,
    /// The controllers on version 2: one hierarchy for all.
    V2,
}

impl Mode {
    /// Returns the name for status and labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::Hybrid => "hybrid",
            Self::V2 => "v2",
        }
    }
}

/// The cgroup hierarchy whose cgroups own what the agent counts, and the controller whose state identifies a task's
/// cgroup.
///
/// The kernel side reads `task->cgroups->subsys[controller]`, whose cgroup is the task's own or, on v2, the nearest
/// ancestor for which the controller is enabled (Documentation/admin-guide/cgroup-v2.rst, "Enabling and Disabling").
/// systemd enables `cpu` only where a unit asks for it, so `cpu` may not tell services apart; the agent therefore
/// chooses the controller with the widest coverage.
///
/// Coverage may change while the agent runs. A new discovery, at the cost of one scan, tells.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    mode: Mode,
    mount: PathBuf,
    controller: Controller,
    reason: String,
}

impl Hierarchy {
    /// Finds the hierarchy by `<proc>/self/mountinfo` and `<proc>/cgroups`.
    ///
    /// `controller` overrides the choice on v2. v1 has a hierarchy for each controller, and the agent uses that of
    /// `cpu`.
    ///
    /// # Errors
    /// When no hierarchy is mounted, none has a usable controller, or the requested controller cannot be used.
    pub fn discover(proc: &Path, controller: Option<Controller>) -> Result<Self, Error> {
        let mountinfo = proc.join("self/mountinfo");
        let text = fs::read(&mountinfo)
            .map_err(|error| Error::proc(&mountinfo, "the list of mounts", error))?;
        let (mounts, malformed) = mountinfo::parse(&text);
        if mounts.is_empty() {
            return Err(match malformed {
                Some(line) => Error::malformed(mountinfo, "list of mounts", &text, line),
                None => Error::NotMounted { path: mountinfo },
            });
        }

        let cgroups = proc.join("cgroups");
        let text = fs::read(&cgroups)
            .map_err(|error| Error::proc(&cgroups, "the list of controllers", error))?;
        let on_v1 = v1_hierarchy(&text, Controller::Cpu).map_err(|line| {
            Error::malformed(cgroups.clone(), "list of controllers", &text, line)
        })?;

        let unified: Vec<&Mount> = mounts
            .iter()
            .filter(|mount| mount.v1_controllers.is_none())
            .collect();
        if let Some(hierarchy) = on_v1 {
            let v1: Vec<&Mount> = mounts
                .iter()
                .filter(|mount| mount.has(Controller::Cpu.name()))
                .collect();
            let mount = best(&v1).ok_or(Error::CpuNotMounted {
                cgroups,
                mountinfo,
                hierarchy,
            })?;
            let mode = if unified.is_empty() {
                Mode::V1
            } else {
                Mode::Hybrid
            };
            return Self::v1(mount, mode, controller);
        }
        let mount = best(&unified).ok_or(Error::NoCpu { cgroups, mountinfo })?;
        Self::v2(mount, controller)
    }

    /// Uses the hierarchy mounted at `root`, such as the host's within a container.
    ///
    /// `root` is a v2 mount, the mount of v1's cpu controller, or the directory in which v1's controllers are mounted.
    ///
    /// # Errors
    /// When `root` is none of these, or has no usable controller.
    pub fn at(root: &Path, controller: Option<Controller>) -> Result<Self, Error> {
        fs::read_dir(root).map_err(|error| Error::cgroupfs(root, error))?;
        let is_cpu = |dir: &Path| dir.join("cpu.shares").exists();
        if root.join("cgroup.controllers").exists() {
            return Self::v2(root, controller);
        }
        let below = ["cpu", "cpu,cpuacct", "cpuacct,cpu"].map(|name| root.join(name));
        let mut v1 = iter::once(root).chain(below.iter().map(PathBuf::as_path));
        let mount = v1
            .find(|dir| is_cpu(dir))
            .ok_or_else(|| Error::NotHierarchy {
                path: root.to_owned(),
            })?;
        let beside = mount
            .parent()
            .map(|dir| dir.join("unified/cgroup.controllers"));
        let mode = if beside.is_some_and(|file| file.exists()) {
            Mode::Hybrid
        } else {
            Mode::V1
        };
        Self::v1(mount, mode, controller)
    }

    fn v1(mount: &Path, mode: Mode, controller: Option<Controller>) -> Result<Self, Error> {
        if let Some(controller) = controller.filter(|&controller| controller != Controller::Cpu) {
            let why = "on cgroup v1 each controller has a hierarchy of its own, and CPU time is counted by that of cpu";
            return Err(Error::Unavailable {
                controller,
                path: mount.to_owned(),
                why,
            });
        }
        let mut reason = format!(
            "cgroup {}: the cpu controller has its own v1 hierarchy at {}",
            mode.name(),
            mount.display()
        );
        if is_part(mount) {
            reason.push_str(PARTIAL);
        }
        Ok(Self {
            mode,
            mount: mount.to_owned(),
            controller: Controller::Cpu,
            reason,
        })
    }

    fn v2(mount: &Path, controller: Option<Controller>) -> Result<Self, Error> {
        let file = mount.join("cgroup.controllers");
        let found = fs::read_to_string(&file).map_err(|error| Error::cgroupfs(&file, error))?;
        let offered = Controller::ALL.map(|controller| controller.is_in(&found));
        if !offered.contains(&true) {
            return Err(Error::NoController {
                path: file,
                found: found.trim().to_owned(),
            });
        }
        if let Some(controller) = controller
            && !controller.is_in(&found)
        {
            let why = "its cgroup.controllers does not list it";
            return Err(Error::Unavailable {
                controller,
                path: mount.to_owned(),
                why,
            });
        }

        let coverage = Coverage::count(mount)?;
        let covered = |controller| coverage.of(controller);
        let available = Controller::ALL
            .into_iter()
            .filter(|controller| controller.is_in(&found));
        // `max_by_key` takes the last of equals, so the reverse order makes that the preferred one.
        let widest = available
            .clone()
            .rev()
            .max_by_key(|&controller| covered(controller));
        let chosen = controller.or(widest).unwrap_or(Controller::Cpu);
        let others: Vec<String> = available
            .filter(|&other| other != chosen)
            .map(|other| format!("{other} {}", covered(other)))
            .collect();
        let how = if controller.is_some() {
            "as asked for"
        } else {
            "the widest coverage"
        };
        let mut reason = format!(
            "cgroup v2 at {}: the {chosen} controller is enabled for {} of {} cgroups, {how}",
            mount.display(),
            covered(chosen),
            coverage.cgroups
        );
        if !others.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(reason, " ({})", others.join(", "));
        }
        if is_part(mount) {
            reason.push_str(PARTIAL);
        }
        Ok(Self {
            mode: Mode::V2,
            mount: mount.to_owned(),
            controller: chosen,
            reason,
        })
    }

    /// Makes a hierarchy of the given parts, for tests of code that works on any.
    #[cfg(test)]
    pub(super) fn fixed(mode: Mode, mount: &Path) -> Self {
        Self {
            mode,
            mount: mount.to_owned(),
            controller: Controller::Cpu,
            reason: String::new(),
        }
    }

    /// Returns the cgroup versions that the host uses.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns the hierarchy's mount point.
    #[must_use]
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// Returns the controller by which the kernel side identifies a task's cgroup.
    #[must_use]
    pub const fn controller(&self) -> Controller {
        self.controller
    }

    /// Returns one sentence for `stallscope status`: the choice and the reason for it.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Lists every cgroup, parents first. Cgroups that vanish during the scan are left out.
    ///
    /// # Errors
    /// When the hierarchy's root cannot be read.
    pub fn scan(&self) -> Result<Vec<Cgroup>, Error> {
        let mut cgroups = Vec::new();
        walk::walk(&self.mount, |cgroup, _| cgroups.push(cgroup))?;
        Ok(cgroups)
    }
}

/// End of the reason when the mount shows only a part of the hierarchy.
const PARTIAL: &str = "; this is only a part of the host's hierarchy, so cgroups outside it have no name here: mount the host's /sys/fs/cgroup and pass --cgroup-root";

/// Returns the mount to use: of the mounts that no other hides, one of the whole hierarchy if there is one, then the
/// one with the shortest path.
fn best<'a>(mounts: &[&'a Mount]) -> Option<&'a Path> {
    let usable = mounts.iter().filter(|mount| {
        ["cgroup.procs", "tasks"]
            .iter()
            .any(|name| mount.point.join(name).exists())
    });
    let is_below = |mount: &Mount| {
        mount
            .root
            .split(|&byte| byte == b'/')
            .any(|name| !matches!(name, b"" | b".."))
    };
    usable
        .min_by_key(|mount| {
            (
                is_below(mount) || is_part(&mount.point),
                mount.point.as_os_str().len(),
            )
        })
        .map(|mount| mount.point.as_path())
}

/// Returns whether the directory is not the root of its hierarchy, as in a container's cgroup namespace.
///
/// v2 has `cgroup.type` in every cgroup but the root (Documentation/admin-guide/cgroup-v2.rst, "Core Interface Files").
/// v1 has the other two files in the root alone (`CFTYPE_ONLY_ON_ROOT`, kernel/cgroup/cgroup-v1.c).
fn is_part(dir: &Path) -> bool {
    let has = |name| dir.join(name).exists();
    if has("cgroup.controllers") {
        has("cgroup.type")
    } else {
        !has("cgroup.sane_behavior") && !has("release_agent")
    }
}

/// Returns the number of the v1 hierarchy that holds a controller, by `/proc/cgroups`; none if the controller is on v2
/// or not built.
///
/// The error is the number of the first line that is not in that format.
pub(super) fn v1_hierarchy(text: &[u8], controller: Controller) -> Result<Option<u32>, usize> {
    let text = String::from_utf8_lossy(text);
    for (index, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.starts_with('#') && !line.is_empty())
    {
        let mut fields = line.split_ascii_whitespace();
        let (Some(name), Some(Ok(hierarchy))) =
            (fields.next(), fields.next().map(str::parse::<u32>))
        else {
            return Err(index + 1);
        };
        if name == controller.name() {
            return Ok(Some(hierarchy).filter(|&hierarchy| hierarchy != 0));
        }
    }
    Ok(None)
}

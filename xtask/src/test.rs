//! `cargo xtask test`: runs every test that this machine can run, and says which it could not and why.

mod built;
mod containers;
mod page;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::bpf::{self, Arch};
use crate::setup::{Install, Setup};
use crate::shell::{self, Privilege};
use crate::steps::{Outcome, Steps};
use crate::workspace::{BPF_PACKAGE, Workspace};
use built::Built;
use containers::Containers;

/// Run every test that this machine can run.
///
/// Kernel tests load BPF programs: they run as root or through sudo, one at a time, and are
/// skipped with the reason where neither is to be had.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Only tests whose name contains this; `page` is the live page in a browser, which no other filter runs.
    filter: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask test               everything
  cargo xtask test cgroup        only tests with `cgroup` in their name
  cargo xtask test pods          only those with pods in a container runtime
  cargo xtask test page          only the live page, in a browser
  sudo -v && cargo xtask test    lets the kernel tests use sudo without asking";

/// Sets up, builds and runs the tests.
pub fn run(workspace: &Workspace, install: Install, args: &Args) -> Result<()> {
    let mut setup = Setup::new(install);
    let bpf = setup.bpf(workspace)?;
    let filter = args.filter.as_deref();
    let alone = filter == Some(page::FILTER);
    let promtool = if alone {
        Err("no test asks for promtool".to_owned())
    } else {
        setup.promtool(workspace)?
    };
    let browser = if alone || filter.is_none() {
        setup.browser(workspace)?
    } else {
        Err("the filter is for other tests".to_owned())
    };
    setup.finish()?;
    let bpf = bpf.context(
        "set-up found nothing missing and yet no BPF compiler; this is a fault of `cargo xtask`",
    )?;
    // The objects come first, so that the agent under test embeds them.
    bpf::build(workspace, &bpf, Arch::host()?)?;

    let mut steps = Steps::default();
    if alone {
        steps.step("the live page", || page::run(workspace, &browser));
        return steps.finish();
    }
    let path = match &promtool {
        Ok(folder) => path_with(folder)?,
        Err(why) => {
            println!("{why}; tests that need it say so");
            env::var_os("PATH").unwrap_or_default()
        }
    };
    steps.step("tests without privileges", || {
        let mut cargo = workspace.cargo();
        cargo.args([
            "test",
            "--workspace",
            "--exclude",
            BPF_PACKAGE,
            "--no-fail-fast",
        ]);
        counted(cargo.env("PATH", &path).args(filter))
    });
    steps.step("tests of the shared types", || {
        let mut cargo = workspace.cargo();
        cargo.args(["test", "--package", BPF_PACKAGE, "--lib"]);
        counted(cargo.args(filter))
    });
    steps.step("kernel tests", || kernel(workspace, install, filter, &path));
    steps.step("the live page", || page::run(workspace, &browser));
    steps.finish()
}

/// Returns `PATH` with a folder in front.
fn path_with(folder: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_owned()).chain(env::split_paths(&path));
    env::join_paths(folders).with_context(|| format!("{} cannot be part of PATH", folder.display()))
}

fn kernel(
    workspace: &Workspace,
    install: Install,
    filter: Option<&str>,
    path: &OsStr,
) -> Result<Outcome> {
    let package = workspace.root.join("agent");
    if !has_rust_files(&package.join("tests")) {
        return Ok(Outcome::Skipped("agent/tests has none".to_owned()));
    }
    let privilege = Privilege::find();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let btf = Path::new("/sys/kernel/btf/vmlinux").exists();
    if let Some(why) = obstacle(privilege, &status, btf) {
        return Ok(Outcome::Skipped(why));
    }
    // This user builds them and root only starts them, so that root owns nothing in the target folder.
    let programs = Built::tests(workspace, "*")?.integration_tests();
    if programs.is_empty() {
        bail!(
            "Cargo built the tests of agent/tests but named no program; is its message format another?"
        );
    }
    let mut total = Count::default();
    let mut failed = Vec::new();
    let containers = Containers::prepare(workspace, install, &programs, filter)?;
    for program in programs {
        let mut command = containers.command(privilege, &program, path)?;
        // They run one at a time, because they measure, and they attach to the same kernel.
        command
            .args(["--ignored", "--test-threads=1"])
            .args(filter)
            .current_dir(&package);
        let (count, passed) = watched(&mut command)?;
        total = total.plus(count);
        if !passed {
            failed.push(
                program
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
            );
        }
    }
    if !failed.is_empty() {
        bail!("{total}; failed in {}", failed.join(", "));
    }
    Ok(Outcome::Passed(total.to_string()))
}

fn has_rust_files(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.path().extension().is_some_and(|e| e == "rs"))
    })
}

/// Returns the reason why kernel tests cannot run here; none if they can.
fn obstacle(privilege: Privilege, proc_status: &str, btf: bool) -> Option<String> {
    if !btf {
        return Some("the kernel offers no type information at /sys/kernel/btf/vmlinux".to_owned());
    }
    match privilege {
        Privilege::None(why) => Some(format!("they load BPF programs, and {why}")),
        Privilege::Sudo => None,
        Privilege::Root => (!may_load_bpf(proc_status)).then(|| {
            "this root may not load BPF programs: it has neither CAP_SYS_ADMIN nor CAP_BPF with CAP_PERFMON".to_owned()
        }),
    }
}

/// Parses the effective capabilities of `/proc/self/status`. A container's root often lacks these.
fn may_load_bpf(proc_status: &str) -> bool {
    const SYS_ADMIN: u64 = 1 << 21;
    const PERFMON_AND_BPF: u64 = (1 << 38) | (1 << 39);
    let effective = proc_status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    effective & SYS_ADMIN != 0 || effective & PERFMON_AND_BPF == PERFMON_AND_BPF
}

/// Sum of the results that test programs report.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Count {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Count {
    /// Parses a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn parse(line: &str) -> Option<Self> {
        let rest = line.trim().strip_prefix("test result: ")?;
        let of = |word: &str| {
            rest.split([';', '.'])
                .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
        };
        Some(Self {
            passed: of("passed")?,
            failed: of("failed")?,
            ignored: of("ignored")?,
        })
    }

    fn plus(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            ignored: self.ignored + other.ignored,
        }
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed", self.passed)?;
        if self.failed > 0 {
            write!(f, ", {} failed", self.failed)?;
        }
        if self.ignored > 0 {
            write!(f, ", {} ignored", self.ignored)?;
        }
        Ok(())
    }
}

fn counted(command: &mut Command) -> Result<Outcome> {
    let (count, passed) = watched(command)?;
    if !passed {
        bail!("{count}; `{}` failed", shell::line(command));
    }
    Ok(Outcome::Passed(count.to_string()))
}

/// Runs tests, passes on their output and adds up their results.
fn watched(command: &mut Command) -> Result<(Count, bool)> {
    let mut count = Count::default();
    let status = shell::lines(command, |line| {
        println!("{line}");
        if let Some(more) = Count::parse(line) {
            count = count.plus(more);
        }
        Ok(())
    })?;
    Ok((count, status.success()))
}

#[cfg(test)]
mod tests {
    use super::{Count, may_load_bpf, obstacle};
    use crate::shell::Privilege;

    #[test]
    fn results_are_read_and_added() {
        let line = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        let count = Count::parse(line).unwrap();
        assert_eq!(
            count.plus(count).to_string(),
            "6 passed, 2 failed, 4 ignored"
        );
        assert_eq!(Count::parse("running 3 tests"), None);
    }

    #[test]
    fn kernel_tests_are_skipped_with_the_reason() {
        let full = "Name:\tx\nCapEff:\t000001ffffffffff\n";
        let container = "CapEff:\t00000000a80425fb\n";
        assert!(may_load_bpf(full) && may_load_bpf("CapEff:\t000000c000000000"));
        assert!(!may_load_bpf(container) && !may_load_bpf(""));
        assert_eq!(obstacle(Privilege::Root, full, true), None);
        assert_eq!(obstacle(Privilege::Sudo, container, true), None);
        let said = |privilege, status, btf| obstacle(privilege, status, btf).unwrap();
        assert!(said(Privilege::Root, container, true).contains("CAP_BPF"));
        assert!(said(Privilege::Root, full, false).contains("btf"));
        assert!(said(Privilege::None("no sudo"), full, true).contains("no sudo"));
    }
}

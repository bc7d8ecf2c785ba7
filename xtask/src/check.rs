//! `cargo xtask check`: checks the code without running it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::bpf::{self, Arch};
use crate::chart;
use crate::rooms;
use crate::setup::{Bpf, Install, Setup};
use crate::shell;
use crate::steps::{Outcome, Steps};
use crate::workspace::{AGENT_PACKAGE, BPF_PACKAGE, Workspace};

/// Check formatting, lints, dependencies, the chart and all that is generated.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Format the code and write what is generated instead of only comparing it.
    #[arg(long)]
    fix: bool,

    /// Also send what the chart renders to the API server of this kubeconfig, as a dry run that keeps nothing.
    #[arg(long, value_name = "KUBECONFIG")]
    server_dry_run: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask check                 what CI runs before the tests
  cargo xtask check --fix           formats the code, writes the pages in docs/ that are made from it
  cargo xtask check --server-dry-run ~/.kube/config   also asks a real API server about the chart
  cargo xtask check --no-install    names missing tools instead of installing them";

/// Generated pages: the argument of the agent's hidden `reference` command, and the file that holds its output.
const REFERENCES: [(&str, &str); 3] = [
    ("metrics", "docs/metrics.md"),
    ("cli", "docs/cli.md"),
    ("doctor", "docs/doctor/README.md"),
];

/// Sets up and runs all checks.
pub fn run(workspace: &Workspace, install: Install, args: &Args) -> Result<()> {
    let mut setup = Setup::new(install);
    let bpf = setup.bpf(workspace)?;
    setup.host_lints()?;
    if let Some(bpf) = &bpf {
        setup.bpf_clippy(&bpf.compiler)?;
    }
    let deny = setup.deny(workspace)?;
    let chart = chart::Tools::find(&mut setup, workspace)?;
    setup.finish()?;
    let (Some(bpf), Some(deny)) = (bpf, deny) else {
        bail!(
            "set-up found nothing missing and yet not every tool; this is a fault of `cargo xtask`"
        );
    };

    let mut steps = Steps::default();
    steps.step("formatting", || {
        let mut cargo = workspace.cargo();
        cargo.args(["fmt", "--all"]);
        if !args.fix {
            cargo.arg("--check");
        }
        passed(&mut cargo)
    });
    steps.step("lints of the agent", || {
        let mut cargo = workspace.cargo();
        cargo.args([
            "clippy",
            "--workspace",
            "--exclude",
            BPF_PACKAGE,
            "--all-targets",
        ]);
        passed(cargo.args(["--", "-D", "warnings"]))
    });
    steps.step("lints of the shared types", || {
        let mut cargo = workspace.cargo();
        cargo.args(["clippy", "--package", BPF_PACKAGE, "--lib"]);
        passed(cargo.args(["--", "-D", "warnings"]))
    });
    steps.step("lints of the kernel side", || kernel_side(workspace, &bpf));
    steps.step("rooms of the agent", || rooms::check(workspace));
    steps.step("licences, duplicates and sources", || {
        passed(&mut denying(
            workspace,
            &deny,
            &["licenses", "bans", "sources"],
        ))
    });
    steps.step("advisories", || advisories(workspace, &deny));
    for (subject, page) in REFERENCES {
        steps.step(page, || reference(workspace, subject, page, args.fix));
    }
    chart::check(
        workspace,
        &chart,
        &mut steps,
        args.fix,
        args.server_dry_run.as_deref(),
    );
    steps.finish()
}

fn passed(command: &mut Command) -> Result<Outcome> {
    shell::run(command)?;
    Ok(Outcome::Passed(String::new()))
}

fn kernel_side(workspace: &Workspace, bpf: &Bpf) -> Result<Outcome> {
    if workspace.bpf_bins.is_empty() {
        return Ok(Outcome::Skipped(format!("{BPF_PACKAGE} has no programs")));
    }
    bpf::clippy(workspace, bpf, Arch::host()?)?;
    Ok(Outcome::Passed(String::new()))
}

fn denying(workspace: &Workspace, deny: &Path, checks: &[&str]) -> Command {
    let mut command = workspace.scoped(Command::new(deny));
    shell::forget_this_package(&mut command);
    command
        .args(["--all-features", "check", "--hide-inclusion-graph"])
        .args(checks);
    command
}

/// Checks advisories. They come from a repository on the network, which closed networks cannot reach.
fn advisories(workspace: &Workspace, deny: &Path) -> Result<Outcome> {
    let mut fetch = workspace.scoped(Command::new("timeout"));
    fetch.arg("60").arg(deny).args(["fetch", "db"]);
    if let Err(error) = shell::stdout(&mut fetch) {
        let error = error.to_string();
        let fatal = error.lines().find_map(|line| line.strip_prefix("fatal: "));
        return Ok(Outcome::Skipped(format!(
            "the advisory database could not be fetched: {}",
            fatal.unwrap_or("no answer within a minute, or no git")
        )));
    }
    passed(&mut denying(workspace, deny, &["advisories"]))
}

fn reference(workspace: &Workspace, subject: &str, page: &str, fix: bool) -> Result<Outcome> {
    let mut agent = workspace.cargo();
    agent
        .args(["run", "--quiet", "--package", AGENT_PACKAGE, "--"])
        .args(["reference", subject])
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    let output = agent
        .output()
        .with_context(|| format!("could not start `{}`", shell::line(&agent)))?;
    let path = workspace.root.join(page);
    let kept = match fs::read(&path) {
        Ok(kept) => Some(kept),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("could not read {page}")),
    };
    match compare(&output, kept.as_deref(), subject)? {
        Page::Current => Ok(Outcome::Passed(String::new())),
        Page::NotYet => Ok(Outcome::Skipped(format!(
            "this agent has no `reference {subject}` yet"
        ))),
        Page::Stale if fix => {
            path.parent()
                .map_or(Ok(()), fs::create_dir_all)
                .and_then(|()| fs::write(&path, &output.stdout))
                .with_context(|| format!("could not write {page}"))?;
            Ok(Outcome::Passed("written".to_owned()))
        }
        Page::Stale => bail!(
            "{page} is not what `{AGENT_PACKAGE} reference {subject}` prints; run `cargo xtask check --fix` and commit it"
        ),
    }
}

#[derive(Debug, Eq, PartialEq)]
enum Page {
    Current,
    Stale,
    /// Neither the page nor the command that would print it exists.
    NotYet,
}

fn compare(output: &Output, kept: Option<&[u8]>, subject: &str) -> Result<Page> {
    let printed = output.status.success() && !output.stdout.is_empty();
    match (printed, kept) {
        (true, Some(kept)) if kept == output.stdout => Ok(Page::Current),
        (true, _) => Ok(Page::Stale),
        (false, None) if unknown_command(output) => Ok(Page::NotYet),
        (false, _) => bail!(
            "`{AGENT_PACKAGE} reference {subject}` should print the page, but ended with {} and printed nothing\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        ),
    }
}

/// Returns whether the agent has no such command: it does nothing, or refuses the command line the way clap does.
fn unknown_command(output: &Output) -> bool {
    output.status.success()
        || (output.status.code() == Some(2)
            && String::from_utf8_lossy(&output.stderr).contains("unrecognized subcommand"))
}

#[cfg(test)]
mod tests {
    use super::{Page, compare};
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{ExitStatus, Output};

    fn output(code: i32, stdout: &str, stderr: &str) -> Output {
        Output {
            status: ExitStatus::from_raw(code << 8),
            stdout: stdout.into(),
            stderr: stderr.into(),
        }
    }

    #[test]
    fn pages_are_compared_byte_by_byte() {
        let page = output(0, "# Metrics\n", "");
        let seen = |kept| compare(&page, kept, "metrics").unwrap();
        assert_eq!(seen(Some(b"# Metrics\n".as_slice())), Page::Current);
        assert_eq!(seen(Some(b"# Metrics".as_slice())), Page::Stale);
        assert_eq!(seen(None), Page::Stale);
    }

    #[test]
    fn a_page_whose_command_vanished_fails() {
        let unknown = output(2, "", "error: unrecognized subcommand 'reference'");
        assert_eq!(compare(&unknown, None, "cli").unwrap(), Page::NotYet);
        assert!(compare(&unknown, Some(b"x"), "cli").is_err());
        let broken = output(101, "", "error: could not compile");
        assert!(compare(&broken, None, "cli").is_err());
    }
}

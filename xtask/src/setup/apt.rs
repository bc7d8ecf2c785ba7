//! Debian packages: queries and installation.

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};

use crate::shell::{self, Privilege};

/// The package names of one packaging of Rust. Debian has several, of different ages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Family {
    /// Package of the compiler.
    pub rustc: &'static str,
    /// Package of the `core` library built for BPF.
    pub core: &'static str,
    /// Package of Clippy for that compiler.
    pub clippy: &'static str,
    /// Package of the formatter.
    pub rustfmt: &'static str,
}

/// Families, newest first: stable releases get a current compiler as `rustc-web`.
pub const FAMILIES: [Family; 2] = [
    Family {
        rustc: "rustc-web",
        core: "libstd-rust-web-dev-bpf",
        clippy: "rust-web-clippy",
        rustfmt: "rustfmt-web",
    },
    Family {
        rustc: "rustc",
        core: "libstd-rust-dev-bpf",
        clippy: "rust-clippy",
        rustfmt: "rustfmt",
    },
];

/// apt's information about one package.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policy {
    /// Name of the package.
    pub name: String,
    /// True if the package is installed.
    pub installed: bool,
    /// Version that apt would install.
    pub candidate: Option<String>,
}

/// Parses the answer of `apt-cache policy NAME…`. Packages that apt does not know are not in it.
pub fn parse_policy(text: &str) -> Vec<Policy> {
    let value = |line: &str, key: &str| {
        line.trim()
            .strip_prefix(key)
            .map(|v| v.trim().to_owned())
            .map(|v| (v != "(none)").then_some(v))
    };
    let mut policies: Vec<Policy> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|n| !n.starts_with(' ')) {
            policies.push(Policy {
                name: name.to_owned(),
                installed: false,
                candidate: None,
            });
        } else if let Some(last) = policies.last_mut() {
            if let Some(installed) = value(line, "Installed:") {
                last.installed = installed.is_some();
            } else if let Some(candidate) = value(line, "Candidate:") {
                last.candidate = candidate;
            }
        }
    }
    policies
}

/// Returns the first family that apt can install completely.
pub fn installable_family(policies: &[Policy]) -> Option<Family> {
    let there = |name: &str| {
        policies
            .iter()
            .any(|p| p.name == name && p.candidate.is_some())
    };
    FAMILIES
        .into_iter()
        .find(|family| there(family.rustc) && there(family.core))
}

/// Returns the LLVM of a compiler that is not installed yet: its BPF library recommends the linker of the same LLVM.
pub fn parse_recommended_llvm(depends: &str) -> Option<u32> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Recommends: lld-"))
        .find_map(|major| major.parse().ok())
}

/// Returns whether this machine has apt.
pub fn exists() -> bool {
    shell::which("apt-get").is_some() && shell::which("apt-cache").is_some()
}

/// Asks apt about packages.
pub fn policy(names: &[&str]) -> Result<Vec<Policy>> {
    let mut command = Command::new("apt-cache");
    command.arg("policy").args(names).env("LC_ALL", "C");
    Ok(parse_policy(&shell::stdout(&mut command)?))
}

/// Returns whether a package is installed or can be.
pub fn offers(package: &str) -> bool {
    exists()
        && policy(&[package])
            .is_ok_and(|policies| policies.iter().any(|policy| policy.candidate.is_some()))
}

/// Returns the LLVM that the family's compiler will bring, as far as apt can tell.
pub fn recommended_llvm(family: Family) -> Option<u32> {
    let mut command = Command::new("apt-cache");
    command.args(["depends", family.core]).env("LC_ALL", "C");
    parse_recommended_llvm(&shell::stdout(&mut command).ok()?)
}

/// Fetches the package lists when they are empty or older than a day: old lists name files that mirrors have removed.
pub fn refresh_lists() -> Result<()> {
    if !stale(lists_age()) {
        return Ok(());
    }
    println!("set-up: fetching apt's package lists, which are empty or older than a day (seconds)");
    update()
}

fn update() -> Result<()> {
    shell::run(
        Privilege::find()
            .command("apt-get")?
            .args(["-qq", "update"]),
    )
    .context("apt's package lists could not be fetched; is a mirror reachable?")
}

fn stale(age: Option<Duration>) -> bool {
    age.is_none_or(|age| age > Duration::from_secs(24 * 60 * 60))
}

/// Returns the time since the lists were fetched; none without lists. The files themselves have the mirror's dates.
fn lists_age() -> Option<Duration> {
    let folder = std::path::Path::new("/var/lib/apt/lists");
    fs::read_dir(folder)
        .ok()?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().contains("_Packages"))?;
    let fetched = folder.metadata().ok()?.modified().ok()?;
    Some(
        SystemTime::now()
            .duration_since(fetched)
            .unwrap_or_default(),
    )
}

/// Returns the command that installs packages, as a user would type it.
pub fn install_line(packages: &[String]) -> String {
    format!(
        "apt-get install --no-install-recommends {}",
        packages.join(" ")
    )
}

/// Installs packages and removes none.
///
/// apt's resolver sometimes refuses in one call what it accepts in several, so the second attempt installs them one by
/// one.
pub fn install(packages: &[String]) -> Result<()> {
    refresh_lists()?;
    if install_at_once(packages).is_ok() {
        return Ok(());
    }
    println!(
        "set-up: apt refused these packages in one call; fetching the lists and trying one by one"
    );
    update()?;
    for package in packages {
        install_at_once(std::slice::from_ref(package))
            .with_context(|| format!("the package {package} could not be installed"))?;
    }
    Ok(())
}

fn install_at_once(packages: &[String]) -> Result<()> {
    let mut command = Privilege::find().command("env")?;
    command
        .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-y"])
        .args(["-o", "Dpkg::Use-Pty=0", "--no-remove"])
        .args(["install", "--no-install-recommends"])
        .args(packages);
    // dpkg prints every file it unpacks. The error contains what went wrong.
    shell::stdout(&mut command).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::{
        FAMILIES, Policy, installable_family, parse_policy, parse_recommended_llvm, stale,
    };
    use std::time::Duration;

    const POLICY: &str = "\
rustc-web:
  Installed: (none)
  Candidate: 1.96.0+dfsg1-1~deb12u2
  Version table:
     1.96.0+dfsg1-1~deb12u2 500
        500 http://mirror.example/debian-security bookworm-security/main amd64 Packages
libstd-rust-web-dev-bpf:
  Installed: (none)
  Candidate: (none)
  Version table:
llvm-22-dev:
  Installed: 1:22.1.8-1~deb12u1
  Candidate: 1:22.1.8-1~deb12u1
";

    #[test]
    fn policy_tells_installed_installable_and_absent_apart() {
        let policies = parse_policy(POLICY);
        let seen: Vec<_> = policies
            .iter()
            .map(|p| (p.name.as_str(), p.installed, p.candidate.is_some()))
            .collect();
        assert_eq!(
            seen,
            [
                ("rustc-web", false, true),
                ("libstd-rust-web-dev-bpf", false, false),
                ("llvm-22-dev", true, true)
            ]
        );
        assert_eq!(parse_policy(""), []);
    }

    #[test]
    fn a_family_counts_only_whole() {
        let candidate = |name: &str| Policy {
            name: name.into(),
            installed: false,
            candidate: Some("1".into()),
        };
        assert_eq!(installable_family(&parse_policy(POLICY)), None);
        let second = [candidate("rustc"), candidate("libstd-rust-dev-bpf")];
        assert_eq!(installable_family(&second), Some(FAMILIES[1]));
        let mut both = second.to_vec();
        both.extend([candidate("libstd-rust-web-dev-bpf"), candidate("rustc-web")]);
        assert_eq!(installable_family(&both), Some(FAMILIES[0]));
    }

    #[test]
    fn the_llvm_to_come_is_read_from_the_recommended_linker() {
        let depends =
            "libstd-rust-web-dev-bpf\n  Conflicts: <libstd-rust-dev-bpf>\n  Recommends: lld-22\n";
        assert_eq!(parse_recommended_llvm(depends), Some(22));
        assert_eq!(parse_recommended_llvm("x\n  Recommends: lld\n"), None);
    }

    #[test]
    fn lists_go_stale_after_a_day_and_absent_ones_are() {
        assert!(stale(None));
        assert!(!stale(Some(Duration::from_secs(3600))));
        assert!(stale(Some(Duration::from_secs(100_000))));
    }
}

//! Conditions of a host without which no probe can work, each with its remedy.

use std::{fs, path::Path};

/// Reason why no probe can work here.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// Capabilities are missing.
    #[error(
        "missing {}: loading and attaching BPF programs needs CAP_BPF and CAP_PERFMON (or CAP_SYS_ADMIN); run as root, or give the process these capabilities",
        .0.join(" and ")
    )]
    Capabilities(Vec<&'static str>),
    /// The kernel does not describe its types.
    #[error(
        "this kernel has no type information at /sys/kernel/btf/vmlinux; Stallscope needs a kernel built with CONFIG_DEBUG_INFO_BTF=y (most distributions' kernels since 5.10 are)"
    )]
    NoBtf,
    /// Lockdown forbids reading kernel memory.
    #[error(
        "the kernel is locked down ({0}), which forbids BPF programs to read kernel memory; boot with lockdown=integrity or none (see kernel_lockdown(7))"
    )]
    Lockdown(String),
}

const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Checks the conditions without which every probe would fail. `proc` and `sys` are `/proc` and
/// `/sys`.
///
/// # Errors
/// The first condition that does not hold.
pub fn check(proc: &Path, sys: &Path) -> Result<(), Error> {
    let missing = fs::read_to_string(proc.join("self/status"))
        .ok()
        .and_then(|status| effective(&status))
        .map(missing)
        .unwrap_or_default();
    if !missing.is_empty() {
        return Err(Error::Capabilities(missing));
    }
    if !sys.join("kernel/btf/vmlinux").exists() {
        return Err(Error::NoBtf);
    }
    let lockdown = fs::read_to_string(sys.join("kernel/security/lockdown")).unwrap_or_default();
    if lockdown.contains("[confidentiality]") {
        return Err(Error::Lockdown("confidentiality".to_owned()));
    }
    Ok(())
}

/// The effective capabilities in the text of `/proc/PID/status` (proc(5)).
fn effective(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing(capabilities: u64) -> Vec<&'static str> {
    let has = |capability: u32| capabilities >> capability & 1 != 0;
    if has(CAP_SYS_ADMIN) {
        return Vec::new();
    }
    [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")]
        .into_iter()
        .filter(|(capability, _)| !has(*capability))
        .map(|(_, name)| name)
        .collect()
}

/// Lets BPF maps be larger than the default limit on locked memory, which kernels before 5.11 count
/// them against. Later ones do not, so that a refusal says nothing.
pub fn raise_memlock_limit() {
    let limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: a valid pointer to a valid structure.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } != 0 {
        let error = std::io::Error::last_os_error();
        tracing::debug!(%error, "cannot raise the limit on locked memory");
    }
}

/// `uname -r`.
#[must_use]
pub fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_capability_is_named() {
        assert_eq!(missing(0), ["CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(missing(1 << CAP_BPF), ["CAP_PERFMON"]);
        assert_eq!(missing(1 << CAP_PERFMON), ["CAP_BPF"]);
        assert!(missing(1 << CAP_SYS_ADMIN).is_empty());
        assert!(missing(1 << CAP_BPF | 1 << CAP_PERFMON).is_empty());
        assert_eq!(
            effective("Name:\tx\nCapEff:\t0000000000200000\n"),
            Some(1 << 21)
        );
    }

    #[test]
    fn each_obstacle_has_its_own_error() -> std::io::Result<()> {
        let root = tempfile::tempdir()?;
        let (proc, sys) = (root.path().join("proc"), root.path().join("sys"));
        fs::create_dir_all(proc.join("self"))?;
        fs::create_dir_all(sys.join("kernel/btf"))?;
        fs::create_dir_all(sys.join("kernel/security"))?;
        fs::write(proc.join("self/status"), "CapEff:\t0000000000000000\n")?;
        assert!(matches!(check(&proc, &sys), Err(Error::Capabilities(_))));
        fs::write(proc.join("self/status"), "CapEff:\t000001ffffffffff\n")?;
        assert_eq!(check(&proc, &sys), Err(Error::NoBtf));
        fs::write(sys.join("kernel/btf/vmlinux"), "")?;
        fs::write(
            sys.join("kernel/security/lockdown"),
            "none integrity [confidentiality]\n",
        )?;
        assert!(matches!(check(&proc, &sys), Err(Error::Lockdown(_))));
        fs::write(
            sys.join("kernel/security/lockdown"),
            "none [integrity] confidentiality\n",
        )?;
        assert_eq!(check(&proc, &sys), Ok(()));
        Ok(())
    }
}

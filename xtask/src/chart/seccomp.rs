//! The seccomp profile `deploy/seccomp/stallscope.json`, parsed as container runtimes parse it.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction};

use super::read;
use crate::steps::Outcome;
use crate::workspace::Workspace;

const PROFILE: &str = "deploy/seccomp/stallscope.json";

/// System calls without which the agent measures nothing.
const NEEDED: [&str; 2] = ["bpf", "perf_event_open"];

/// System calls by which a process reaches beyond itself. The profile must never allow them.
const NEVER: [&str; 14] = [
    "mount",
    "umount2",
    "pivot_root",
    "setns",
    "unshare",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "init_module",
    "finit_module",
    "kexec_load",
    "reboot",
    "open_by_handle_at",
    "io_uring_setup",
];

/// Checks that the profile refuses all calls but those on its list, on both architectures.
pub fn check(workspace: &Workspace) -> Result<Outcome> {
    let calls = allowed(&read(&workspace.root.join(PROFILE))?).context(PROFILE)?;
    Ok(Outcome::Passed(format!("{calls} calls allowed")))
}

/// Checks a profile and returns the number of calls it allows.
fn allowed(text: &str) -> Result<usize> {
    let profile: LinuxSeccomp = serde_json::from_str(text)
        .context("this is no seccomp profile as OCI's runtimes read it")?;
    if profile.default_action() != LinuxSeccompAction::ScmpActErrno {
        bail!("defaultAction should be SCMP_ACT_ERRNO: what is not listed is refused");
    }
    let architectures = profile.architectures().as_deref().unwrap_or_default();
    for wanted in [Arch::ScmpArchX86_64, Arch::ScmpArchAarch64] {
        if !architectures.contains(&wanted) {
            bail!("architectures should hold {wanted}");
        }
    }
    let mut names = BTreeSet::new();
    for rule in profile.syscalls().iter().flatten() {
        if rule.action() != LinuxSeccompAction::ScmpActAllow {
            bail!(
                "every rule should be SCMP_ACT_ALLOW; {:?} is not",
                rule.names()
            );
        }
        for name in rule.names() {
            if !names.insert(name.as_str()) {
                bail!("`{name}` is listed twice");
            }
        }
    }
    if let Some(missing) = NEEDED.iter().find(|name| !names.contains(*name)) {
        bail!("`{missing}` is not allowed, without which nothing is measured");
    }
    if let Some(reach) = NEVER.iter().find(|name| names.contains(*name)) {
        bail!("`{reach}` is allowed, which the agent never calls and an intruder would");
    }
    Ok(names.len())
}

#[cfg(test)]
mod tests {
    use super::allowed;

    fn profile(default: &str, architectures: &str, names: &str) -> String {
        format!(
            r#"{{"defaultAction":"{default}","architectures":[{architectures}],
            "syscalls":[{{"names":[{names}],"action":"SCMP_ACT_ALLOW"}}]}}"#
        )
    }

    #[test]
    fn only_a_list_for_both_architectures_will_do() {
        let both = r#""SCMP_ARCH_X86_64","SCMP_ARCH_AARCH64""#;
        let names = r#""bpf","perf_event_open","read""#;
        let refusal = |default, architectures, names| {
            allowed(&profile(default, architectures, names))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(allowed(&profile("SCMP_ACT_ERRNO", both, names)).unwrap(), 3);
        assert!(refusal("SCMP_ACT_ALLOW", both, names).contains("defaultAction"));
        assert!(
            refusal("SCMP_ACT_ERRNO", r#""SCMP_ARCH_X86_64""#, names).contains("architectures")
        );
        assert!(refusal("SCMP_ACT_ERRNO", both, r#""bpf""#).contains("perf_event_open"));
        assert!(refusal("SCMP_ACT_ERRNO", both, r#""bpf","bpf""#).contains("twice"));
        let more = r#""bpf","perf_event_open","mount""#;
        assert!(refusal("SCMP_ACT_ERRNO", both, more).contains("`mount`"));
        assert!(allowed("{}").is_err());
    }
}

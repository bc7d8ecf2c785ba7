//! The node audit: it finds a wrong setting, and nothing once the command it prints was run.

mod groups;

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Truth;
use crate::{Report, Setting, World};

pub(super) const TRUTHS: &[Truth] = &[Truth {
    name: "doctor_finds_and_mends",
    about: "the audit finds each setting that was turned wrong, and the command it prints mends it",
    both_hierarchies: false,
    run,
}];

const THP: &str = "/sys/kernel/mm/transparent_hugepage";

/// A setting that can be made wrong.
struct Flip {
    check: &'static str,
    file: &'static str,
    /// Value with which nothing is found; `None` for the value as it is.
    good: Option<&'static str>,
    bad: &'static str,
}

const fn flip(
    check: &'static str,
    file: &'static str,
    good: Option<&'static str>,
    bad: &'static str,
) -> Flip {
    Flip {
        check,
        file,
        good,
        bad,
    }
}

const FLIPS: [Flip; 13] = [
    flip(
        "zone-reclaim",
        "/proc/sys/vm/zone_reclaim_mode",
        Some("0"),
        "1",
    ),
    flip(
        "numa-balancing",
        "/proc/sys/kernel/numa_balancing",
        Some("1"),
        "0",
    ),
    flip(
        "min-free-kbytes",
        "/proc/sys/vm/min_free_kbytes",
        None,
        "1000",
    ),
    flip(
        "watermark-scale-factor",
        "/proc/sys/vm/watermark_scale_factor",
        Some("10"),
        "1",
    ),
    flip(
        "max-map-count",
        "/proc/sys/vm/max_map_count",
        Some("262144"),
        "65530",
    ),
    flip(
        "perf-event-paranoid",
        "/proc/sys/kernel/perf_event_paranoid",
        Some("2"),
        "-1",
    ),
    flip(
        "unprivileged-bpf",
        "/proc/sys/kernel/unprivileged_bpf_disabled",
        Some("2"),
        "0",
    ),
    flip(
        "schedstats",
        "/proc/sys/kernel/sched_schedstats",
        Some("0"),
        "1",
    ),
    flip(
        "somaxconn",
        "/proc/sys/net/core/somaxconn",
        Some("4096"),
        "128",
    ),
    flip(
        "file-limits",
        "/proc/sys/fs/inotify/max_user_instances",
        Some("8192"),
        "128",
    ),
    flip(
        "thp-enabled",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        Some("madvise"),
        "always",
    ),
    flip(
        "thp-defrag",
        "/sys/kernel/mm/transparent_hugepage/defrag",
        Some("madvise"),
        "always",
    ),
    flip(
        "khugepaged-pace",
        "/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs",
        Some("10000"),
        "10",
    ),
];

fn run(world: &mut World, report: &mut Report) -> Result<()> {
    if !world.guest {
        report.leave_out("settings of the host are not the lab's to change");
        return Ok(());
    }
    // Some settings matter only on nodes of Kubernetes, which have this directory.
    let kubelet = Kubelet::appear()?;
    // The pace of khugepaged matters only where it has work.
    let huge = Setting::put(format!("{THP}/enabled"), "madvise")?;
    let mut seen = 0;
    for flip in &FLIPS {
        seen += u64::from(turned(world, report, flip)?);
    }
    drop(huge);
    drop(kubelet);
    seen += groups::run(world, report)?;
    report.between(
        "settings turned wrong, found, mended and gone",
        10,
        99,
        seen,
    );
    Ok(())
}

/// Makes a setting wrong and mends it as the audit says. False if this kernel does not have it.
fn turned(world: &World, report: &mut Report, flip: &Flip) -> Result<bool> {
    let Ok(setting) = Setting::open(flip.file) else {
        report.leave_out(format!("this kernel has no {}", flip.file));
        return Ok(false);
    };
    if let Some(good) = flip.good {
        setting.set(good)?;
    }
    found_and_mended(world, report, flip.check, "", || setting.set(flip.bad))?;
    Ok(true)
}

/// Expects a check to find nothing, something once `spoil` was done, and nothing once the first command of the
/// finding was run. A finding counts if its value contains `about`.
fn found_and_mended(
    world: &World,
    report: &mut Report,
    check: &str,
    about: &str,
    spoil: impl FnOnce() -> Result<()>,
) -> Result<()> {
    report.equal(
        format!("{check}: found before"),
        0,
        audit(world, check, about)?.len(),
    );
    spoil()?;
    let found = audit(world, check, about)?;
    report.equal(format!("{check}: found"), 1, found.len());
    let Some(finding) = found.first() else {
        return Ok(());
    };
    let mends = finding["mend"].as_array().into_iter().flatten();
    let mut commands = mends.filter(|mend| mend["kind"] == "command");
    let command = commands.next().and_then(|mend| mend["text"].as_str());
    let command = command.with_context(|| format!("{check} prints no command"))?;
    println!("    $ {command}");
    let status = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("cannot start a shell")?;
    report.check(
        format!("{check}: its command"),
        "succeeds",
        status,
        status.success(),
    );
    report.equal(
        format!("{check}: found after its command"),
        0,
        audit(world, check, about)?.len(),
    );
    Ok(())
}

/// Findings of a check.
fn audit(world: &World, check: &str, about: &str) -> Result<Vec<Value>> {
    let output = Command::new(&world.program)
        .args(["doctor", "--json", "--agent", &world.agent.address()])
        .stdin(Stdio::null())
        .output()
        .context("cannot start the audit")?;
    ensure!(
        matches!(output.status.code(), Some(0..=2)),
        "the audit failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: Value = serde_json::from_slice(&output.stdout).context("the audit is no JSON")?;
    let made = report["checks"].as_array().into_iter().flatten();
    let state = made.into_iter().find(|made| made["check"] == check);
    let state = state.with_context(|| format!("there is no check {check}"))?;
    ensure!(
        state["state"] != "unknown" && state["state"] != "not_here",
        "{check} was not made: {}",
        state["because"]
    );
    let findings = report["findings"].as_array().into_iter().flatten();
    let of_it = findings.filter(|finding| {
        let value = finding["value"].as_str().unwrap_or_default();
        let files = finding["read"].to_string();
        finding["check"] == check && (value.contains(about) || files.contains(about))
    });
    Ok(of_it.cloned().collect())
}

/// Directory by which a node of Kubernetes is known, removed when dropped.
struct Kubelet;

const KUBELET: &str = "/var/lib/kubelet";

impl Kubelet {
    fn appear() -> Result<Self> {
        std::fs::create_dir_all(KUBELET).with_context(|| format!("cannot make {KUBELET}"))?;
        Ok(Self)
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        // A directory that stays is in a machine that is about to end.
        let _ = std::fs::remove_dir(KUBELET);
    }
}

//! Causes of memory: daemons, reclaim and compaction.

use super::{Case, Evidence, Remedy, sysctl};
use crate::{
    explain::text::{bytes, number},
    text::shell_command::ShellCommand,
};

pub(super) fn daemon_evidence(case: &Case) -> Vec<Evidence> {
    let seconds = case.window_seconds().max(1.0);
    let daemons = case.daemons.iter().map(|daemon| {
        let node = if daemon.node.is_empty() {
            String::new()
        } else {
            format!(" of node {}", daemon.node)
        };
        let percent = daemon.cpu_seconds / seconds * 100.0;
        Evidence::number(
            "daemon_cpu_seconds",
            daemon.cpu_seconds,
            "seconds",
            format!(
                "{}{node} took {} % of a CPU",
                daemon.daemon,
                number(percent)
            ),
        )
    });
    let mut evidence: Vec<_> = daemons.collect();
    if let Some((enabled, defrag)) = &case.node.thp {
        evidence.push(Evidence::text(
            "transparent_hugepage",
            format!("transparent huge pages are `{enabled}`, defrag `{defrag}`"),
        ));
    }
    evidence
}

pub(super) fn limit_evidence(case: &Case) -> Vec<Evidence> {
    let limit = case.facts.memory_limit.as_ref().map(|(used, limit, file)| {
        let text = format!("uses {} of {} now ({file})", bytes(*used), bytes(*limit));
        Evidence::number("memory_limit", *limit as f64, "bytes", text)
    });
    limit.into_iter().collect()
}

pub(super) fn limit_remedy(case: &Case) -> Vec<Remedy> {
    let mut remedies = case.raise_memory_limit();
    remedies.push(Remedy::advice(
        "Or let it use less: page cache of files that are read once counts too (O_DIRECT, posix_fadvise), and so do caches of its own",
    ));
    remedies
}

pub(super) fn reclaim_remedy(case: &Case) -> Vec<Remedy> {
    let mut remedies = Vec::new();
    if let Some(now) = case.node.watermark_scale_factor {
        let more = (now * 10).clamp(10, 1000);
        if more > now {
            remedies.push(Remedy::run(
                format!("Have memory freed earlier and more of it at a time ({now} now)"),
                sysctl("vm.watermark_scale_factor", more),
            ));
        }
    }
    if let Some(now) = case.node.min_free_kbytes {
        remedies.push(Remedy::run(
            format!("Keep more memory free ({now} kB now)"),
            sysctl("vm.min_free_kbytes", now * 2),
        ));
    }
    remedies.push(Remedy::advice(
        "Put less on this node, or limit the memory of who uses most: its memory is used up",
    ));
    remedies
}

pub(super) fn huge_page_remedy(case: &Case) -> Vec<Remedy> {
    const THP: &str = "/sys/kernel/mm/transparent_hugepage";
    let mut remedies = Vec::new();
    if let Some((enabled, defrag)) = &case.node.thp {
        if enabled == "always" {
            remedies.push(Remedy::run(
                "Give huge pages to those only that ask for them",
                ShellCommand::write("madvise", &format!("{THP}/enabled")),
            ));
        }
        if defrag != "never" {
            remedies.push(Remedy::run(
                "Do not stop threads to make huge pages",
                ShellCommand::write("never", &format!("{THP}/defrag")),
            ));
        }
    }
    remedies.extend(reclaim_remedy(case));
    remedies
}

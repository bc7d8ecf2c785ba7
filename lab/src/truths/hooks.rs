//! The means by which each hook is attached, kernel by kernel.

use std::path::Path;

use anyhow::Result;

use super::{
    Truth,
    page_faults::{BALANCING, NOT_BALANCED},
};
use crate::{Report, World};

pub(super) const TRUTHS: &[Truth] = &[Truth {
    name: "hooks_attach_by_the_best_means",
    about: "every hook counts, by fentry where it attaches and by kprobe where it does not",
    both_hierarchies: true,
    run,
}];

/// Probe, hook, and the kernel functions it may sit on; none for tracepoints, which are the same everywhere.
const HOOKS: [(&str, &str, &[&str]); 11] = [
    ("cpu_wait", "switches", &[]),
    ("cpu_wait", "waits moved to another CPU", &[]),
    ("task_migrations", "migrations", &[]),
    ("cpu_throttling", "totals", &[]),
    ("cpu_throttling", "single throttles", &["unthrottle_cfs_rq"]),
    (
        "page_faults",
        "first touch",
        &["folio_add_new_anon_rmap", "page_add_new_anon_rmap"],
    ),
    (
        "page_faults",
        "file mapping",
        &["set_pte_range", "do_set_pte", "alloc_set_pte"],
    ),
    ("page_faults", "hinting", &["task_numa_fault"]),
    ("reclaim", "direct reclaim", &[]),
    ("reclaim", "memory cgroup reclaim", &[]),
    ("reclaim", "compaction", &[]),
];

fn run(world: &mut World, report: &mut Report) -> Result<()> {
    if !world.guest {
        report.leave_out("by what a hook attaches is known of the lab's kernels only");
        return Ok(());
    }
    let listed = HOOKS.map(|(probe, hook, _)| format!("{probe}: {hook}"));
    let unlisted = world.hooks()?;
    let unlisted: Vec<_> = unlisted
        .iter()
        .filter(|hook| !listed.contains(hook))
        .cloned()
        .collect();
    report.equal(
        "hooks that are not held",
        String::new(),
        unlisted.join(", "),
    );
    // Trampolines on arm64 came with 6.4; before, fentry programs load and do not attach.
    let trampolines = cfg!(target_arch = "x86_64") || world.version() >= (6, 4);
    for (probe, hook, functions) in HOOKS {
        let (state, by) = world.hook(probe, hook)?;
        if hook == "hinting" && !Path::new(BALANCING).exists() {
            report.equal(format!("{probe}: {hook}"), "unsupported", state.as_str());
            report.leave_out(NOT_BALANCED);
            continue;
        }
        report.check(
            format!("{probe}: {hook}"),
            "attached",
            format!("{state} {by}"),
            state == "attached",
        );
        if functions.is_empty() {
            continue;
        }
        let (means, other) = if trampolines {
            ("fentry/", "kprobe/")
        } else {
            ("kprobe/", "fentry/")
        };
        let found = functions
            .iter()
            .any(|function| by.contains(&format!("{means}{function}")));
        report.check(
            format!("{probe}: {hook} sits on"),
            format!("{means}{}", functions.join(" or ")),
            &by,
            found && !by.contains(other),
        );
    }
    Ok(())
}

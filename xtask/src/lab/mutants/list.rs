//! The mutants.

use super::Mutant;

/// Every one of them; a truth that no mutant names is one nobody has seen fail.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        wrong: "the wait that a moved task leaves behind is dropped",
        file: "agent-ebpf/src/bin/cpu_wait/main.rs",
        old: "        if left != 0 {\n",
        new: "        if left == u64::MAX {\n",
        truth: "adds_up_free",
    },
    Mutant {
        wrong: "a task's own group counts as a neighbour",
        file: "agent-ebpf/src/lib.rs",
        old: "        if self.0 == waiting.0 {\n            return Cause::Own as u32;\n",
        new: "        if self.0 == waiting.0 {\n            return Cause::Neighbour as u32;\n",
        truth: "adds_up_pinned",
    },
    Mutant {
        wrong: "waiting for the quota counts as waiting for whoever has the CPU",
        file: "agent-ebpf/src/bin/cpu_wait/main.rs",
        old: "        if total != 0 {\n",
        new: "        if total == u64::MAX {\n",
        truth: "adds_up_throttled",
    },
    Mutant {
        wrong: "what a cgroup counted is dropped with it",
        file: "agent-ebpf/src/slot.rs",
        old: "            (*retired).add(&*cell);\n",
        new: "            let _ = retired;\n",
        truth: "cgroups_come_and_go",
    },
    Mutant {
        wrong: "a cgroup inherits the cell of the one that had its slot",
        file: "agent-ebpf/src/slot.rs",
        old: "            if !(*cell).is_of(self.serial) {\n",
        new: "            if !(*cell).is_of(self.serial) && (*cell).cgroup() == 0 {\n",
        truth: "cgroups_come_and_go",
    },
    Mutant {
        wrong: "the best hook for first touches is never tried",
        file: "agent/src/probes/page_faults.rs",
        old: "                    &[Attach::Fentry(\n                        \"folio_add_new_anon_rmap\",\n                        \"folio_add_new_anon_rmap\",\n",
        new: "                    &[Attach::Fentry(\n                        \"folio_add_new_anon_rmap\",\n                        \"no_such_function\",\n",
        truth: "hooks_attach_by_the_best_means",
    },
    Mutant {
        wrong: "a table is made sixteen times as large for each CPU",
        file: "agent/src/probes/cpu_wait.rs",
        old: "            (\"RINGS\", host.cpus),\n",
        new: "            (\"RINGS\", host.cpus * 16),\n",
        truth: "map_memory",
    },
];

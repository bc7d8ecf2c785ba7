//! Facts about the lab's kernels from sources other than our own reader.

/// A kernel of the lab.
pub struct Expected {
    /// Name of its fixture.
    pub name: &'static str,
    /// Release that the numbers below describe.
    pub release: &'static str,
    /// True if programs attach to functions by trampolines: on arm64 since 6.4.
    pub trampolines: bool,
    /// 64 minus `CONFIG_NODES_SHIFT` of its configuration.
    pub page_node_shift: u32,
    /// Fields that it lacks, with the reason.
    pub absent: &'static [(&'static str, &'static str)],
    /// Programs that attach, by probe and hook.
    pub programs: Programs,
    /// Offsets in bytes, except for the last of [`SPOTS`] in bits, as pahole 1.24 prints them from the whole type
    /// information: `pahole -F btf -E -C STRUCTURE vmlinux.btf`. `None` for absent fields.
    pub offsets: [Option<u32>; SPOTS.len()],
}

/// Programs that differ between kernels.
pub struct Programs {
    pub throttles: &'static [&'static str],
    pub first_touch: &'static str,
    pub file_mapping: &'static str,
    pub hinting: &'static str,
    /// Suffix of the names of the reclaim programs.
    pub reclaim_suffix: &'static str,
}

/// Fields with a stated offset for every kernel.
pub const SPOTS: [&str; 15] = [
    "task_state",
    "task_cpu",
    "task_run_delay",
    "task_cgroups",
    "task_throttled",
    "cfs_rq_rq",
    "cfs_rq_throttled_clock",
    "rq_clock",
    "css_serial_nr",
    "kernfs_id",
    "vm_fault_flags",
    "vma_flags",
    "page_compound_nr",
    "folio_nr_pages",
    "cfs_rq_throttled",
];

const PARKED: (&str, &str) = ("task_throttled", "tasks are parked one by one since 6.18");
const ASLEEP: (&str, &str) = (
    "task_sched_delayed",
    "sleepers stay on their run queues since 6.12",
);
const USER_FAULT: (&str, &str) = (
    "task_in_user_fault",
    "since 6.11 only with CONFIG_MEMCG_V1, which Debian leaves out",
);
const FOLIO: (&str, &str) = ("folio_nr_pages", "struct folio came with 5.16");
const COMPOUND: (&str, &str) = ("page_compound_nr", "moved to struct folio with 6.3");

const FEXIT: &[&str] = &["unthrottle_cfs_rq_exit", "unthrottle_cfs_rq"];
const KRETPROBE: &[&str] = &["unthrottle_cfs_rq_probed_exit", "unthrottle_cfs_rq_probed"];

const CURRENT: Programs = Programs {
    throttles: FEXIT,
    first_touch: "folio_add_new_anon_rmap",
    file_mapping: "set_pte_range",
    hinting: "task_numa_fault",
    reclaim_suffix: "",
};

/// Kernels in the lab's order.
pub const KERNELS: [Expected; 7] = [
    Expected {
        name: "arm64-5.10",
        release: "5.10.0-32-arm64",
        trampolines: false,
        page_node_shift: 60,
        absent: &[PARKED, ASLEEP, FOLIO],
        programs: Programs {
            throttles: KRETPROBE,
            first_touch: "kprobe_page_add_new_anon_rmap",
            file_mapping: "kprobe_alloc_set_pte",
            hinting: "kprobe_task_numa_fault",
            reclaim_suffix: "_probed",
        },
        offsets: [
            Some(24),
            Some(72),
            Some(1024),
            Some(2224),
            None,
            Some(304),
            Some(360),
            Some(2464),
            Some(88),
            Some(104),
            Some(8),
            Some(80),
            Some(64 + 24),
            None,
            Some(384 * 8),
        ],
    },
    Expected {
        name: "arm64-6.1",
        release: "6.1.0-56-arm64",
        trampolines: false,
        page_node_shift: 60,
        absent: &[PARKED, ASLEEP],
        programs: Programs {
            throttles: KRETPROBE,
            first_touch: "kprobe_page_add_new_anon_rmap",
            file_mapping: "kprobe_do_set_pte",
            hinting: "kprobe_task_numa_fault",
            reclaim_suffix: "",
        },
        offsets: [
            Some(24),
            Some(16),
            Some(1104),
            Some(2384),
            None,
            Some(304),
            Some(368),
            Some(2448),
            Some(88),
            Some(104),
            Some(40),
            Some(32),
            Some(64 + 28),
            Some(92),
            Some(392 * 8),
        ],
    },
    Expected {
        name: "arm64-6.12",
        release: "6.12.117+deb13-arm64-16k",
        trampolines: true,
        page_node_shift: 60,
        absent: &[PARKED, USER_FAULT, COMPOUND],
        programs: CURRENT,
        offsets: [
            Some(24),
            Some(16),
            Some(1144),
            Some(2376),
            None,
            Some(312),
            Some(376),
            Some(2736),
            Some(88),
            Some(96),
            Some(40),
            Some(32),
            None,
            Some(96),
            Some(416 * 8),
        ],
    },
    Expected {
        name: "arm64-7.2",
        release: "7.2.13+deb14-arm64-16k",
        trampolines: true,
        page_node_shift: 60,
        absent: &[USER_FAULT, COMPOUND],
        programs: CURRENT,
        offsets: [
            Some(32),
            Some(24),
            Some(1552),
            Some(2856),
            Some(1048),
            Some(312),
            Some(376),
            Some(3728),
            Some(80),
            Some(96),
            Some(40),
            Some(32),
            None,
            Some(120),
            Some(416 * 8),
        ],
    },
    Expected {
        name: "amd64-5.10",
        release: "5.10.0-46-cloud-amd64",
        trampolines: true,
        page_node_shift: 54,
        absent: &[PARKED, ASLEEP, FOLIO],
        programs: Programs {
            throttles: FEXIT,
            first_touch: "page_add_new_anon_rmap_5_10",
            file_mapping: "alloc_set_pte",
            hinting: "task_numa_fault_5_10",
            reclaim_suffix: "_probed",
        },
        offsets: [
            Some(16),
            Some(64),
            Some(1952),
            Some(3328),
            None,
            Some(304),
            Some(360),
            Some(2464),
            Some(88),
            Some(104),
            Some(8),
            Some(80),
            Some(64 + 24),
            None,
            Some(384 * 8),
        ],
    },
    Expected {
        name: "amd64-6.12",
        release: "6.12.117+deb13-cloud-amd64",
        trampolines: true,
        page_node_shift: 54,
        absent: &[PARKED, USER_FAULT, COMPOUND],
        programs: CURRENT,
        offsets: [
            Some(24),
            Some(20),
            Some(2200),
            Some(3584),
            None,
            Some(312),
            Some(376),
            Some(2736),
            Some(88),
            Some(96),
            Some(40),
            Some(32),
            None,
            Some(96),
            Some(416 * 8),
        ],
    },
    Expected {
        name: "amd64-7.2",
        release: "7.2.13+deb14-cloud-amd64",
        trampolines: true,
        page_node_shift: 54,
        absent: &[USER_FAULT, COMPOUND],
        programs: CURRENT,
        offsets: [
            Some(24),
            Some(20),
            Some(2544),
            Some(4000),
            Some(1048),
            Some(312),
            Some(376),
            Some(3728),
            Some(80),
            Some(96),
            Some(40),
            Some(32),
            None,
            Some(120),
            Some(416 * 8),
        ],
    },
];

//! Search of the sources for hidden page sizes.

use std::{fs, path::Path};

/// Words that often contain a page size.
const SUSPECT: [&str; 8] = [
    "4096",
    "0x1000",
    "<< 12",
    ">> 12",
    "page_size",
    "page_shift",
    "PAGE_S",
    "sysconf",
];

/// Lines that may contain one, with the reason: file, text in the line, number of lines.
const ALLOWED: [(&str, &str, usize); 28] = [
    // Page size from the kernel, and values derived from it.
    (
        "agent/src/agent/host.rs",
        "let page = rustix::param::page_size()",
        1,
    ),
    (
        "agent/src/agent/map_bound.rs",
        "let page = rustix::param::page_size()",
        1,
    ),
    (
        "agent/src/agent/host.rs",
        "host.page_shift = rustix::param::page_size()",
        1,
    ),
    ("agent-ebpf/src/lib.rs", "pub page_shift: u32", 1),
    ("agent-ebpf/src/page.rs", "page_shift: u32", 1),
    (
        "agent-ebpf/src/page.rs",
        "wrapping_sub(start) >> page_shift",
        1,
    ),
    (
        "agent-ebpf/src/bin/page_faults.rs",
        "vma.pgoff(), kernel::page_shift()",
        1,
    ),
    ("agent-ebpf/src/kernel/loads.rs", "page_shift: 0", 1),
    ("agent-ebpf/src/kernel/loads.rs", "host!(page_shift)", 1),
    // Audit of the page size, and possible page sizes.
    ("agent/src/doctor/checks.rs", "&machine::PAGE_SIZE", 1),
    (
        "agent/src/doctor/checks/machine.rs",
        "static PAGE_SIZE: Check",
        1,
    ),
    ("agent/src/doctor/checks/machine.rs", "run: page_size", 1),
    ("agent/src/doctor/checks/machine.rs", "fn page_size(", 1),
    ("agent/src/doctor/checks/machine.rs", "bytes <= 4096", 1),
    ("agent/src/doctor/checks/huge_pages.rs", "bytes > 4096", 1),
    ("agent/src/doctor/node.rs", "[4096, 16384, 65536]", 1),
    ("agent/src/doctor/node.rs", "ARM64_4K_PAGES", 1),
    // Values that files count in pages, converted by the kernel's own page size.
    (
        "agent/src/agent/answers.rs",
        "pages.unwrap_or(0) * rustix::param::page_size()",
        1,
    ),
    (
        "agent/src/explain/facts.rs",
        "let page = rustix::param::page_size()",
        1,
    ),
    // Default of waiting connections, and a file name.
    ("agent/src/doctor/checks/system.rs", "let default = 4096", 1),
    ("agent/src/doctor/kubelet.rs", "/etc/sysconfig/kubelet", 1),
    // Limit of owners' series.
    ("agent/src/agent.rs", "owners: 4096", 1),
    // Limit of ended containers with a record.
    ("agent/src/ledger/history.rs", "MOST_ENDED: usize = 4096", 1),
    // Buffers of chunked reads.
    ("agent/src/host/cgroup/cpu.rs", "buffer: Box<[u8; 4096]>", 1),
    (
        "agent/src/host/cgroup/cpu.rs",
        "buffer: Box::new([0; 4096])",
        1,
    ),
    // Entries of hashes by cgroup and by task.
    ("agent-ebpf/src/fault.rs", "HINTED_CGROUPS: u32 = 4096", 1),
    (
        "agent-ebpf/src/bin/cpu_throttling.rs",
        "HashMap::with_max_entries(4096, 0)",
        1,
    ),
    (
        "agent-ebpf/src/bin/reclaim.rs",
        "HashMap::with_max_entries(4096, 0)",
        1,
    ),
];

/// Collects every line of code below `folder`, without comments and tests, with its file relative to `root`.
fn code(root: &Path, folder: &Path, lines: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            code(root, &path, lines);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            let file = path.strip_prefix(root).expect("below the root").display();
            let own = text.split("#[cfg(test)]\nmod tests {").next();
            let own = own.unwrap_or_default().lines().map(str::trim);
            let own = own.filter(|line| !line.starts_with("//"));
            lines.extend(own.map(|line| (file.to_string(), line.to_owned())));
        }
    }
}

#[test]
fn no_source_knows_the_size_of_a_page_but_from_the_kernel() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut lines = Vec::new();
    for folder in ["agent/src", "agent-ebpf/src"] {
        code(&root, &root.join(folder), &mut lines);
    }
    assert!(lines.len() > 5000, "the sources are read");
    lines.retain(|(_, line)| SUSPECT.iter().any(|word| line.contains(word)));
    for (file, text, times) in ALLOWED {
        let before = lines.len();
        lines.retain(|(found, line)| found != file || !line.contains(text));
        assert_eq!(
            before - lines.len(),
            times,
            "{file} no longer says `{text}`"
        );
    }
    assert!(lines.is_empty(), "is this the size of a page? {lines:#?}");
}

//! Everything that the probes need of a kernel (fields, hooks and their arguments), checked on the type information of
//! every kernel of the lab without booting one. See `docs/lab/kernels.md`.

// Clippy counts only the test functions themselves as tests, not the code they share.
#![allow(clippy::unwrap_used)]

#[path = "btf_matrix/arguments.rs"]
mod arguments;
#[path = "btf_matrix/check.rs"]
mod check;
#[path = "btf_matrix/kernels.rs"]
mod kernels;
#[path = "btf_matrix/objects.rs"]
mod objects;

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use stallscope::{
    host::{
        btf::{Argument, Btf, Enumerator},
        cgroup::Controller,
    },
    probe::Attach,
    probes::{self, PROBES},
};
use stallscope_ebpf::Layout;

use arguments::taken;
use check::{Machine, faults};
use kernels::{Expected, KERNELS};

const UPDATE: &str = "`cargo xtask lab --update-btf` makes the fixtures anew";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/btf")
}

fn fixture(name: &str) -> Vec<u8> {
    let path = fixtures().join(format!("{name}.btf"));
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; {UPDATE}", path.display()))
}

fn parse(blob: &[u8]) -> Btf {
    Btf::parse(blob.to_vec()).unwrap()
}

#[test]
fn every_kernel_has_what_the_probes_ask() {
    let machine = Machine::new();
    for expected in &KERNELS {
        let kernel = machine.kernel(parse(&fixture(expected.name)));
        let faults = faults(expected, &kernel);
        assert!(
            faults.is_empty(),
            "{}: {faults:#?}; {UPDATE}",
            expected.name
        );
    }
}

#[test]
fn fixtures_are_of_the_releases_whose_offsets_are_stated() {
    let text = fs::read_to_string(fixtures().join("releases.txt")).unwrap();
    let releases: Vec<&str> = text.lines().collect();
    let stated: Vec<String> = KERNELS
        .iter()
        .map(|kernel| format!("{} {}", kernel.name, kernel.release))
        .collect();
    assert_eq!(
        releases, stated,
        "state the offsets of the new releases in btf_matrix/kernels.rs, from pahole"
    );
}

/// Returns the offset of a name in a blob's strings.
fn position(blob: &[u8], name: &str) -> Option<usize> {
    let whole = [b"\0", name.as_bytes(), b"\0"].concat();
    let mut windows = blob.windows(whole.len());
    windows.position(|window| window == whole).map(|at| at + 1)
}

/// Renames a name in a blob's strings.
fn rename(blob: &[u8], name: &str) -> Vec<u8> {
    let at = position(blob, name).unwrap_or_else(|| panic!("{name} is not in the fixture"));
    let mut renamed = blob.to_vec();
    renamed[at] = b'?';
    renamed
}

#[test]
fn a_field_that_is_gone_is_named() {
    let machine = Machine::new();
    for expected in &KERNELS {
        let blob = fixture(expected.name);
        let layout = parse(&blob).layout(Controller::Cpu);
        for (field, _, paths) in Layout::FIELDS {
            if layout.get(field).is_none() {
                continue;
            }
            // The field can have any of these names.
            let names = paths.split('|').filter_map(|path| path.rsplit('.').next());
            let gone = names
                .collect::<BTreeSet<_>>()
                .into_iter()
                .filter(|name| position(&blob, name).is_some())
                .fold(blob.clone(), |blob, name| rename(&blob, name));
            let faults = faults(expected, &machine.kernel(parse(&gone)));
            let told = faults
                .iter()
                .any(|fault| fault.starts_with(&format!("{field}:")));
            assert!(told, "{}, without {field}: {faults:#?}", expected.name);
        }
    }
}

#[test]
fn a_hook_that_is_gone_is_named() {
    let machine = Machine::new();
    for (kernel, symbol, hook) in [
        (0, "task_numa_fault", "page_faults, hinting"),
        (1, "do_set_pte", "page_faults, file mapping"),
        (3, "btf_trace_sched_switch", "cpu_wait, switches"),
        (4, "page_add_new_anon_rmap", "page_faults, first touch"),
        (6, "unthrottle_cfs_rq", "cpu_throttling, single throttles"),
        (
            6,
            "BPF_FUNC_get_current_task_btf",
            "reclaim, direct reclaim",
        ),
    ] {
        let expected = &KERNELS[kernel];
        let gone = rename(&fixture(expected.name), symbol);
        let faults = faults(expected, &machine.kernel(parse(&gone)));
        let named = faults.iter().any(|fault| fault.starts_with(hook));
        assert!(named, "{}, without {symbol}: {faults:#?}", expected.name);
    }
}

/// Covers hooks that changed between the kernels of the lab: a reader that misses the changes fails here.
#[test]
fn arguments_are_read_as_the_kernels_sources_have_them() {
    let of = |kernel: usize, tracepoint: &str| {
        parse(&fixture(KERNELS[kernel].name))
            .tracepoint(tracepoint)
            .unwrap()
    };
    let task = || Argument::Pointer("task_struct".into());
    let switch = [Argument::Scalar(1), task(), task()];
    for old in [0, 4] {
        assert_eq!(of(old, "sched_switch"), switch);
    }
    for new in [1, 2, 3, 5, 6] {
        // Linux 5.18 added the state of the outgoing task (`prev_state`).
        assert_eq!(
            of(new, "sched_switch"),
            [&switch[..], &[Argument::Scalar(4)]].concat()
        );
    }
    let begin = "mm_vmscan_direct_reclaim_begin";
    let (order, gfp) = (Argument::Scalar(4), Argument::Scalar(4));
    assert_eq!(of(2, begin), [order.clone(), gfp.clone()]);
    let group = Argument::Pointer("mem_cgroup".into());
    assert_eq!(of(3, begin), [gfp, order, group]);
    let btf = parse(&fixture("arm64-6.1"));
    assert_eq!(btf.function("set_pte_range"), None);
    assert_eq!(btf.tracepoint("no_such_tracepoint"), None);
}

#[test]
fn fixtures_hold_what_is_asked_and_no_more() {
    for expected in &KERNELS {
        let blob = fixture(expected.name);
        let again = parse(&blob).reduced(probes::attachments().filter_map(Attach::described));
        assert!(again == blob, "{} is stale; {UPDATE}", expected.name);
    }
}

/// Returns the whole type information of a kernel of the lab, if it is in the cache.
fn whole(expected: &Expected) -> Result<Btf, String> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
    let cache = variable("STALLSCOPE_LAB_CACHE")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(variable("XDG_CACHE_HOME")?).join("stallscope/lab")))
        .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache/stallscope/lab")))
        .ok_or("there is no HOME")?;
    let folder = cache.join(expected.name);
    let release = fs::read_to_string(folder.join("release"))
        .map_err(|error| format!("{}: {error}", folder.display()))?;
    if release.trim() != expected.release {
        return Err(format!("{} is of {}", folder.display(), release.trim()));
    }
    Btf::read(&folder.join("vmlinux.btf")).map_err(|error| error.to_string())
}

/// Compares the answers of a whole kernel and of its fixture to every question of the agent.
fn compare(name: &str, whole: &Btf) {
    let blob = fixture(name);
    assert!(
        whole.reduced(probes::attachments().filter_map(Attach::described)) == blob,
        "{name} is stale; {UPDATE}"
    );
    let reduced = parse(&blob);
    let controller = Controller::Memory;
    assert_eq!(
        whole.layout(controller),
        reduced.layout(controller),
        "{name}"
    );
    let symbols: BTreeSet<&str> = probes::attachments().map(Attach::symbol).collect();
    for symbol in symbols {
        assert_eq!(
            whole.function(symbol),
            reduced.function(symbol),
            "{name} {symbol}"
        );
        assert_eq!(
            whole.tracepoint(symbol),
            reduced.tracepoint(symbol),
            "{name} {symbol}"
        );
    }
    let facts = |btf: &Btf| {
        let head = btf.enumerator(Enumerator::PAGE_HEAD);
        let helper = btf.enumerator(Enumerator::GET_CURRENT_TASK_BTF);
        let movable = btf.enumerator(Enumerator::GFP_MOVABLE_BIT);
        let shift = btf.page_node_shift();
        (
            head,
            helper,
            movable,
            shift,
            btf.in_user_fault_bit(),
            btf.has_quotas(),
        )
    };
    assert_eq!(facts(whole), facts(&reduced), "{name}");
}

#[test]
fn a_reduced_kernel_answers_as_the_whole_one() {
    std::thread::scope(|scope| {
        for expected in &KERNELS {
            match whole(expected) {
                Ok(whole) => {
                    scope.spawn(move || compare(expected.name, &whole));
                }
                Err(reason) => println!("skipped: {}: {reason}", expected.name),
            }
        }
    });
}

/// Returns all built objects: architecture, probe and ELF file.
fn built_objects() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let mut built = Vec::new();
    for arch in ["x86_64", "aarch64"] {
        for probe in PROBES {
            let path = target
                .join("bpf")
                .join(arch)
                .join(format!("{}.o", probe.name));
            match fs::read(&path) {
                Ok(elf) => built.push((arch, probe.name, elf)),
                Err(error) => println!("skipped: {}: {error}", path.display()),
            }
        }
    }
    built
}

/// Fields whose existence in the kernel the programs themselves check.
const ASKED_FOR: [&str; 6] = [
    "task_throttled",
    "task_sched_delayed",
    "cfs_rq_throttle_count",
    "cfs_rq_throttled_time",
    "folio_nr_pages",
    "page_compound_nr",
];

#[test]
fn objects_read_no_field_that_is_not_declared() {
    for (arch, name, elf) in built_objects() {
        let reads = objects::read(&elf);
        let probe = PROBES.iter().find(|probe| probe.name == name).unwrap();
        let mut read_by_any: BTreeSet<&str> = BTreeSet::new();
        let alternatives = probe.hooks.iter().flat_map(|hook| hook.alternatives);
        for alternative in alternatives.clone() {
            let declared: BTreeSet<&str> = [probe.fields, alternative.fields, &ASKED_FOR]
                .concat()
                .into_iter()
                .collect();
            for program in alternative
                .programs
                .iter()
                .filter_map(|attach| attach.program())
            {
                let fields = &reads[program].fields;
                let more: Vec<_> = fields.difference(&declared).collect();
                assert!(more.is_empty(), "{arch} {name}: {program} reads {more:?}");
                read_by_any.extend(fields);
            }
        }
        let declared = alternatives.flat_map(|a| a.fields).chain(probe.fields);
        let idle: Vec<_> = declared
            .filter(|field| !read_by_any.contains(*field))
            .collect();
        assert!(idle.is_empty(), "{arch} {name}: no program reads {idle:?}");
    }
}

/// Returns the positions of a hook's arguments in the context: those of a tracepoint and a trampoline are in a row,
/// those of a kprobe in the registers of the calling convention (`struct pt_regs`).
fn places(arch: &str, attach: Attach, context: &BTreeSet<u32>) -> Vec<usize> {
    const X86_REGISTERS: [u32; 6] = [112, 104, 96, 88, 72, 64];
    let kprobe = matches!(attach, Attach::Kprobe(..) | Attach::Kretprobe(..));
    let place = |offset: u32| match (kprobe, arch) {
        (true, "x86_64") => X86_REGISTERS.iter().position(|&at| at == offset).unwrap(),
        _ => (offset / 8) as usize,
    };
    let mut places: Vec<usize> = context.iter().map(|&offset| place(offset)).collect();
    places.sort_unstable();
    places
}

#[test]
fn objects_take_the_arguments_that_are_checked() {
    for (arch, name, elf) in built_objects() {
        let reads = objects::read(&elf);
        let probe = PROBES.iter().find(|probe| probe.name == name).unwrap();
        let alternatives = probe.hooks.iter().flat_map(|hook| hook.alternatives);
        for attach in alternatives.flat_map(|alternative| alternative.programs) {
            let Some(program) = attach.program() else {
                continue;
            };
            let checked: Vec<usize> = taken(name, program)
                .iter()
                .map(|(place, _)| *place)
                .collect();
            let places = places(arch, *attach, &reads[program].context);
            assert_eq!(places, checked, "{arch} {name}: {program}");
        }
    }
}

#[test]
fn objects_ask_nothing_else_of_the_kernels_types() {
    for (arch, name, elf) in built_objects() {
        let relocations = objects::core_relocations(&elf);
        assert_eq!(relocations, Some(0), "{arch} {name}: CO-RE relocations");
        let unresolved = objects::unresolved(&elf);
        assert!(unresolved.is_empty(), "{arch} {name}: {unresolved:?}");
    }
}

#[test]
fn objects_carry_type_information_and_no_debug_information() {
    for (arch, name, elf) in built_objects() {
        let sections = objects::sections(&elf);
        for section in [".BTF", ".BTF.ext"] {
            assert!(sections.contains(section), "{arch} {name}: no {section}");
        }
        let debug: Vec<_> = sections.iter().filter(|s| s.contains("debug")).collect();
        assert!(debug.is_empty(), "{arch} {name}: {debug:?}");
    }
}

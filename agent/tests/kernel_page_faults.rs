//! Page faults, made one by one and counted by the kernel. The exported counts must be equal.

mod kernel;

use std::{
    ffi::CStr,
    fs,
    io::{Read as _, Write as _},
    os::fd::{AsRawFd as _, FromRawFd as _},
    path::Path,
    ptr::NonNull,
};

use kernel::{Group, Scrape, agent, label};
use stallscope::{
    agent::{Agent, Config},
    host::topology::Topology,
    probe::State,
};

/// A prime number of pages, so that no other count comes out equal by chance.
const PAGES: usize = 499;

const FIRST_TOUCH: &str = "stallscope_first_touch";
const FILE_MAP: &str = "stallscope_file_map";
const HINTING: &str = "stallscope_numa_hinting_faults_total";

fn page_size() -> usize {
    rustix::param::page_size()
}

/// A mapping whose pages are all untouched.
struct Region {
    start: NonNull<u8>,
    length: usize,
}

impl Region {
    fn map(length: usize, flags: i32, fd: i32) -> Self {
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                fd,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        let start = NonNull::new(start.cast()).expect("nothing is mapped at address 0");
        Self { start, length }
    }

    /// Maps anonymous memory of base pages.
    fn anonymous(pages: usize) -> Self {
        let length = pages * page_size();
        let region = Self::map(length, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
        region.advise(libc::MADV_NOHUGEPAGE);
        region
    }

    /// Maps a file in memory whose pages are all in the page cache and mapped nowhere.
    fn file(pages: usize, flags: i32) -> Self {
        const NAME: &CStr = c"stallscope-test";
        let length = pages * page_size();
        // SAFETY: the name is a C string; the first use checks the result.
        let fd = unsafe { libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC) };
        // SAFETY: a descriptor of our own.
        let mut file = unsafe { fs::File::from_raw_fd(fd) };
        file.write_all(&vec![1; length])
            .expect("the file is written");
        Self::map(length, flags, file.as_raw_fd())
    }

    fn advise(&self, advice: i32) {
        // SAFETY: the mapping is ours. A kernel without huge pages refuses, and has none.
        unsafe { libc::madvise(self.start.as_ptr().cast(), self.length, advice) };
    }

    /// Binds its pages to one node.
    fn bind(&self, node: u32) {
        const MPOL_BIND: libc::c_ulong = 2;
        let mut mask = [0_u64; 16];
        mask[node as usize / 64] = 1 << (node % 64);
        // SAFETY: the mapping is ours, and the mask has as many bits as the call says.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.start.as_ptr(),
                self.length,
                MPOL_BIND,
                mask.as_ptr(),
                1024_usize,
                0,
            )
        };
        assert_eq!(result, 0, "mbind: {}", std::io::Error::last_os_error());
    }

    fn write(&self) {
        for at in (0..self.length).step_by(page_size()) {
            // SAFETY: inside the mapping.
            unsafe { self.start.add(at).write_volatile(2) };
        }
    }

    fn read(&self) {
        for at in (0..self.length).step_by(page_size()) {
            // SAFETY: inside the mapping.
            unsafe { self.start.add(at).read_volatile() };
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped in `map`, and not used after this.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Returns the minor faults (without I/O) of this process.
fn minor_faults() -> u64 {
    // SAFETY: an all-zero `rusage` is a valid one for the kernel to fill.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage.ru_minflt.cast_unsigned()
    }
}

/// A process in a group that waits for a command before each step, so that between two scrapes it does the step and
/// nothing else.
struct Worker {
    pid: i32,
    tell: fs::File,
    answer: fs::File,
}

impl Worker {
    /// Starts it. `steps` may do only what is allowed after `fork`.
    fn start(group: &Group, steps: &dyn Fn(u8)) -> Self {
        let procs = fs::OpenOptions::new()
            .write(true)
            .open(group.dir.join("cgroup.procs"))
            .expect("the group takes processes");
        let (mut orders, tell) = pipe();
        let (answer, mut report) = pipe();
        // SAFETY: the child only makes system calls and touches memory, and does not return.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            let done = (|| {
                (&procs).write_all(b"0")?;
                let mut step = [0];
                while orders.read(&mut step)? == 1 && step[0] != b'q' {
                    let before = minor_faults();
                    steps(step[0]);
                    report.write_all(&(minor_faults() - before).to_ne_bytes())?;
                }
                std::io::Result::Ok(())
            })();
            // SAFETY: ends the child without running the destructors of its parent.
            unsafe { libc::_exit(i32::from(done.is_err())) }
        }
        Self { pid, tell, answer }
    }

    /// Runs a step and returns the kernel's count of its faults.
    fn step(&mut self, step: u8) -> u64 {
        self.begin(step);
        self.end()
    }

    fn begin(&mut self, step: u8) {
        self.tell.write_all(&[step]).expect("the worker lives");
    }

    fn end(&mut self) -> u64 {
        let mut faults = [0; 8];
        self.answer
            .read_exact(&mut faults)
            .expect("the worker answers");
        u64::from_ne_bytes(faults)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // An error means that it has ended by itself.
        let _ = self.tell.write_all(b"q");
        // SAFETY: our own child; a null pointer discards the status.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
    }
}

fn pipe() -> (fs::File, fs::File) {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors, which this process owns afterwards.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (
            fs::File::from_raw_fd(ends[0]),
            fs::File::from_raw_fd(ends[1]),
        )
    }
}

/// Pins the calling thread to one CPU. It runs there when this returns.
fn pin(cpu: usize) -> bool {
    // SAFETY: an all-zero set is a valid set, and the size is its own.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set) == 0
    }
}

/// Local and remote counts of a group so far; 0 without a series.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Counts {
    faults: [u64; 2],
    pages: [u64; 2],
}

fn counts(scrape: &Scrape, family: &str, group: &Group) -> Counts {
    let of = |unit: &str| {
        ["local", "remote"].map(|locality| {
            let name = format!("{family}_{unit}_total");
            let labels = [label("cgroup", &group.label), label("locality", locality)];
            scrape.exact(&name, &labels).unwrap_or(0)
        })
    };
    Counts {
        faults: of("faults"),
        pages: of("pages"),
    }
}

/// Returns the counts that a step adds to a family.
fn grown(
    agent: &mut Agent,
    family: &str,
    group: &Group,
    step: impl FnOnce() -> u64,
) -> (Counts, u64) {
    let before = counts(&Scrape::of(agent), family, group);
    let truth = step();
    let after = counts(&Scrape::of(agent), family, group);
    let less = |now: [u64; 2], then: [u64; 2]| [now[0] - then[0], now[1] - then[1]];
    let counts = Counts {
        faults: less(after.faults, before.faults),
        pages: less(after.pages, before.pages),
    };
    (counts, truth)
}

fn hook_state(agent: &Agent, hook: &str) -> State {
    let status = agent.status();
    let probe = status.probes.iter().find(|p| p.probe == "page_faults");
    let hooks = &probe.expect("the probe is listed").hooks;
    let found = hooks.iter().find(|h| h.hook == hook);
    found.expect("the hook is listed").state.clone()
}

fn attached(agent: &Agent, hook: &str) -> bool {
    matches!(hook_state(agent, hook), State::Attached { .. })
}

#[test]
#[ignore = "needs root and BPF: counts the faults of processes in cgroups of its own"]
fn every_first_touch_is_counted_once() {
    let mut agent = agent(Config::default());
    let group = Group::new("faults-touch");
    let (warm, fresh) = (Region::anonymous(7), Region::anonymous(PAGES));
    // The first step takes the faults on code and stack that every new process has.
    let mut worker = Worker::start(&group, &|step| match step {
        b'w' => warm.write(),
        _ => fresh.write(),
    });
    worker.step(b'w');
    let (counts, truth) = grown(&mut agent, FIRST_TOUCH, &group, || worker.step(b't'));
    assert_eq!(truth, PAGES as u64);
    assert_eq!(
        counts.faults.iter().sum::<u64>(),
        PAGES as u64,
        "{counts:?}"
    );
    assert_eq!(counts.pages.iter().sum::<u64>(), PAGES as u64, "{counts:?}");
    // The kernel does not place a page again.
    let (counts, truth) = grown(&mut agent, FIRST_TOUCH, &group, || worker.step(b't'));
    assert_eq!((counts, truth), (Counts::default(), 0));
}

#[test]
#[ignore = "needs root and BPF: counts the faults of processes in cgroups of its own"]
fn copies_on_write_are_first_touches() {
    let mut agent = agent(Config::default());
    let group = Group::new("faults-cow");
    let (warm, shared) = (Region::anonymous(7), Region::anonymous(PAGES));
    // These pages are ours before the fork: the child's writes copy them.
    shared.write();
    let file = Region::file(PAGES, libc::MAP_PRIVATE);
    let mut worker = Worker::start(&group, &|step| match step {
        b'w' => warm.write(),
        b'c' => shared.write(),
        _ => file.write(),
    });
    worker.step(b'w');
    for (step, family, expected) in [
        (b'c', FIRST_TOUCH, PAGES),
        (b'f', FIRST_TOUCH, PAGES),
        // A second write finds the copy.
        (b'f', FILE_MAP, 0),
    ] {
        let (counts, truth) = grown(&mut agent, family, &group, || worker.step(step));
        assert_eq!(truth, expected as u64);
        assert_eq!(
            counts.faults.iter().sum::<u64>(),
            expected as u64,
            "{counts:?}"
        );
    }
}

#[test]
#[ignore = "needs root and BPF: counts the faults of processes in cgroups of its own"]
fn a_huge_page_is_one_fault_and_all_its_pages() {
    let size = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";
    let enabled = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    let Ok(size) = fs::read_to_string(size) else {
        println!("skipped: no transparent huge pages");
        return;
    };
    if enabled.is_ok_and(|text| text.contains("[never]")) {
        println!("skipped: transparent huge pages are off");
        return;
    }
    let size: usize = size.trim().parse().unwrap();
    let mut agent = agent(Config::default());
    let group = Group::new("faults-thp");
    let warm = Region::anonymous(7);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let region = Region::map(2 * size, flags, -1);
    region.advise(libc::MADV_HUGEPAGE);
    let aligned = region.start.as_ptr().align_offset(size);
    let mut worker = Worker::start(&group, &|step| match step {
        b'w' => warm.write(),
        // SAFETY: the first aligned place is within the first half.
        _ => unsafe { region.start.add(aligned).write_volatile(1) },
    });
    worker.step(b'w');
    let (counts, truth) = grown(&mut agent, FIRST_TOUCH, &group, || worker.step(b't'));
    let smaps = fs::read_to_string(format!("/proc/{}/smaps_rollup", worker.pid)).unwrap();
    let huge = smaps
        .lines()
        .find_map(|line| line.strip_prefix("AnonHugePages:"));
    if huge.is_none_or(|line| line.trim() == "0 kB") {
        println!("skipped: no huge page was free");
        return;
    }
    assert_eq!(truth, 1);
    assert_eq!(counts.faults.iter().sum::<u64>(), 1, "{counts:?}");
    let pages = (size / page_size()) as u64;
    assert_eq!(counts.pages.iter().sum::<u64>(), pages, "{counts:?}");
}

#[test]
#[ignore = "needs root and BPF: counts the faults of processes in cgroups of its own"]
fn groups_side_by_side_are_told_apart() {
    let mut agent = agent(Config::default());
    let sizes = [PAGES, 2 * PAGES + 1];
    let groups = ["faults-a", "faults-b"].map(Group::new);
    let warm = Region::anonymous(7);
    let regions = sizes.map(Region::anonymous);
    let mut workers = [0, 1].map(|i| {
        Worker::start(&groups[i], &|step| match step {
            b'w' => warm.write(),
            _ => regions[i].write(),
        })
    });
    for worker in &mut workers {
        worker.step(b'w');
    }
    let scrape = Scrape::of(&mut agent);
    let before = [0, 1].map(|i| counts(&scrape, FIRST_TOUCH, &groups[i]));
    for worker in &mut workers {
        worker.begin(b't');
    }
    for (worker, size) in workers.iter_mut().zip(sizes) {
        assert_eq!(worker.end(), size as u64);
    }
    let scrape = Scrape::of(&mut agent);
    for i in [0, 1] {
        let after = counts(&scrape, FIRST_TOUCH, &groups[i]);
        let sum = |counts: Counts| counts.faults.iter().sum::<u64>();
        assert_eq!(sum(after) - sum(before[i]), sizes[i] as u64);
    }
}

#[test]
#[ignore = "needs root and BPF: counts the faults of processes in cgroups of its own"]
fn localities_are_those_of_the_nodes() {
    let topology = Topology::read(Path::new("/sys")).unwrap();
    let mut agent = agent(Config::default());
    let group = Group::new("faults-nodes");
    let cpu = 0;
    let home = topology.node_of(cpu).unwrap_or(0);
    let warm = Region::anonymous(7);
    let nodes: Vec<u32> = topology.nodes().iter().map(|node| node.id).collect();
    let regions: Vec<_> = nodes
        .iter()
        .map(|node| {
            let region = Region::anonymous(PAGES);
            // With one node there is no choice, and perhaps no such call.
            if nodes.len() > 1 {
                region.bind(*node);
            }
            region
        })
        .collect();
    let mut worker = Worker::start(&group, &|step| match step {
        b'w' => {
            // The kernel refuses only a CPU that does not exist: the counts would show it.
            pin(cpu as usize);
            warm.write();
        }
        nth => regions[usize::from(nth - b'0')].write(),
    });
    worker.step(b'w');
    for (nth, node) in (0..).zip(&nodes) {
        let (counts, truth) = grown(&mut agent, FIRST_TOUCH, &group, || worker.step(b'0' + nth));
        assert_eq!(truth, PAGES as u64);
        let expected = if *node == home {
            [PAGES as u64, 0]
        } else {
            [0, PAGES as u64]
        };
        assert_eq!(counts.faults, expected, "node {node}, CPU on {home}");
    }
}

#[test]
#[ignore = "needs root and BPF: counts the faults of processes in cgroups of its own"]
fn pages_of_files_are_mapped_many_at_a_time() {
    let mut agent = agent(Config::default());
    if !attached(&agent, "file mapping") {
        println!("skipped: {:?}", hook_state(&agent, "file mapping"));
        return;
    }
    let group = Group::new("faults-file");
    let warm = Region::anonymous(7);
    let read = Region::file(PAGES, libc::MAP_SHARED);
    let written = Region::file(PAGES, libc::MAP_SHARED);
    let mut worker = Worker::start(&group, &|step| match step {
        b'w' => warm.write(),
        b'r' => read.read(),
        _ => written.write(),
    });
    worker.step(b'w');
    let (counts, truth) = grown(&mut agent, FILE_MAP, &group, || worker.step(b'r'));
    let sum = |both: [u64; 2]| both.iter().sum::<u64>();
    assert_eq!(sum(counts.faults), truth, "{counts:?}");
    // 5.10 calls `alloc_set_pte` again for some pages that are mapped already.
    assert!(sum(counts.pages) >= PAGES as u64, "{counts:?}");
    assert!(sum(counts.pages) <= PAGES as u64 * 102 / 100, "{counts:?}");
    let (counts, _) = grown(&mut agent, FILE_MAP, &group, || worker.step(b's'));
    assert!(sum(counts.pages) >= PAGES as u64, "{counts:?}");
}

/// Pages of a file that is read from the disk are new memory too, but the fault did not ask for the pages of the
/// read-ahead.
#[test]
#[ignore = "needs root and BPF: counts the faults of processes in cgroups of its own"]
fn reading_ahead_is_no_first_touch() {
    let mut agent = agent(Config::default());
    let group = Group::new("faults-cold");
    let warm = Region::anonymous(7);
    let mut file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.write_all(&vec![1; PAGES * page_size()]).unwrap();
    file.sync_all().unwrap();
    // SAFETY: a descriptor of our own. Where it has no effect the file is in memory: no fault reads.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    let cold = Region::map(PAGES * page_size(), libc::MAP_PRIVATE, file.as_raw_fd());
    let mut worker = Worker::start(&group, &|step| match step {
        b'w' => warm.write(),
        _ => cold.read(),
    });
    worker.step(b'w');
    let (counts, _) = grown(&mut agent, FIRST_TOUCH, &group, || worker.step(b'r'));
    assert_eq!(counts, Counts::default());
}

#[test]
#[ignore = "needs root and BPF: counts the faults of processes in cgroups of its own"]
fn what_no_hook_counts_has_no_series() {
    let mut agent = agent(Config::default());
    let group = Group::new("faults-absent");
    let region = Region::anonymous(PAGES);
    let mut worker = Worker::start(&group, &|_| region.write());
    worker.step(b't');
    let scrape = Scrape::of(&mut agent);
    for (hook, family) in [
        ("first touch", "stallscope_first_touch_faults_total"),
        ("file mapping", "stallscope_file_map_faults_total"),
        ("file mapping", "stallscope_file_map_pages_total"),
        ("hinting", HINTING),
    ] {
        let labels = [label("cgroup", &group.label), label("locality", "remote")];
        match hook_state(&agent, hook) {
            State::Attached { by } => {
                assert!(!by.is_empty());
                assert!(scrape.exact(family, &labels).is_some(), "{family}");
            }
            State::Unsupported { reason } => {
                assert!(!reason.is_empty());
                assert!(!scrape.0.contains(family), "{family} though: {reason}");
            }
            State::Failed { error } => panic!("{hook}: {error}"),
        }
    }
    // A reader who has only the scrape can see the reason.
    let labels = [label("probe", "page_faults"), label("hook", "first touch")];
    let status = scrape.exact("stallscope_probe_hook_status", &labels);
    assert_eq!(status, Some(1));
}

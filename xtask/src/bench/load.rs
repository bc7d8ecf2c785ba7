//! Loads: processes that repeat one operation, with their CPU time and their number of operations.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{io, mem, ptr};

use anyhow::{Context as _, Result, bail};

/// Counters that the processes share: one per process, each in its own cache line.
struct Counters {
    start: *mut AtomicU64,
    bytes: usize,
}

/// Distance from one counter to the next, in 64-bit words.
const STRIDE: usize = 8;

impl Counters {
    fn new(count: usize) -> Result<Self> {
        let bytes = count * STRIDE * size_of::<AtomicU64>();
        // SAFETY: new anonymous memory, checked below; zero is a valid counter.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("no memory for counters");
        }
        Ok(Self {
            start: start.cast(),
            bytes,
        })
    }

    fn get(&self, index: usize) -> &AtomicU64 {
        assert!(index * STRIDE * size_of::<AtomicU64>() < self.bytes);
        // SAFETY: in range by the assertion, and mapped for as long as `self` is.
        unsafe { &*self.start.add(index * STRIDE) }
    }

    fn sum(&self) -> u64 {
        let count = self.bytes / STRIDE / size_of::<AtomicU64>();
        (0..count)
            .map(|index| self.get(index).load(Ordering::Relaxed))
            .sum()
    }
}

impl Drop for Counters {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and no reference to it is left.
        unsafe { libc::munmap(self.start.cast(), self.bytes) };
    }
}

/// CPU time and operations so far.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// CPU time of all processes, in nanoseconds.
    pub cpu_ns: u64,
    /// Operations of all processes.
    pub operations: u64,
}

impl Snapshot {
    /// Returns the CPU time per operation since an earlier snapshot, in nanoseconds; none without operations.
    pub fn ns_per_operation(self, earlier: Self) -> Option<f64> {
        let operations = self.operations - earlier.operations;
        (operations != 0).then(|| (self.cpu_ns - earlier.cpu_ns) as f64 / operations as f64)
    }
}

/// Running processes. Dropping it kills them.
pub struct Load {
    processes: Vec<Process>,
    counters: Counters,
}

struct Process {
    pid: libc::pid_t,
    clock: libc::clockid_t,
}

impl Load {
    fn new(counters: usize) -> Result<Self> {
        Ok(Self {
            processes: Vec::new(),
            counters: Counters::new(counters)?,
        })
    }

    /// Starts two processes on one CPU that pass a byte to each other through pipes. An operation is a context switch.
    pub fn ping_pong(cpu: usize) -> Result<Self> {
        let mut load = Self::new(1)?;
        let (there, back) = (pipe()?, pipe()?);
        load.fork(Some(cpu), |counters| {
            let count = counters.get(0);
            while put(there.write) && take(back.read) {
                // There and back makes two switches.
                count.fetch_add(2, Ordering::Relaxed);
            }
        })?;
        load.fork(Some(cpu), |_| while take(there.read) && put(back.write) {})?;
        Ok(load)
    }

    /// Starts the ping-pong beside two processes on its CPU that always want to run.
    pub fn competitors(cpu: usize) -> Result<Self> {
        let mut load = Self::ping_pong(cpu)?;
        for _ in 0..2 {
            load.fork(Some(cpu), |_| {
                loop {
                    std::hint::spin_loop();
                }
            })?;
        }
        Ok(load)
    }

    /// Starts a process that moves between two CPUs. An operation is a migration.
    pub fn migrations(cpus: [usize; 2]) -> Result<Self> {
        let mut load = Self::new(1)?;
        load.fork(None, |counters| {
            for cpu in cpus.into_iter().cycle() {
                if pin(cpu).is_err() {
                    return;
                }
                counters.get(0).fetch_add(1, Ordering::Relaxed);
            }
        })?;
        Ok(load)
    }

    /// Starts groups of processes, in each of which every sender writes to every receiver. An operation is a message.
    pub fn messaging() -> Result<Self> {
        const GROUPS: usize = 2;
        const RECEIVERS: usize = 10;
        const SENDERS: usize = 10;
        let mut load = Self::new(GROUPS * RECEIVERS)?;
        for group in 0..GROUPS {
            let sockets = (0..RECEIVERS)
                .map(|_| socket_pair())
                .collect::<Result<Vec<_>>>()?;
            for (receiver, socket) in sockets.iter().enumerate() {
                load.fork(None, |counters| {
                    let count = counters.get(group * RECEIVERS + receiver);
                    while receive(socket.read) {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                })?;
            }
            for _ in 0..SENDERS {
                load.fork(None, |_| {
                    while sockets.iter().all(|socket| send(socket.write)) {}
                })?;
            }
        }
        Ok(load)
    }

    /// Starts a process that maps, touches and unmaps anonymous memory. An operation is a page fault.
    pub fn faults(cpu: usize) -> Result<Self> {
        let mut load = Self::new(1)?;
        load.fork(Some(cpu), |counters| while touch(counters.get(0)) {})?;
        Ok(load)
    }

    /// Starts a process.
    fn fork(&mut self, cpu: Option<usize>, work: impl FnOnce(&Counters)) -> Result<()> {
        // SAFETY: this program has one thread, so that the child may do whatever the parent may.
        let pid = unsafe { libc::fork() };
        if pid < 0 {
            return Err(io::Error::last_os_error()).context("could not start a load");
        }
        if pid == 0 {
            die_with_parent();
            if cpu.is_none_or(|cpu| pin(cpu).is_ok()) {
                work(&self.counters);
            }
            // SAFETY: ends this process, without the parent's destructors.
            unsafe { libc::_exit(1) };
        }
        let mut clock = 0;
        // SAFETY: a valid pointer.
        let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
        self.processes.push(Process { pid, clock });
        if error != 0 {
            bail!(
                "a load has no CPU clock: {}",
                io::Error::from_raw_os_error(error)
            );
        }
        Ok(())
    }

    /// Reads CPU time and operations so quickly one after the other that they belong together.
    pub fn snapshot(&self) -> Result<Snapshot> {
        // A reading that takes too long was interrupted and is repeated.
        let patience = Duration::from_micros(20 + 5 * self.processes.len() as u64);
        let mut best: Option<(Duration, Snapshot)> = None;
        for _ in 0..20 {
            let start = Instant::now();
            let before = self.counters.sum();
            let cpu_ns = self
                .processes
                .iter()
                .map(|process| cpu_time(process.clock))
                .sum::<Result<u64>>()?;
            let operations = u64::midpoint(before, self.counters.sum());
            let took = start.elapsed();
            let snapshot = Snapshot { cpu_ns, operations };
            if best.is_none_or(|(least, _)| took < least) {
                best = Some((took, snapshot));
            }
            if took <= patience {
                break;
            }
        }
        // The best snapshot is the one that took the least time.
        best.map(|(_, snapshot)| snapshot)
            .context("no snapshot of the load")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for process in &self.processes {
            // SAFETY: a child of this process that was not waited for yet, so the id is still its own.
            unsafe { libc::kill(process.pid, libc::SIGKILL) };
        }
        for process in &self.processes {
            // SAFETY: as above; a null pointer discards the status.
            unsafe { libc::waitpid(process.pid, ptr::null_mut(), 0) };
        }
    }
}

/// Returns the CPU time of a process, ended threads included, in nanoseconds.
pub fn process_cpu_ns(pid: u32) -> Result<u64> {
    let mut clock = 0;
    // SAFETY: a valid pointer.
    let error = unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) };
    if error != 0 {
        bail!(
            "process {pid} has no CPU clock: {}",
            io::Error::from_raw_os_error(error)
        );
    }
    cpu_time(clock)
}

fn cpu_time(clock: libc::clockid_t) -> Result<u64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid pointer.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error()).context("a load ended by itself");
    }
    Ok(time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned())
}

/// Runs `work` to its end in its own process.
pub fn in_child(work: impl FnOnce() -> bool) -> Result<()> {
    // SAFETY: as in `Load::fork`.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error()).context("could not start a process");
    }
    if pid == 0 {
        die_with_parent();
        let status = i32::from(!work());
        // SAFETY: ends this process, without the parent's destructors.
        unsafe { libc::_exit(status) };
    }
    let mut status = 0;
    // SAFETY: a valid pointer and a child of this process.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error).context("could not wait for a process");
        }
    }
    super::interrupt::check()?;
    if status != 0 {
        bail!("a process that should do something in each cgroup failed");
    }
    Ok(())
}

fn die_with_parent() {
    // SAFETY: no pointers; signals get the dispositions of a new program.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

struct Ends {
    read: i32,
    write: i32,
}

impl Drop for Ends {
    fn drop(&mut self) {
        // SAFETY: `pipe` or `socket_pair` made the descriptors, and only this closes them. The processes have their own
        // copies.
        unsafe {
            libc::close(self.read);
            libc::close(self.write);
        }
    }
}

fn pipe() -> Result<Ends> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error()).context("no pipe");
    }
    let [read, write] = ends;
    Ok(Ends { read, write })
}

fn socket_pair() -> Result<Ends> {
    let mut ends = [0; 2];
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error()).context("no socket pair");
    }
    let [read, write] = ends;
    Ok(Ends { read, write })
}

fn put(to: i32) -> bool {
    // SAFETY: one byte of valid memory.
    unsafe { libc::write(to, (&raw const BYTE).cast(), 1) == 1 }
}

fn take(from: i32) -> bool {
    let mut byte = 0_u8;
    // SAFETY: one byte of valid memory.
    unsafe { libc::read(from, (&raw mut byte).cast(), 1) == 1 }
}

static BYTE: u8 = 0;
const MESSAGE: usize = 100;

fn send(to: i32) -> bool {
    let message = [0_u8; MESSAGE];
    // SAFETY: as many bytes of valid memory.
    unsafe { libc::write(to, message.as_ptr().cast(), MESSAGE) == MESSAGE.cast_signed() }
}

fn receive(from: i32) -> bool {
    let mut message = [0_u8; MESSAGE];
    let mut got = 0;
    while got < MESSAGE {
        // SAFETY: the rest of the array.
        let more = unsafe { libc::read(from, message[got..].as_mut_ptr().cast(), MESSAGE - got) };
        match usize::try_from(more) {
            Ok(more) if more > 0 => got += more,
            _ => return false,
        }
    }
    true
}

/// Touches four mebibytes of new memory, page by page.
fn touch(count: &AtomicU64) -> bool {
    const BYTES: usize = 4 << 20;
    // SAFETY: new anonymous memory that nothing else refers to, checked before it is used and unmapped after.
    unsafe {
        let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(4096);
        let start = libc::mmap(
            ptr::null_mut(),
            BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if start == libc::MAP_FAILED {
            return false;
        }
        // Without huge pages in the kernel this fails, and is not needed.
        libc::madvise(start, BYTES, libc::MADV_NOHUGEPAGE);
        for at in (0..BYTES).step_by(page) {
            start.cast::<u8>().add(at).write_volatile(1);
            count.fetch_add(1, Ordering::Relaxed);
        }
        libc::munmap(start, BYTES) == 0
    }
}

/// Returns the CPUs that this process may run on.
pub fn allowed_cpus() -> Result<Vec<usize>> {
    // SAFETY: an array of integers may be zero.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: a valid pointer and its size.
    if unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) } != 0 {
        return Err(io::Error::last_os_error()).context("no CPU affinity");
    }
    let size = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    // SAFETY: every index is below the set's size.
    Ok((0..size)
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .collect())
}

/// Lets this process run on one CPU only.
pub fn pin(cpu: usize) -> Result<()> {
    affinity(&[cpu])
}

/// Lets this process run on every CPU.
pub fn unpin() -> Result<()> {
    let all: Vec<usize> = (0..usize::try_from(libc::CPU_SETSIZE).unwrap_or(0)).collect();
    affinity(&all)
}

fn affinity(cpus: &[usize]) -> Result<()> {
    // SAFETY: an array of integers may be zero.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    for cpu in cpus {
        // SAFETY: a CPU beyond the set's size panics.
        unsafe { libc::CPU_SET(*cpu, &mut set) };
    }
    // SAFETY: a valid pointer and its size.
    if unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } != 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("could not run on CPU {cpus:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_load_does_something_and_takes_cpu_time() {
        let cpus = allowed_cpus().unwrap();
        let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
        for load in [
            Load::ping_pong(last),
            Load::competitors(last),
            Load::migrations([first, last]),
            Load::messaging(),
            Load::faults(last),
        ] {
            let load = load.unwrap();
            let before = load.snapshot().unwrap();
            // The load may wait long for its turn on a CPU.
            let per_operation = std::iter::from_fn(|| {
                std::thread::sleep(Duration::from_millis(10));
                load.snapshot().ok()
            })
            .find_map(|after| after.ns_per_operation(before));
            assert!(per_operation.unwrap() > 0.0);
        }
    }
}

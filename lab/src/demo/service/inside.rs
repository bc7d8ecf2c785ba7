//! The work of the service, in its own process.

use std::{
    fs::{self, File},
    os::fd::AsRawFd as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    memory::{self, Region, page_size},
    task,
};

/// Bytes of the state on disk, all of which the page cache holds unless memory is short.
pub const STATE: usize = 96 << 20;

/// Threads for each of its CPUs while it is crowded. Usually there is one, which wants a fifth of the CPU.
const CROWD: usize = 8;

/// One burst: CPU time that it computes, bytes of the state that it touches, bytes of new memory that it fills. The cost
/// of reclaim is by the page, so that large pages need a minimum number of them.
const COMPUTE: Duration = Duration::from_millis(2);
const TOUCH: usize = 4 << 20;
const TOUCH_PAGES: usize = 256;
const FILL: usize = 256 << 10;
const FILL_PAGES: usize = 16;
/// Time between bursts.
const PAUSE: Duration = Duration::from_millis(15);

/// Time between checkpoints, and bursts that one is made of.
const EVERY: Duration = Duration::from_secs(1);
const CHECKPOINT: usize = 8;

/// CPUs, node and state of the service.
#[derive(Debug)]
pub struct Settings {
    /// Its CPUs.
    pub cpus: Vec<usize>,
    /// The node of its memory, if there are several.
    pub node: Option<u32>,
    /// The file of its state.
    pub state: PathBuf,
}

/// Orders to the service.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub enum Order {
    /// Answer with the longest checkpoint since the last such order, in nanoseconds.
    Checkpoint = 1,
    /// Run too many threads.
    Crowd,
    /// End these threads.
    Alone,
    /// Allocate memory anywhere.
    Roam,
    /// Allocate memory on the own node only.
    Stay,
    /// Compact the machine's memory.
    Compact,
    /// Leave the machine's memory alone.
    Leave,
}

/// State that its threads share.
#[derive(Debug, Default)]
struct Shared {
    crowded: AtomicBool,
    roaming: AtomicBool,
    compacting: AtomicBool,
    /// Longest checkpoint, in nanoseconds.
    longest: AtomicU64,
}

/// The running service.
pub struct Inside {
    shared: Arc<Shared>,
    crowd: usize,
}

impl Inside {
    /// Reads the state and starts the threads.
    pub fn start(settings: &Settings) -> Result<Self> {
        task::pin(0, &settings.cpus)?;
        if settings.node.is_some() {
            memory::allocate_on(settings.node)?;
        }
        let shared = Arc::new(Shared::default());
        for (number, cpu) in settings.cpus.iter().enumerate() {
            let mut server = Server::new(settings, (number, *cpu), Arc::clone(&shared))?;
            server.touch(server.state.pages);
            thread::spawn(move || end_with(server.serve()));
        }
        Ok(Self {
            shared,
            crowd: settings.cpus.len() * CROWD,
        })
    }

    /// Obeys an [`Order`], given by its number.
    pub fn obey(&self, number: u8) -> Result<u64> {
        let shared = &self.shared;
        match number {
            n if n == Order::Checkpoint as u8 => return Ok(shared.longest.swap(0, Relaxed)),
            n if n == Order::Crowd as u8 => self.crowd(),
            n if n == Order::Alone as u8 => shared.crowded.store(false, Relaxed),
            n if n == Order::Roam as u8 => shared.roaming.store(true, Relaxed),
            n if n == Order::Stay as u8 => shared.roaming.store(false, Relaxed),
            n if n == Order::Compact as u8 => shared.compacting.store(true, Relaxed),
            n if n == Order::Leave as u8 => shared.compacting.store(false, Relaxed),
            n => bail!("the service knows no order {n}"),
        }
        Ok(0)
    }

    fn crowd(&self) {
        self.shared.crowded.store(true, Relaxed);
        for _ in 0..self.crowd {
            let shared = Arc::clone(&self.shared);
            thread::spawn(move || {
                while shared.crowded.load(Relaxed) {
                    task::spin_for(Duration::from_millis(1));
                }
            });
        }
    }
}

/// Ends the whole service when a thread cannot go on, or nobody would hear of it.
fn end_with(done: Result<()>) {
    if let Err(error) = done {
        eprintln!("the service: {error:#}");
        std::process::exit(1);
    }
}

/// One thread of the service.
struct Server {
    number: usize,
    cpu: usize,
    shared: Arc<Shared>,
    node: Option<u32>,
    roams: bool,
    /// Its part of the state, and the page of it to touch next.
    state: Region,
    at: usize,
    fresh: Region,
}

impl Server {
    fn new(
        settings: &Settings,
        (number, cpu): (usize, usize),
        shared: Arc<Shared>,
    ) -> Result<Self> {
        let path = &settings.state;
        let file = File::open(path).with_context(|| path.display().to_string())?;
        let pages = STATE / page_size();
        let part = pages / settings.cpus.len();
        let state = Region::map(pages, libc::MAP_PRIVATE, file.as_raw_fd())?;
        Ok(Self {
            number,
            cpu,
            shared,
            node: settings.node,
            roams: false,
            state: state.part(number * part, part),
            at: 0,
            fresh: Region::anonymous((FILL / page_size()).max(FILL_PAGES))?,
        })
    }

    fn serve(mut self) -> Result<()> {
        // With a CPU each, the threads never wait for each other. Affinity and memory policy are every thread's
        // own.
        task::pin(0, &[self.cpu])?;
        self.settle()?;
        let mut last = Instant::now();
        loop {
            self.burst()?;
            if self.number == 0 && last.elapsed() > EVERY {
                last = Instant::now();
                (0..CHECKPOINT).try_for_each(|_| self.burst())?;
                let ns = u64::try_from(last.elapsed().as_nanos()).unwrap_or(u64::MAX);
                self.shared.longest.fetch_max(ns, Relaxed);
            }
            sleep(PAUSE);
        }
    }

    fn burst(&mut self) -> Result<()> {
        if self.roams != self.shared.roaming.load(Relaxed) {
            self.roams = !self.roams;
            self.settle()?;
        }
        if self.shared.compacting.load(Relaxed) {
            fs::write("/proc/sys/vm/compact_memory", "1").context("cannot compact memory")?;
        }
        self.touch((TOUCH / page_size()).max(TOUCH_PAGES));
        self.fresh.advise(libc::MADV_DONTNEED)?;
        self.fresh.write();
        task::spin_for(COMPUTE);
        Ok(())
    }

    fn settle(&self) -> Result<()> {
        let node = self.node.filter(|_| !self.roams);
        if self.node.is_some() {
            memory::allocate_on(node)?;
        }
        Ok(())
    }

    /// Reads from so many pages of its part of the state, round and round.
    fn touch(&mut self, pages: usize) {
        for _ in 0..pages {
            self.state.part(self.at, 1).read();
            self.at = (self.at + 1) % self.state.pages;
        }
    }
}

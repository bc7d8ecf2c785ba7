//! Reclaim and compaction in a task's own time, against the kernel's trace of the same task, the
//! pressure it reports and the task's own clocks.

mod taken;

use std::{
    fs::File,
    io::Read as _,
    os::fd::AsRawFd as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Truth, daemons::NO_PRESSURE};
use crate::{
    Group, Report, Worker, World,
    limit::{self, Limit, Source},
    memory::{self, Region, page_size},
    task,
    world::DISK,
};
use taken::Taken;

pub(super) const TRUTHS: &[Truth] = &[
    Truth {
        name: "reclaim_at_a_memory_limit",
        about: "files read beyond a memory cgroup's limit, by read and by fault, and within it",
        both_hierarchies: true,
        run: limited,
    },
    Truth {
        name: "reclaim_direct",
        about: "a node without free memory and a kswapd that does not get to run",
        both_hierarchies: true,
        run: direct,
    },
    Truth {
        name: "reclaim_compaction",
        about: "compaction in the writer's time, some of which is a wait for the CPU",
        both_hierarchies: true,
        run: compaction,
    },
];

/// Bytes of the limit, and of what is read from the beginning of a file beyond and within it.
const LIMIT: u64 = 32 << 20;
const BEYOND: usize = 160 << 20;
const WITHIN: usize = 8 << 20;
/// Steps of a worker.
const READ: u8 = 1;
const FAULT: u8 = 2;

fn limited(world: &mut World, report: &mut Report) -> Result<()> {
    if !limit::can(world) {
        report.leave_out("this kernel has no memory controller for cgroup v1");
        return Ok(());
    }
    let source = Source::find(world, BEYOND)?;
    let cpu = *world.cpus().last().context("a CPU")?;
    for (name, step) in [("read", READ), ("fault", FAULT)] {
        let group = Group::new(&format!("memory-{name}"))?;
        let limit = Limit::of(&group, LIMIT)?;
        let mut worker = reader(&group, &limit, source.path.clone(), BEYOND, cpu)?;
        let taken = Taken::by(world, &group, &mut worker, step)?;
        taken.judge(report, name, &[("memcg_reclaim", 11)])?;
        taken.judge_pressure(report, name, "memcg_reclaim")?;
    }
    let group = Group::new("memory-within")?;
    let limit = Limit::of(&group, LIMIT)?;
    let mut worker = reader(&group, &limit, source.path.clone(), WITHIN, cpu)?;
    let taken = Taken::by(world, &group, &mut worker, READ)?;
    taken.judge(report, "within the limit", &[])
}

/// Starts a worker that reads so much of a file from inside a limit, on one CPU.
fn reader(group: &Group, limit: &Limit, path: PathBuf, bytes: usize, cpu: usize) -> Result<Worker> {
    let entrance = limit.entrance()?;
    let mut entered = false;
    Worker::start(group, move |step| {
        if !entered {
            task::pin(0, &[cpu])?;
            entrance.enter()?;
            entered = true;
        }
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        timed(|| match step {
            FAULT => fault(&file, bytes),
            READ => read(&file, bytes),
            // This step only enters.
            _ => Ok(()),
        })
    })
}

fn read(mut file: &File, bytes: usize) -> Result<()> {
    let mut buffer = vec![0; 1 << 18];
    for _ in 0..bytes / buffer.len() {
        file.read_exact(&mut buffer)?;
    }
    Ok(())
}

fn fault(file: &File, bytes: usize) -> Result<()> {
    let region = Region::map(bytes / page_size(), libc::MAP_PRIVATE, file.as_raw_fd())?;
    region.read();
    Ok(())
}

/// Time that the work takes, in nanoseconds.
fn timed(work: impl FnOnce() -> Result<()>) -> Result<u64> {
    let start = Instant::now();
    work()?;
    u64::try_from(start.elapsed().as_nanos()).context("a step of centuries")
}

fn direct(world: &mut World, report: &mut Report) -> Result<()> {
    if !world.guest || world.nodes.len() < 2 {
        report.leave_out("memory pressure would fall on the whole machine");
        return Ok(());
    }
    if world.real_time() {
        report.leave_out(NO_PRESSURE);
        return Ok(());
    }
    let (node, other) = (world.nodes[1].clone(), world.nodes[0].clone());
    let (busy, group) = (Group::new("busy")?, Group::new("direct")?);
    let kswapd = task::kthread(&format!("kswapd{}", node.id)).context("there is no kswapd")?;
    let cpu = node.cpus[0];
    let crowd = [busy.spin_on(cpu)?, busy.spin_on(cpu)?];
    for task in &crowd {
        task::nice(task.pid(), -20)?;
    }
    task::pin(kswapd, &[cpu])?;
    task::nice(kswapd, 19)?;
    let (id, cpu, bytes) = (node.id, other.cpus[0], 1400 << 20);
    let mut worker = Worker::start(&group, move |step| {
        task::pin(0, &[cpu])?;
        memory::allocate_on(Some(id))?;
        let disk = File::open(DISK).context(DISK)?;
        timed(|| {
            if step == READ {
                read(&disk, bytes)?;
            }
            Ok(())
        })
    })?;
    let taken = Taken::by(world, &group, &mut worker, READ);
    task::nice(kswapd, 0)?;
    task::pin(kswapd, &node.cpus)?;
    let taken = taken?;
    taken.judge(report, "bound to a full node", &[("direct_reclaim", 3)])?;
    taken.judge_pressure(report, "bound to a full node", "direct_reclaim")
}

fn compaction(world: &mut World, report: &mut Report) -> Result<()> {
    const TIMES: usize = 13;
    /// Long enough for the others to have had their turns.
    const SHARED: Duration = Duration::from_secs(1);
    let (group, other) = (Group::new("compact")?, Group::new("rival")?);
    let cpu = *world.cpus().last().context("a CPU")?;
    let mut worker = Worker::start(&group, move |step| {
        task::pin(0, &[cpu])?;
        timed(|| {
            let (start, mut times) = (Instant::now(), 0);
            while step == READ && (times < TIMES || start.elapsed() < SHARED) {
                std::fs::write("/proc/sys/vm/compact_memory", "1")?;
                times += 1;
            }
            Ok(())
        })
    })?;
    let _rivals = [other.spin_on(cpu)?, other.spin_on(cpu)?];
    let taken = Taken::by(world, &group, &mut worker, READ)?;
    taken.judge(report, "beside others", &[("compaction", TIMES as u64)])?;
    taken.judge_without_wait(report, "beside others", "compaction");
    Ok(())
}

//! Memory that is short: in the service's cgroup, or on a node of a machine of the lab's.

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{During, Scene};
use crate::{
    Group, Task, interrupt,
    limit::Limit,
    memory::{Region, page_size},
    task::{self, PATIENCE},
};

/// Memory limit in bytes: a third of the service's state.
const LIMIT: u64 = 32 << 20;
/// CPU time after which kswapd counts as at work, and number of direct reclaims after which a node counts as full.
const WORKS: Duration = Duration::from_millis(300);
const STALLS: u64 = 3;
/// Longest time for which the user of memory waits for kswapd.
const LONG: Duration = Duration::from_millis(100);
/// Weights in percent: of a service that requests little, so that it does not go before kswapd, and of the task that
/// keeps kswapd from running.
const SLIGHT: u32 = 10;
const HEAVIEST: u32 = 10_000;

impl Scene<'_> {
    pub(super) fn limited(&mut self, work: During) -> Result<()> {
        let limit = self.service.limit().context("no memory controller")?;
        // The service goes on using memory meanwhile.
        let mut tries = 0..20;
        while let Err(error) = limit.set(LIMIT) {
            tries.next().ok_or(error)?;
            sleep(Duration::from_millis(50));
        }
        let done = work(self.service);
        self.service.limit().map_or(Ok(()), Limit::lift)?;
        done
    }

    /// Uses up the memory of the service's node, so that kswapd reclaims on the service's CPUs.
    pub(super) fn kswapd(&mut self, work: During) -> Result<()> {
        let (node, far) = self.nodes()?;
        let daemon = Daemon::of(node, &self.cpus_of(node))?;
        task::pin(daemon.pid, &self.service.cpus)?;
        let group = Group::named(&self.beside("user"))?;
        let _user = user(&group, node, far[0], low(node)?)?;
        daemon.works(WORKS)?;
        // A service that may take memory from other nodes need not reclaim.
        self.service.roam(true)?;
        let done = self.weighing(SLIGHT, work);
        self.service.roam(false)?;
        done
    }

    /// Uses up the node's memory, but keeps kswapd from running: processes that want memory have to reclaim.
    pub(super) fn full_node(&mut self, work: During) -> Result<()> {
        let (node, far) = self.nodes()?;
        let cpu = *far.last().context("a CPU")?;
        let daemon = Daemon::of(node, &self.cpus_of(node))?;
        let group = Group::named(&self.beside("user"))?;
        // Without the controller the rival weighs what its nice value says.
        let _ = group.weigh(HEAVIEST);
        let rival = group.spin_on(cpu)?;
        task::nice(rival.pid(), -20)?;
        task::pin(daemon.pid, &[cpu])?;
        task::nice(daemon.pid, 19)?;
        let _user = user(&group, node, far[0], 0)?;
        until_full()?;
        work(self.service)
    }

    /// The service's node, and the CPUs of another.
    fn nodes(&self) -> Result<(u32, Vec<usize>)> {
        let far = self.place.far.as_ref().context("one node only")?;
        Ok((self.place.node.context("one node only")?, far.cpus.clone()))
    }

    fn cpus_of(&self, node: u32) -> Vec<usize> {
        let mut nodes = self.world.nodes.iter();
        let found = nodes.find(|each| each.id == node);
        found.map_or_else(|| self.world.cpus(), |node| node.cpus.clone())
    }
}

/// kswapd of a node, put back where it was when dropped.
struct Daemon {
    pid: libc::pid_t,
    cpus: Vec<usize>,
}

impl Daemon {
    /// Finds kswapd of a node with these CPUs.
    fn of(node: u32, cpus: &[usize]) -> Result<Self> {
        let name = format!("kswapd{node}");
        let pid = task::kthread(&name).with_context(|| format!("there is no {name}"))?;
        let cpus = cpus.to_vec();
        Ok(Self { pid, cpus })
    }

    /// Waits until the daemon has used so much more CPU time.
    fn works(&self, time: Duration) -> Result<()> {
        let (start, begun) = (Instant::now(), self.on_cpu()?);
        while self.on_cpu()? < begun + time {
            ensure!(start.elapsed() < PATIENCE, "kswapd does not work");
            interrupt::sleep(Duration::from_millis(50))?;
        }
        Ok(())
    }

    fn on_cpu(&self) -> Result<Duration> {
        let path = format!("/proc/{}/schedstat", self.pid);
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let first = text.split_whitespace().next();
        let ns = first.and_then(|word| word.parse().ok());
        let ns = ns.with_context(|| format!("{path} should hold three numbers: {text}"))?;
        Ok(Duration::from_nanos(ns))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for done in [task::pin(self.pid, &self.cpus), task::nice(self.pid, 0)] {
            if let Err(error) = done {
                println!("    kswapd stays changed: {error:#}");
            }
        }
    }
}

/// Starts a process that fills memory of a node and marks each piece as free to be taken (`MADV_FREE`), so that others
/// have to reclaim it. While less than `least` bytes are free the process waits: below the low watermark kswapd
/// reclaims, and far below it every process. It does not wait for long, because a kswapd that has given up works again
/// only after others have reclaimed.
fn user(group: &Group, node: u32, cpu: usize, least: u64) -> Result<Task> {
    let pages = usize::try_from(of_node(node, "MemTotal")?)? / page_size();
    let part = (1 << 20) / page_size();
    group.spawn(move || {
        task::pin(0, &[cpu])?;
        let region = Region::anonymous(pages)?;
        region.bind(node)?;
        for first in (0..pages - part).step_by(part).cycle() {
            let start = Instant::now();
            while start.elapsed() < LONG && of_node(node, "MemFree")? < least {
                sleep(Duration::from_millis(2));
            }
            let part = region.part(first, part);
            part.write();
            part.advise(libc::MADV_FREE)?;
        }
        Ok(())
    })
}

/// Waits until processes reclaim themselves.
fn until_full() -> Result<()> {
    let (start, begun) = (Instant::now(), stalls()?);
    while stalls()? < begun + STALLS {
        ensure!(start.elapsed() < PATIENCE, "the node does not fill up");
        interrupt::sleep(Duration::from_millis(50))?;
    }
    Ok(())
}

/// Number of direct reclaims so far (`allocstall_*`).
fn stalls() -> Result<u64> {
    let path = "/proc/vmstat";
    let text = fs::read_to_string(path).context(path)?;
    let counts = text.lines().filter(|line| line.starts_with("allocstall"));
    let counts = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    Ok(counts.sum())
}

/// A number of a node's `meminfo` in bytes, such as `MemFree`.
fn of_node(node: u32, key: &str) -> Result<u64> {
    let path = format!("/sys/devices/system/node/node{node}/meminfo");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    number_of(&text, key).with_context(|| format!("{path} has no number {key}"))
}

fn number_of(meminfo: &str, key: &str) -> Option<u64> {
    let key = format!(" {key}: ");
    let line = meminfo.lines().find(|line| line.contains(&key))?;
    let kib: u64 = line.split_whitespace().nth(3)?.parse().ok()?;
    Some(kib << 10)
}

/// The low watermark of a node in bytes.
fn low(node: u32) -> Result<u64> {
    let path = "/proc/zoneinfo";
    let text = fs::read_to_string(path).context(path)?;
    let pages = low_of(&text, node).with_context(|| format!("{path} has no node {node}"))?;
    Ok(pages * page_size() as u64)
}

/// Sum of the low watermarks of a node's zones, in pages.
fn low_of(zoneinfo: &str, node: u32) -> Option<u64> {
    let (mut ours, mut sum) = (false, None);
    for line in zoneinfo.lines() {
        if line.starts_with("Node ") {
            ours = line.starts_with(&format!("Node {node}, "));
        } else if let Some(pages) = line.trim_start().strip_prefix("low ").filter(|_| ours) {
            sum = Some(sum.unwrap_or(0) + pages.trim().parse::<u64>().ok()?);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::{low_of, number_of};

    #[test]
    fn memory_of_a_node_is_in_kibibytes() {
        let text = "Node 1 MemTotal:       1000000 kB\nNode 1 MemFree:          2048 kB\n";
        assert_eq!(number_of(text, "MemFree"), Some(2 << 20));
        assert_eq!(number_of(text, "Free"), None);
    }

    #[test]
    fn the_low_watermark_of_a_node_is_that_of_all_its_zones() {
        let text = "Node 1, zone      DMA\n  pages free     9\n        min      1\n        low      2\n\
            Node 1, zone   Normal\n        low      30\n        high     40\n\
            Node 11, zone   Normal\n        low      500\n";
        assert_eq!(low_of(text, 1), Some(32));
        assert_eq!(low_of(text, 11), Some(500));
        assert_eq!(low_of(text, 0), None);
    }
}

//! Memory that is short: in the service's cgroup, or on a node of a machine of the lab's.

use std::{fs, fs::File, io::Read as _, thread::sleep, time::Duration};

use anyhow::{Context as _, Result};

use super::{During, Scene};
use crate::{
    Group, Task,
    memory::{self, Region, page_size},
    task,
    world::DISK,
};

/// Bytes of the limit; a third of the service's state.
const LIMIT: u64 = 32 << 20;
/// Bytes of the service's state that a full node has no room for.
const SHORT: u64 = 64 << 20;

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
        self.service
            .limit()
            .map_or(Ok(()), crate::limit::Limit::lift)?;
        done
    }

    /// Somebody else fills the page cache of the service's node; kswapd makes room on the service's CPUs.
    pub(super) fn kswapd(&mut self, work: During) -> Result<()> {
        let (node, far) = self.nodes()?;
        let daemon = format!("kswapd{node}");
        let daemon = task::kthread(&daemon).with_context(|| format!("there is no {daemon}"))?;
        let name = format!(
            "{}-reader",
            self.service.group.label.trim_start_matches('/')
        );
        let group = Group::named(&name)?;
        let _reader = group.spawn(move || {
            task::pin(0, &far)?;
            memory::allocate_on(Some(node))?;
            loop {
                read_disk()?;
            }
        })?;
        let home = self.cpus_of(node);
        task::pin(daemon, &self.service.cpus)?;
        let done = work(self.service);
        task::pin(daemon, &home)?;
        done
    }

    /// The service's node is full, and its kswapd does not get to run.
    pub(super) fn full_node(&mut self, work: During) -> Result<()> {
        let (node, far) = self.nodes()?;
        let daemon = format!("kswapd{node}");
        let daemon = task::kthread(&daemon).with_context(|| format!("there is no {daemon}"))?;
        let name = format!("{}-hog", self.service.group.label.trim_start_matches('/'));
        let group = Group::named(&name)?;
        let cpu = *far.last().context("a CPU")?;
        let rival = group.spin_on(cpu)?;
        task::nice(rival.pid(), -20)?;
        task::pin(daemon, &[cpu])?;
        task::nice(daemon, 19)?;
        let done = hog(&group, node, far[0]).and_then(|_hog| work(self.service));
        task::nice(daemon, 0)?;
        task::pin(daemon, &self.cpus_of(node))?;
        done
    }

    /// The service's node, and CPUs of another.
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

fn read_disk() -> Result<()> {
    let mut disk = File::open(DISK).with_context(|| DISK.to_owned())?;
    let mut buffer = vec![0; 1 << 20];
    while disk.read(&mut buffer)? != 0 {}
    Ok(())
}

/// A process that takes what is free on a node and a part of the page cache.
fn hog(group: &Group, node: u32, cpu: usize) -> Result<Task> {
    let bytes = free(node)? + SHORT;
    let hog = group.spawn(move || {
        task::pin(0, &[cpu])?;
        let region = Region::anonymous(bytes as usize / page_size())?;
        region.bind(node)?;
        region.write();
        task::stop_self();
        Ok(())
    })?;
    hog.until('T')?;
    Ok(hog)
}

/// Bytes that are free on a node.
fn free(node: u32) -> Result<u64> {
    let path = format!("/sys/devices/system/node/node{node}/meminfo");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    free_of(&text).with_context(|| format!("{path} has no line MemFree"))
}

fn free_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.contains(" MemFree:"))?;
    let kib: u64 = line.split_whitespace().nth(3)?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::free_of;

    #[test]
    fn free_memory_of_a_node_is_in_kibibytes() {
        let text = "Node 1 MemTotal:       1000000 kB\nNode 1 MemFree:          2048 kB\n";
        assert_eq!(free_of(text), Some(2 << 20));
        assert_eq!(free_of("Node 1 MemTotal: 1 kB\n"), None);
    }
}

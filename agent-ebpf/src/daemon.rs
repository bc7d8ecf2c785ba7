//! The kernel daemons that reclaim, compact and collapse memory: their names and their cells.

/// The kernel daemons that reclaim, compact or collapse memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Daemon {
    /// `kswapd<node>`.
    Kswapd = 0,
    /// `kcompactd<node>`.
    Kcompactd = 1,
    /// `khugepaged`, one for the host.
    Khugepaged = 2,
}

impl Daemon {
    /// All daemons, in the order of [`WaitCell::preemptions`](crate::WaitCell::preemptions).
    pub const ALL: [Self; DAEMONS] = [Self::Kswapd, Self::Kcompactd, Self::Khugepaged];

    /// The value of the `daemon` label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Kswapd => "kswapd",
            Self::Kcompactd => "kcompactd",
            Self::Khugepaged => "khugepaged",
        }
    }
}

/// Number of daemons.
pub const DAEMONS: usize = 3;

/// Counts of one memory daemon of one NUMA node, at [`daemon_place`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct DaemonCell {
    /// Times it was switched in after sleeping.
    pub wakeups: u64,
    /// Time on CPUs, in nanoseconds.
    pub on_cpu_ns: u64,
    /// Wait on run queues, in nanoseconds.
    pub wait_ns: u64,
    /// 1 if the daemon was still runnable when it was last switched out. A daemon not seen yet counts
    /// as asleep, as daemons mostly are.
    pub runnable: u64,
}

/// Number of cells on a host whose highest node is `nodes` - 1: one for each daemon and node, and a
/// last one in which [`DaemonCell::wakeups`] counts the stays on a CPU of daemons without a cell.
#[inline(always)]
#[must_use]
pub const fn daemon_cells(nodes: u32) -> u32 {
    DAEMONS as u32 * nodes + 1
}

/// Index of a daemon's cell. `None` for a node that came after the tables were made.
#[inline(always)]
#[must_use]
pub const fn daemon_place(daemon: Daemon, node: u32, nodes: u32) -> Option<u32> {
    if node < nodes {
        Some(daemon as u32 * nodes + node)
    } else {
        None
    }
}

/// Returns the daemon that a kernel thread is, with its NUMA node. The name decides: `PF_KCOMPACTD`
/// exists only since 6.12 and khugepaged never had a flag. `comm` gives eight bytes of the name, from
/// 0 up to 8 on, as little-endian words hold them.
#[inline(always)]
pub fn daemon_named(comm: impl Fn(u32) -> u64) -> Option<(Daemon, u32)> {
    const KSWAPD: u64 = u64::from_le_bytes(*b"kswapd\0\0");
    const KCOMPACT: u64 = u64::from_le_bytes(*b"kcompact");
    const KHUGEPAG: u64 = u64::from_le_bytes(*b"khugepag");
    let name = comm(0);
    if name & 0xffff_ffff_ffff == KSWAPD {
        Some((Daemon::Kswapd, number(comm(6))))
    } else if name == KCOMPACT {
        Some((Daemon::Kcompactd, number(comm(8) >> 8)))
    } else if name == KHUGEPAG {
        Some((Daemon::Khugepaged, 0))
    } else {
        None
    }
}

/// Parses the number that `digits` begins with, at most four of them: no node is above 1023.
/// `u32::MAX` where it begins with none.
#[inline(always)]
const fn number(digits: u64) -> u32 {
    let mut number = digit(digits);
    if number > 9 {
        return u32::MAX;
    }
    let mut place = 1;
    while place < 4 {
        let next = digit(digits >> (8 * place));
        if next > 9 {
            break;
        }
        number = number * 10 + next;
        place += 1;
    }
    number
}

/// Value of the first of these characters as a digit; above 9 if it is not a digit.
#[inline(always)]
const fn digit(characters: u64) -> u32 {
    (characters as u8).wrapping_sub(b'0') as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MAX_NODES;

    /// Recognizes a thread's name as the kernel side does.
    fn named(name: &str) -> Option<(Daemon, u32)> {
        let mut comm = [0; 16];
        comm[..name.len()].copy_from_slice(name.as_bytes());
        daemon_named(|start| {
            let start = start as usize;
            u64::from_le_bytes(comm[start..start + 8].try_into().unwrap())
        })
    }

    #[test]
    fn daemons_of_every_node_are_known_by_name() {
        for node in 0..=MAX_NODES {
            let (kswapd, kcompactd) = (format!("kswapd{node}"), format!("kcompactd{node}"));
            assert_eq!(named(&kswapd), Some((Daemon::Kswapd, node)));
            assert_eq!(named(&kcompactd), Some((Daemon::Kcompactd, node)));
        }
        assert_eq!(named("khugepaged"), Some((Daemon::Khugepaged, 0)));
    }

    #[test]
    fn other_threads_are_no_daemons_and_no_node_is_made_up() {
        for name in ["kworker/0:1", "kswap", "kcompac", "ksoftirqd/0", ""] {
            assert_eq!(named(name), None, "{name}");
        }
        for name in ["kswapd", "kswapd-x", "kcompactd", "kcompactd:1"] {
            let (daemon, node) = named(name).unwrap();
            assert_eq!(daemon_place(daemon, node, MAX_NODES), None, "{name}");
        }
        assert_eq!(named("kswapd1:0"), Some((Daemon::Kswapd, 1)));
    }

    #[test]
    fn each_daemon_of_each_node_has_a_cell_of_its_own() {
        for nodes in [1, 2, 9, 63, 64, 65, 100, MAX_NODES - 1, MAX_NODES] {
            let mut places: Vec<u32> = Daemon::ALL
                .into_iter()
                .flat_map(|daemon| (0..nodes).map(move |node| (daemon, node)))
                .map(|(daemon, node)| daemon_place(daemon, node, nodes).unwrap())
                .collect();
            places.sort_unstable();
            assert_eq!(places, (0..daemon_cells(nodes) - 1).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_node_beyond_the_tables_has_no_cell_and_takes_nobody_elses() {
        for nodes in [1, 2, 64, MAX_NODES] {
            for node in [nodes, nodes + 1, 9999, u32::MAX] {
                for daemon in Daemon::ALL {
                    assert_eq!(daemon_place(daemon, node, nodes), None);
                }
            }
            assert!(daemon_place(Daemon::Khugepaged, nodes - 1, nodes).is_some());
        }
    }
}

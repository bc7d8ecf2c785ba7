//! The generation of programs that counts on each CPU while larger tables take over from smaller ones.
//!
//! When there are more cgroups than slots, the agent loads the programs once more with larger tables and attaches
//! them beside the old ones. For a while the kernel shows every event to both, and exactly one may count it. Each
//! CPU has a word in a map that both share: the *generation* of the programs that count there. Programs of other
//! generations do nothing, except that a newer one takes its turn once the last word says that all programs of
//! its generation are attached: it stores its generation and leaves this event to the older one, which has
//! counted it already (tracepoints run programs in the order in which they were attached). A trampoline and a
//! kprobe run the newest first, so that there nobody counts the event at which a CPU changes over: one fault a
//! CPU is missing, and none is counted twice.
//!
//! Each CPU alone writes its word. The agent writes those of CPUs on which nothing happened meanwhile, once the
//! old programs are detached.

/// Number of words of the map on a host of `cpus` possible CPUs: one a CPU, and the generation that is attached.
#[must_use]
pub const fn turn_words(cpus: u32) -> u32 {
    cpus + 1
}

/// Decision of a program about an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Turn {
    /// Count it.
    Count,
    /// Leave it to programs of another generation.
    Leave,
    /// Leave it to an older program, and count from the next event on.
    Take,
}

impl Turn {
    /// Decides for a program of generation `own` on a CPU where `current` counts; all programs of `attached` are
    /// attached.
    #[inline(always)]
    #[must_use]
    pub const fn of(own: u64, current: u64, attached: u64) -> Self {
        if own == current {
            Self::Count
        } else if own > current && own <= attached {
            Self::Take
        } else {
            Self::Leave
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shows one event on a CPU to programs of these generations in this order, and returns those that counted
    /// it.
    fn event(current: &mut u64, attached: u64, programs: &[u64]) -> Vec<u64> {
        let mut counted = Vec::new();
        for own in programs {
            match Turn::of(*own, *current, attached) {
                Turn::Count => counted.push(*own),
                Turn::Take => *current = *own,
                Turn::Leave => {}
            }
        }
        counted
    }

    #[test]
    fn every_event_is_counted_once_while_programs_follow_each_other() {
        let mut current = 0;
        assert_eq!(event(&mut current, 0, &[0]), [0]);
        assert_eq!(event(&mut current, 0, &[0, 1]), [0], "not all are attached");
        assert_eq!(
            event(&mut current, 1, &[0, 1]),
            [0],
            "at which it changes over"
        );
        assert_eq!(event(&mut current, 1, &[0, 1]), [1]);
        assert_eq!(event(&mut current, 1, &[1]), [1]);
        assert_eq!(event(&mut current, 2, &[1, 2]), [1]);
        assert_eq!(event(&mut current, 2, &[1, 2]), [2]);
    }

    #[test]
    fn newest_first_one_event_a_cpu_is_missing_and_none_counts_twice() {
        let mut current = 0;
        assert_eq!(event(&mut current, 0, &[1, 0]), [0]);
        assert_eq!(event(&mut current, 1, &[1, 0]), []);
        assert_eq!(event(&mut current, 1, &[1, 0]), [1]);
    }
}

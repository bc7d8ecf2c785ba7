//! Sort orders of the ranking.

use std::cmp::Ordering;

use stallscope_ebpf::{Cause, Reclaim};

use crate::api::{Container, Top};

/// A quantity that the ranking is sorted by, in descending order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sort {
    /// Time lost.
    Lost,
    /// CPU time.
    Cpu,
    /// Migrations of tasks to another CPU.
    Migrations,
    /// Page faults whose page was on another NUMA node.
    Remote,
    /// Time lost to one cause.
    Cause(&'static str),
}

impl Sort {
    /// Returns all orders, in the sequence that the `s` key goes through.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let plain = [Self::Lost, Self::Cpu, Self::Migrations, Self::Remote];
        plain.into_iter().chain(causes().map(Self::Cause))
    }

    /// Returns the order's name on the command line.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Cpu => "cpu",
            Self::Migrations => "migrations",
            Self::Remote => "remote",
            Self::Cause(cause) => cause,
        }
    }

    /// Finds an order by its name.
    ///
    /// # Errors
    /// When there is no such order; the error lists all.
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        Self::all()
            .find(|sort| sort.name() == name)
            .ok_or_else(|| format!("expected one of {}", Self::names()))
    }

    /// Returns the names of all orders.
    pub(super) fn names() -> String {
        Self::all().map(Self::name).collect::<Vec<_>>().join(", ")
    }

    /// Returns the next or previous order among those that make sense for the containers shown.
    pub(super) fn next(self, shown: Option<&Top>, forward: bool) -> Self {
        let lost_to = |cause: &str| {
            shown.is_some_and(|top| top.containers.iter().any(|c| c.causes.contains_key(cause)))
        };
        let useful: Vec<_> = Self::all()
            .filter(|sort| match sort {
                Self::Cause(cause) => *sort == self || lost_to(cause),
                _ => true,
            })
            .collect();
        let here = useful.iter().position(|sort| *sort == self).unwrap_or(0);
        let step = if forward { 1 } else { useful.len() - 1 };
        useful[(here + step) % useful.len()]
    }

    /// Returns a container's value; none where it is not measured.
    fn of(self, container: &Container) -> Option<f64> {
        match self {
            Self::Lost => Some(container.lost_seconds),
            Self::Cpu => Some(container.cpu_seconds),
            Self::Migrations => container.migrations.map(|n| n as f64),
            Self::Remote => container.remote_faults.map(|n| n as f64),
            Self::Cause(cause) => Some(container.causes.get(cause).copied().unwrap_or(0.0)),
        }
    }

    /// Compares two containers. Never equal for different containers, so that lines do not jump.
    fn order(self, a: &Container, b: &Container) -> Ordering {
        let most = |sort: Self| {
            let of = |container| sort.of(container).unwrap_or(-1.0);
            of(b).total_cmp(&of(a))
        };
        most(self)
            .then_with(|| most(Self::Lost))
            .then_with(|| most(Self::Cpu))
            .then_with(|| a.labels.cmp(&b.labels))
    }

    /// Sorts containers in this order.
    pub(super) fn sort(self, containers: &mut [Container]) {
        containers.sort_by(|a, b| self.order(a, b));
    }
}

/// Returns all causes of lost time, by their label values.
pub(super) fn causes() -> impl Iterator<Item = &'static str> {
    let waits = Cause::ALL.iter().map(|cause| cause.label());
    waits.chain(Reclaim::ALL.iter().map(|kind| kind.label()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::top::fixture;

    #[test]
    fn an_unknown_sort_names_the_known_ones() {
        assert_eq!(Sort::parse("cpu"), Ok(Sort::Cpu));
        assert_eq!(Sort::parse("throttled"), Ok(Sort::Cause("throttled")));
        let error = Sort::parse("Lost").expect_err("refused");
        for known in [
            "lost",
            "cpu",
            "migrations",
            "remote",
            "own",
            "direct_reclaim",
        ] {
            assert!(error.contains(known), "{error}");
        }
    }

    #[test]
    fn names_are_told_apart() {
        let mut names: Vec<_> = Sort::all().map(Sort::name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn what_is_not_measured_comes_after_zero() {
        let mut top = fixture::busy();
        top.containers[0].remote_faults = None;
        top.containers[1].remote_faults = Some(0);
        let [unknown, zero] = [0, 1].map(|at: usize| top.containers[at].labels.clone());
        Sort::Remote.sort(&mut top.containers);
        let at = |labels| top.containers.iter().position(|c| c.labels == labels);
        assert!(at(zero) < at(unknown));
    }

    #[test]
    fn a_key_goes_through_what_is_there_and_comes_back() {
        let top = fixture::busy();
        let mut sort = Sort::Lost;
        let mut seen = vec![sort.name()];
        loop {
            sort = sort.next(Some(&top), true);
            if sort == Sort::Lost {
                break;
            }
            seen.push(sort.name());
        }
        assert_eq!(seen[..4], ["lost", "cpu", "migrations", "remote"]);
        assert!(seen.contains(&"throttled"), "{seen:?}");
        assert!(!seen.contains(&"kcompactd"), "{seen:?}");
        assert_eq!(
            Sort::Lost.next(Some(&top), false).name(),
            seen[seen.len() - 1]
        );
        assert_eq!(Sort::Lost.next(None, false), Sort::Remote);
        assert_eq!(Sort::Cause("idle").next(None, true), Sort::Lost);
    }
}

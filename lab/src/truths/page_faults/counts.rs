//! Local and remote counts of a group.

use std::fmt;

use anyhow::{Context as _, Result};

use crate::{Group, World, label, scrape::Scrape};

/// Families of a kind of fault: their names without unit and ending.
const FIRST_TOUCH: &str = "stallscope_first_touch";
const FILE_MAP: &str = "stallscope_file_map";

/// Local and remote counts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Both {
    pub(super) local: u64,
    pub(super) remote: u64,
}

impl Both {
    /// Counts that are all of one locality.
    pub(super) fn all(count: u64, remote: bool) -> Self {
        if remote {
            Self {
                local: 0,
                remote: count,
            }
        } else {
            Self {
                local: count,
                remote: 0,
            }
        }
    }

    /// Reads the series of a family that carry these labels; `None` if there are none.
    pub(super) fn read(scrape: &Scrape, family: &str, labels: &[String]) -> Result<Option<Self>> {
        let of = |locality| {
            let labels = [labels, &[label("locality", locality)]].concat();
            scrape.exact(family, &labels)
        };
        let both = of("local")?.zip(of("remote")?);
        Ok(both.map(|(local, remote)| Self { local, remote }))
    }

    pub(super) fn since(self, before: Self) -> Result<Self> {
        let less = |now: u64, then: u64| now.checked_sub(then).context("a counter fell");
        Ok(Self {
            local: less(self.local, before.local)?,
            remote: less(self.remote, before.remote)?,
        })
    }

    pub(super) fn sum(self) -> u64 {
        self.local + self.remote
    }
}

impl fmt::Display for Both {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} local + {} remote", self.local, self.remote)
    }
}

/// Faults, and the pages they were about.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Counts {
    pub(super) faults: Both,
    pub(super) pages: Both,
}

impl Counts {
    /// Counts that are all of one locality.
    pub(super) fn all(faults: u64, pages: u64, remote: bool) -> Self {
        Self {
            faults: Both::all(faults, remote),
            pages: Both::all(pages, remote),
        }
    }

    /// Reads the counts of a kind of fault; `None` where the family is not exported.
    fn read(scrape: &Scrape, family: &str, labels: &[String]) -> Result<Option<Self>> {
        let of = |unit: &str| Both::read(scrape, &format!("{family}_{unit}_total"), labels);
        let both = of("faults")?.zip(of("pages")?);
        Ok(both.map(|(faults, pages)| Self { faults, pages }))
    }

    pub(super) fn since(self, before: Self) -> Result<Self> {
        Ok(Self {
            faults: self.faults.since(before.faults)?,
            pages: self.pages.since(before.pages)?,
        })
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} faults, {} pages", self.faults, self.pages)
    }
}

/// Counts of a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    pub(super) first_touch: Counts,
    /// `None` where there is no hook for it.
    pub(super) file_map: Option<Counts>,
}

impl Counted {
    pub(super) fn of(world: &World, group: &Group) -> Result<Self> {
        let scrape = world.scrape()?;
        let labels = [label("cgroup", &group.label)];
        let first_touch = Counts::read(&scrape, FIRST_TOUCH, &labels)?;
        let first_touch = first_touch
            .with_context(|| format!("{FIRST_TOUCH} has no series of {}", group.label))?;
        let file_map = Counts::read(&scrape, FILE_MAP, &labels)?;
        Ok(Self {
            first_touch,
            file_map,
        })
    }

    pub(super) fn since(self, before: Self) -> Result<Self> {
        let file_map = self.file_map.zip(before.file_map);
        Ok(Self {
            first_touch: self.first_touch.since(before.first_touch)?,
            file_map: file_map.map(|(now, then)| now.since(then)).transpose()?,
        })
    }
}

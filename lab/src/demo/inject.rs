//! Brings each cause about, and undoes it.

mod memory;
mod nodes;

use anyhow::{Context as _, Result, bail};
use stallscope::host::cgroup::Hierarchy;

use super::{
    cause::Cause,
    place::Place,
    service::{Service, WEIGHT},
};
use crate::{Group, Task, World, task};

/// Quota, in microseconds of CPU time in each period: a fifth of what the service takes.
const QUOTA: u64 = 8_000;
const PERIOD: u64 = 100_000;
/// Weight of the service while others are to go first, in percent. At its usual weight the service would go first,
/// because it sleeps most of the time. The nice value gives a process outside of all cgroups about the service's usual
/// weight.
const LIGHT: u32 = 200;
const URGENT: i32 = -12;

/// Work to do while the cause lasts.
type During<'a> = &'a mut dyn FnMut(&mut Service) -> Result<()>;

/// A machine, a place on it and a service there.
pub struct Scene<'a> {
    /// The machine.
    pub world: &'a World,
    /// Place of the service.
    pub place: &'a Place,
    /// The service.
    pub service: &'a mut Service,
}

impl Scene<'_> {
    /// Returns the reason why the cause cannot be brought about here, if there is one.
    #[must_use]
    pub fn obstacle(&self, cause: Cause) -> Option<String> {
        let lab = "`cargo xtask lab --kernel 6.12 --test explain` has a machine that it is done to";
        let own_machine = |what: &str| {
            (!self.world.guest).then(|| format!("{what} would fall on all that runs here; {lab}"))
        };
        match cause {
            Cause::None | Cause::Neighbour | Cause::Own | Cause::Host => None,
            Cause::Throttled => (!self.service.group.has_quota()).then(|| {
                "the cpu controller is not enabled below the root of the cgroups, so that there are no quotas".to_owned()
            }),
            Cause::DirectReclaim if self.world.guest => self.one_node(lab),
            Cause::MemcgReclaim | Cause::DirectReclaim => self.without_limits(),
            Cause::Kswapd => own_machine("memory pressure").or_else(|| self.one_node(lab)),
            Cause::Compaction => own_machine("compaction"),
            Cause::NodeMigrations | Cause::RemoteMemory => self.one_node(lab),
            _ => Some("nothing harmless brings it about for long enough".to_owned()),
        }
    }

    fn without_limits(&self) -> Option<String> {
        let none = self.service.limit().is_none();
        none.then(|| "the memory controller is not enabled for cgroups here".to_owned())
    }

    fn one_node(&self, lab: &str) -> Option<String> {
        let none = self.place.far.is_none();
        none.then(|| format!("this machine has one NUMA node, or may use one only; {lab}"))
    }

    /// Brings the cause about, does `work`, and undoes the cause, whether or not the work failed.
    ///
    /// # Errors
    /// When the cause cannot be brought about or undone, or the work failed.
    pub fn during(&mut self, cause: Cause, work: During) -> Result<()> {
        match cause {
            Cause::None => work(self.service),
            Cause::Throttled => self.throttled(work),
            Cause::Neighbour => self.neighbour(work),
            Cause::Own => self.crowded(work),
            Cause::Host => self.host(work),
            Cause::Compaction => self.compaction(work),
            Cause::DirectReclaim if self.world.guest => self.full_node(work),
            Cause::MemcgReclaim | Cause::DirectReclaim => self.limited(work),
            Cause::Kswapd => self.kswapd(work),
            Cause::NodeMigrations => self.bounced(work),
            Cause::RemoteMemory => self.away(work),
            _ => bail!("{} cannot be brought about", cause.name()),
        }
    }

    /// Name of a cgroup beside the service's.
    fn beside(&self, name: &str) -> String {
        let service = self.service.group.label.trim_start_matches('/');
        format!("{service}-{name}")
    }

    fn throttled(&mut self, work: During) -> Result<()> {
        self.service.group.limit_cpu(QUOTA, PERIOD)?;
        let done = work(self.service);
        self.service.group.unlimit_cpu()?;
        done
    }

    fn neighbour(&mut self, work: During) -> Result<()> {
        let group = Group::named(&self.beside("neighbour"))?;
        // Without the controller all weigh the same.
        let _ = group.weigh(WEIGHT);
        let _rivals = self.rivals(|cpu| group.spin_on(cpu))?;
        self.lightly(work)
    }

    fn host(&mut self, work: During) -> Result<()> {
        let root = Hierarchy::discover("/proc".as_ref(), None)?
            .mount()
            .join("cgroup.procs");
        let _rivals = self.rivals(|cpu| {
            let root = root.clone();
            task::fork(move || {
                std::fs::write(&root, "0").with_context(|| root.display().to_string())?;
                task::nice(0, URGENT)?;
                task::pin(0, &[cpu])?;
                task::spin()
            })
        })?;
        self.lightly(work)
    }

    /// Does the work while the service weighs little. Without the controller all weigh the same.
    fn lightly(&mut self, work: During) -> Result<()> {
        self.weighing(LIGHT, work)
    }

    fn weighing(&mut self, percent: u32, work: During) -> Result<()> {
        let _ = self.service.group.weigh(percent);
        let done = work(self.service);
        let _ = self.service.group.weigh(WEIGHT);
        done
    }

    fn rivals(&self, start: impl Fn(usize) -> Result<Task>) -> Result<Vec<Task>> {
        self.service.cpus.iter().map(|cpu| start(*cpu)).collect()
    }

    fn crowded(&mut self, work: During) -> Result<()> {
        self.service.crowd(true)?;
        let done = work(self.service);
        self.service.crowd(false)?;
        done
    }

    fn compaction(&mut self, work: During) -> Result<()> {
        self.service.compact(true)?;
        let done = work(self.service);
        self.service.compact(false)?;
        done
    }
}

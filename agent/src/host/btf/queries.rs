//! Queries that the agent makes of a kernel's type information besides [`Layout::FIELDS`] and the
//! symbols of its hooks.
//!
//! They are all listed here so that reduced type information ([`Btf::reduced`]) answers them too.
//!
//! [`Layout::FIELDS`]: stallscope_ebpf::Layout::FIELDS
//! [`Btf::reduced`]: super::Btf::reduced

use crate::host::cgroup::Controller;

/// Enumerator that the agent looks up for its value or its presence.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Enumerator(&'static str);

macro_rules! enumerators {
    ($($(#[$doc:meta])* $name:ident $text:literal;)+) => {
        impl Enumerator {
            $($(#[$doc])* pub const $name: Self = Self($text);)+
            const ALL: &'static [Self] = &[$(Self::$name,)+];
        }
    };
}

enumerators! {
    /// Helper that returns the current task as a typed pointer, since Linux 5.11.
    GET_CURRENT_TASK_BTF "BPF_FUNC_get_current_task_btf";
    /// Bit of the GFP flags of allocations for user space or files. Named since 6.10.
    GFP_MOVABLE_BIT "___GFP_MOVABLE_BIT";
    /// Bit of the GFP flags: give up early. Named since 6.10.
    GFP_NORETRY_BIT "___GFP_NORETRY_BIT";
    /// Bit of the GFP flags: leave the reserves alone. Named since 6.10.
    GFP_NOMEMALLOC_BIT "___GFP_NOMEMALLOC_BIT";
    /// Number of zones of a NUMA node.
    MAX_NR_ZONES "__MAX_NR_ZONES";
    /// Bit of a page's flags: the head of a compound page.
    PAGE_HEAD "PG_head";
}

impl Enumerator {
    /// Returns the enumerator whose value is a cgroup controller's index in the kernel's arrays.
    #[must_use]
    pub const fn of(controller: Controller) -> Self {
        Self(controller.enum_name())
    }

    /// The kernel's name of the enumerator.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0
    }

    /// Returns every enumerator that the agent ever looks up.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let controllers = Controller::ALL.into_iter().map(Self::of);
        Self::ALL.iter().copied().chain(controllers)
    }
}

/// Quota of a task group: the member exists if the kernel has CPU quotas.
pub(super) const QUOTA: (&str, &str) = ("cfs_bandwidth", "quota");
/// Zonelist of a node: every zone of every node, then an end mark.
pub(super) const ZONEREFS: (&str, &str) = ("zonelist", "_zonerefs");
/// Structures and members that the agent looks up and that are in no layout.
pub(super) const MEMBERS: [(&str, &str); 2] = [QUOTA, ZONEREFS];

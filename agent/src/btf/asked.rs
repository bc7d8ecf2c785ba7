//! What the agent asks of a kernel's type information besides [`Layout::FIELDS`] and the symbols of
//! its hooks. All of it is here, so that a reduced kernel knows the answers too.
//!
//! [`Layout::FIELDS`]: stallscope_ebpf::Layout::FIELDS

use crate::cgroup::Controller;

/// An enumerator whose value, or whose presence, the agent asks for.
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
    /// The helper for a typed current task; it came with 5.11.
    GET_CURRENT_TASK_BTF "BPF_FUNC_get_current_task_btf";
    /// Bit of an allocation's flags: for user space or files. Named since 6.10.
    GFP_MOVABLE_BIT "___GFP_MOVABLE_BIT";
    /// Bit of an allocation's flags: give up early. Named since 6.10.
    GFP_NORETRY_BIT "___GFP_NORETRY_BIT";
    /// Bit of an allocation's flags: leave the reserves alone. Named since 6.10.
    GFP_NOMEMALLOC_BIT "___GFP_NOMEMALLOC_BIT";
    /// Zones of a NUMA node.
    MAX_NR_ZONES "__MAX_NR_ZONES";
    /// Bit of a page's flags: the first of a compound page.
    PAGE_HEAD "PG_head";
}

impl Enumerator {
    /// The place of a cgroup controller in the kernel's arrays of them.
    #[must_use]
    pub const fn of(controller: Controller) -> Self {
        Self(controller.enum_name())
    }

    /// As the kernel has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0
    }

    /// Every enumerator that is ever asked for.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let controllers = Controller::ALL.into_iter().map(Self::of);
        Self::ALL.iter().copied().chain(controllers)
    }
}

/// The quota of a group: there since CPU quotas are built in.
pub(super) const QUOTA: (&str, &str) = ("cfs_bandwidth", "quota");
/// Every zone of every node, and an end mark.
pub(super) const ZONEREFS: (&str, &str) = ("zonelist", "_zonerefs");
/// Structures with a member that is asked for and is in no layout.
pub(super) const MEMBERS: [(&str, &str); 2] = [QUOTA, ZONEREFS];

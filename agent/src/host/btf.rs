//! The running kernel's type information (BTF), which gives the offsets of the fields that the probes read.
//!
//! The agent has its own reader because the ready-made ones build every one of a kernel's 130,000 types as an object
//! (40 to 85 MB measured). This one walks the blob and remembers the offset at which each type starts. Format:
//! `Documentation/bpf/btf.rst`.

mod prototype;
mod queries;
mod reduce;

pub use prototype::Argument;
pub use queries::Enumerator;

use std::{collections::HashMap, fs, path::Path};

use stallscope_ebpf::{Layout, MAX_NODES};

use crate::host::cgroup::Controller;

/// Path at which the kernel exposes its BTF.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;

/// Failure to read or parse type information.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error(
        "cannot read the kernel's type information {path}: {source}; expected a kernel built with CONFIG_DEBUG_INFO_BTF=y"
    )]
    Read {
        /// The file.
        path: String,
        /// The I/O error.
        source: std::io::Error,
    },
    /// The content is not BTF.
    #[error("{path} is not BTF: {reason}")]
    Malformed {
        /// The file.
        path: String,
        /// The defect found.
        reason: &'static str,
    },
}

/// Kernel symbol that type information describes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Symbol {
    /// A tracepoint.
    Tracepoint(&'static str),
    /// A function.
    Function(&'static str),
}

/// BTF kinds that the reader knows (`include/uapi/linux/btf.h`).
mod kind {
    pub const INT: u32 = 1;
    pub const PTR: u32 = 2;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const FWD: u32 = 7;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC: u32 = 12;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const FLOAT: u32 = 16;
    pub const DECL_TAG: u32 = 17;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
}

/// Cap on the anonymous members searched for one name. A kernel's structures have a few dozen each; a structure that
/// contains itself would have no end.
const MOST_ANONYMOUS: u32 = 1000;

/// A kernel's type information.
pub struct Btf {
    blob: Vec<u8>,
    /// Byte offset of each type in the blob, by type id; id 0 is `void`.
    offsets: Vec<u32>,
    strings: usize,
    strings_end: usize,
}

#[derive(Clone, Copy)]
struct Type {
    at: usize,
    name: u32,
    kind: u32,
    kind_flag: bool,
    vlen: usize,
    /// Size in bytes, or id of the type referred to.
    size_or_id: u32,
}

impl Btf {
    /// Reads BTF from a file such as [`KERNEL_BTF`].
    ///
    /// # Errors
    /// When the file cannot be read or is not BTF.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let blob = fs::read(path).map_err(|source| Error::Read {
            path: name.clone(),
            source,
        })?;
        Self::parse(blob).map_err(|reason| Error::Malformed { path: name, reason })
    }

    /// Indexes a BTF blob in this machine's byte order.
    ///
    /// # Errors
    /// Returns the defect found.
    pub fn parse(blob: Vec<u8>) -> Result<Self, &'static str> {
        let word = |at: usize| {
            blob.get(at..at + 4)
                .and_then(|b| b.try_into().ok())
                .map(u32::from_ne_bytes)
        };
        let half = blob
            .get(..2)
            .and_then(|b| b.try_into().ok())
            .map(u16::from_ne_bytes);
        if half != Some(MAGIC) {
            return Err("it does not begin with the magic number of this machine's byte order");
        }
        let header = |at| {
            word(at)
                .map(|w| w as usize)
                .ok_or("its header is cut short")
        };
        let header_length = header(4)?;
        let (types, types_length) = (header(8)?, header(12)?);
        let (strings, strings_length) = (header(16)?, header(20)?);
        let start = header_length
            .checked_add(types)
            .ok_or("its header is wrong")?;
        let end = start
            .checked_add(types_length)
            .ok_or("its header is wrong")?;
        let strings = header_length
            .checked_add(strings)
            .ok_or("its header is wrong")?;
        let strings_end = strings
            .checked_add(strings_length)
            .ok_or("its header is wrong")?;
        if end > blob.len() || strings_end > blob.len() {
            return Err("its sections lie beyond its end");
        }
        let mut btf = Self {
            blob,
            offsets: vec![0],
            strings,
            strings_end,
        };
        let mut at = start;
        while at < end {
            btf.offsets
                .push(u32::try_from(at).map_err(|_| "it is larger than 4 GiB")?);
            let extra = btf
                .type_at(at)
                .and_then(Type::extra)
                .ok_or("it holds an unknown type")?;
            at += 12 + extra;
        }
        if at > end {
            return Err("its last type is cut short");
        }
        Ok(btf)
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(
            self.blob.get(at..at + 4)?.try_into().ok()?,
        ))
    }

    fn type_at(&self, at: usize) -> Option<Type> {
        let info = self.word(at + 4)?;
        Some(Type {
            at,
            name: self.word(at)?,
            kind: info >> 24 & 0x1f,
            kind_flag: info >> 31 != 0,
            vlen: (info & 0xffff) as usize,
            size_or_id: self.word(at + 8)?,
        })
    }

    fn type_by_id(&self, id: u32) -> Option<Type> {
        match *self.offsets.get(id as usize)? {
            0 => None,
            at => self.type_at(at as usize),
        }
    }

    fn name(&self, offset: u32) -> &[u8] {
        let start = self.strings + offset as usize;
        let rest = self.blob.get(start..self.strings_end).unwrap_or_default();
        rest.split(|&b| b == 0).next().unwrap_or_default()
    }

    /// Returns whether the string at this offset is `name`.
    fn is_named(&self, offset: u32, name: &str) -> bool {
        let start = self.strings + offset as usize;
        let end = start + name.len();
        end < self.strings_end && self.blob[start..end] == *name.as_bytes() && self.blob[end] == 0
    }

    fn find(&self, name: &str, kinds: &[u32]) -> Option<Type> {
        self.type_by_id(self.find_id(name, kinds)?)
    }

    /// Returns the id of the first type of this name and one of these kinds.
    fn find_id(&self, name: &str, kinds: &[u32]) -> Option<u32> {
        (1..self.offsets.len() as u32).find(|&id| {
            self.type_by_id(id)
                .is_some_and(|t| kinds.contains(&t.kind) && self.is_named(t.name, name))
        })
    }

    /// Returns the entries that follow the common part of a type, each of `words` 32-bit words.
    fn entries(&self, t: Type, words: usize) -> Vec<Vec<u32>> {
        let end = t.at + 12 + t.extra().unwrap_or(0);
        (t.at + 12..end)
            .step_by(words * 4)
            .filter_map(|at| (0..words).map(|i| self.word(at + i * 4)).collect())
            .collect()
    }

    /// Follows typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<Type> {
        // A chain longer than this is a loop.
        for _ in 0..32 {
            let t = self.type_by_id(id)?;
            match t.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = t.size_or_id;
                }
                _ => return Some(t),
            }
        }
        None
    }

    /// Returns a member's offset in bits and its type id. Members of anonymous structures and unions count too.
    fn member(&self, structure: Type, name: &str) -> Option<(u32, u32)> {
        self.member_within(structure, name, 0, &mut { MOST_ANONYMOUS })
    }

    fn member_within(
        &self,
        structure: Type,
        name: &str,
        depth: u32,
        budget: &mut u32,
    ) -> Option<(u32, u32)> {
        for i in 0..structure.vlen {
            let at = structure.at + 12 + i * 12;
            let (member_name, id, offset) =
                (self.word(at)?, self.word(at + 4)?, self.word(at + 8)?);
            let bits = if structure.kind_flag {
                offset & 0xff_ffff
            } else {
                offset
            };
            let member_name = self.name(member_name);
            if member_name == name.as_bytes() {
                return Some((bits, id));
            }
            if member_name.is_empty()
                && depth < 8
                && let Some(inner) = self.resolve(id)
                && matches!(inner.kind, kind::STRUCT | kind::UNION)
            {
                *budget = budget.checked_sub(1)?;
                if let Some((inner_bits, id)) = self.member_within(inner, name, depth + 1, budget) {
                    return Some((bits.checked_add(inner_bits)?, id));
                }
            }
        }
        None
    }

    /// Returns the offset in bits of a member such as `sched_info.run_delay` in `struct task_struct`.
    fn bit_offset(&self, structure: &str, path: &str) -> Option<u32> {
        self.walk(structure, path).map(|(bits, _)| bits)
    }

    fn walk(&self, structure: &str, path: &str) -> Option<(u32, u32)> {
        self.walk_in(self.find(structure, &[kind::STRUCT])?, path)
    }

    fn walk_in(&self, mut t: Type, path: &str) -> Option<(u32, u32)> {
        let (mut total, mut last) = (0, 0);
        for (i, name) in path.split('.').enumerate() {
            if i > 0 {
                t = self.resolve(last)?;
            }
            if !matches!(t.kind, kind::STRUCT | kind::UNION) {
                return None;
            }
            let (bits, id) = self.member(t, name)?;
            total = bits.checked_add(total)?;
            last = id;
        }
        Some((total, last))
    }

    /// Returns the number of elements of an array member.
    fn array_length(&self, structure: &str, path: &str) -> Option<u32> {
        let array = self.resolve(self.walk(structure, path)?.1)?;
        if array.kind != kind::ARRAY {
            return None;
        }
        self.word(array.at + 12 + 8)
    }

    /// Returns the value of an enumerator, whichever enum defines it.
    #[must_use]
    pub fn enumerator(&self, enumerator: Enumerator) -> Option<u64> {
        self.enumerator_in(enumerator.name())
            .map(|(_, value)| value)
    }

    /// Returns the id of the first enum that defines this enumerator, and the enumerator's value.
    fn enumerator_in(&self, name: &str) -> Option<(u32, u64)> {
        (1..self.offsets.len() as u32).find_map(|id| {
            let t = self.type_by_id(id)?;
            let size = match t.kind {
                kind::ENUM => 8,
                kind::ENUM64 => 12,
                _ => return None,
            };
            (0..t.vlen).find_map(|i| {
                let at = t.at + 12 + i * size;
                if !self.is_named(self.word(at)?, name) {
                    return None;
                }
                let low = u64::from(self.word(at + 4)?);
                let high = if size == 12 {
                    u64::from(self.word(at + 8)?)
                } else {
                    0
                };
                Some((id, high << 32 | low))
            })
        })
    }

    /// Returns whether the kernel has CPU quotas (`CONFIG_CFS_BANDWIDTH`).
    #[must_use]
    pub fn has_quotas(&self) -> bool {
        self.bit_offset(queries::QUOTA.0, queries::QUOTA.1)
            .is_some()
    }

    /// The blob that [`Btf::parse`] was given.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.blob
    }

    /// Returns the offsets of all fields of [`Layout::FIELDS`] that this kernel has. `controller` is the cgroup
    /// controller whose state identifies a task's cgroup.
    #[must_use]
    pub fn layout(&self, controller: Controller) -> Layout {
        let mut layout = Layout::NONE;
        let controller = self
            .enumerator(Enumerator::of(controller))
            .and_then(|id| u32::try_from(id).ok()?.checked_mul(8));
        let mut found = HashMap::new();
        for (field, structure, paths) in Layout::FIELDS {
            let Some(t) = *found
                .entry(*structure)
                .or_insert_with(|| self.find(structure, &[kind::STRUCT]))
            else {
                continue;
            };
            let Some((bits, _)) = paths.split('|').find_map(|path| self.walk_in(t, path)) else {
                continue;
            };
            let offset = match *field {
                "css_set_subsys" | "cgroup_subsys" => {
                    controller.and_then(|place| place.checked_add(bits / 8))
                }
                "task_in_user_fault" => Some(bits / 32 * 4),
                "page_compound_nr" => t.size_or_id.checked_add(bits / 8),
                "cfs_rq_throttled" => Some(bits),
                _ => Some(bits / 8),
            };
            if let Some(offset) = offset {
                layout.set(field, offset);
            }
        }
        layout
    }

    /// Returns the bit of `in_user_fault` within the four bytes whose offset the layout gives.
    #[must_use]
    pub fn in_user_fault_bit(&self) -> Option<u32> {
        self.bit_offset("task_struct", "in_user_fault")
            .map(|bits| bits % 32)
    }

    /// Returns the right shift that leaves the NUMA node of `struct page`'s flags word: 64 - `NODES_SHIFT`. BTF does
    /// not state it, so it is computed from the length of a zonelist.
    #[must_use]
    pub fn page_node_shift(&self) -> Option<u32> {
        let zonerefs = self.array_length(queries::ZONEREFS.0, queries::ZONEREFS.1)?;
        let zones = self.enumerator(Enumerator::MAX_NR_ZONES)? as u32;
        node_shift(zonerefs, zones)
    }
}

/// Computes the shift of [`Btf::page_node_shift`] from the number of entries of a zonelist, the last of which ends the
/// list, and the number of zones of a node.
fn node_shift(zonerefs: u32, zones: u32) -> Option<u32> {
    let nodes = zonerefs.checked_sub(1)?.checked_div(zones)?;
    // A kernel with one possible node has CONFIG_NUMA=n: its flags word holds no node.
    (2..=MAX_NODES)
        .contains(&nodes)
        .then(|| 64 - nodes.next_power_of_two().trailing_zeros())
}

impl Type {
    /// Returns the number of bytes that follow the common part; none for an unknown kind.
    fn extra(self) -> Option<usize> {
        Some(match self.kind {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * self.vlen,
            kind::ENUM | kind::FUNC_PROTO => 8 * self.vlen,
            kind::PTR
            | kind::FWD
            | kind::TYPEDEF
            | kind::VOLATILE
            | kind::CONST
            | kind::RESTRICT
            | kind::FUNC
            | kind::FLOAT
            | kind::TYPE_TAG => 0,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_with_its_reason() {
        for (blob, expected) in [
            (vec![], "magic"),
            (vec![1; 64], "magic"),
            (MAGIC.to_ne_bytes().to_vec(), "cut short"),
        ] {
            let reason = Btf::parse(blob).err().unwrap_or_default();
            assert!(reason.contains(expected), "{reason}");
        }
        let mut header = MAGIC.to_ne_bytes().to_vec();
        header.extend([1, 0]);
        for word in [24_u32, 0, 1 << 30, 0, 0] {
            header.extend(word.to_ne_bytes());
        }
        assert!(
            Btf::parse(header)
                .err()
                .unwrap_or_default()
                .contains("beyond its end")
        );
    }

    /// Builds type information of one structure, `task_struct`. Each member is (named, type id, offset in bits); a
    /// named member is called `flags`.
    fn structure(members: &[(bool, u32, u32)]) -> Btf {
        let strings = b"\0task_struct\0flags\0";
        let members = members.iter().flat_map(|&(named, id, bits)| {
            let name = if named { 13 } else { 0 };
            [name, id, bits]
        });
        let members: Vec<u32> = members.collect();
        let info = (kind::STRUCT << 24) | (members.len() as u32 / 3);
        let types = [&[1, info, 64], members.as_slice()].concat();
        let length = types.len() as u32 * 4;
        let mut blob = MAGIC.to_ne_bytes().to_vec();
        blob.extend([1, 0]);
        for word in [24, 0, length, length, strings.len() as u32] {
            blob.extend(word.to_ne_bytes());
        }
        blob.extend(types.iter().flat_map(|word| word.to_ne_bytes()));
        blob.extend(strings);
        Btf::parse(blob).expect("BTF")
    }

    #[test]
    fn a_structure_that_holds_itself_many_times_is_looked_through_in_no_time() {
        let found = structure(&[(true, 0, 256)]);
        assert_eq!(found.bit_offset("task_struct", "flags"), Some(256));
        let within_itself = structure(&[(false, 1, 0); 100]);
        assert_eq!(within_itself.bit_offset("task_struct", "flags"), None);
    }

    #[test]
    fn a_type_that_goes_on_beyond_the_types_is_refused() {
        let mut blob = structure(&[(true, 0, 256)]).as_bytes().to_vec();
        // Claims two members where there is one.
        blob[28] += 1;
        assert_eq!(Btf::parse(blob).err(), Some("its last type is cut short"));
    }

    #[test]
    fn a_place_beyond_all_memory_is_none_and_the_next_of_that_name_is_taken() {
        let beyond = structure(&[(false, 1, u32::MAX), (true, 0, 8)]);
        assert_eq!(beyond.bit_offset("task_struct", "flags"), Some(8));
    }

    #[test]
    fn the_place_of_a_pages_node_follows_from_the_length_of_a_zonelist() {
        // The configuration decides which of DMA, DMA32, NORMAL, MOVABLE and DEVICE there are.
        for zones in 2..=6 {
            for bits in 1..=10 {
                let zonerefs = (1 << bits) * zones + 1;
                assert_eq!(node_shift(zonerefs, zones), Some(64 - bits));
            }
            assert_eq!(node_shift(zones + 1, zones), None, "one node");
            // No kernel can be built for so many nodes, so the array is not a zonelist.
            assert_eq!(node_shift(MAX_NODES * 2 * zones + 1, zones), None);
        }
        for (zonerefs, zones) in [(0, 4), (1, 4), (u32::MAX, 1), (u32::MAX, 0)] {
            assert_eq!(node_shift(zonerefs, zones), None, "{zonerefs} of {zones}");
        }
    }

    #[test]
    fn this_kernel_has_what_the_probes_need() {
        let Ok(btf) = Btf::read(Path::new(KERNEL_BTF)) else {
            println!("skipped: {KERNEL_BTF} is not there");
            return;
        };
        let layout = btf.layout(Controller::Cpu);
        for field in [
            "task_run_delay",
            "rq_clock",
            "css_id",
            "kernfs_id",
            "task_pcount",
        ] {
            assert!(layout.get(field).is_some(), "{field}");
        }
        assert_eq!(btf.bit_offset("task_group", "css"), Some(0));
        assert!(
            btf.bit_offset("task_struct", "sched_info.no_such_field")
                .is_none()
        );
        assert!(btf.bit_offset("no_such_struct", "x").is_none());
        assert!(btf.tracepoint("sched_switch").is_some());
        assert!(btf.tracepoint("no_such_tracepoint").is_none());
    }
}

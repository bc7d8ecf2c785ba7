//! Maps of a BPF object, as its section `maps` defines them, and their kernel memory.

use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

/// Map types: `BPF_MAP_TYPE_HASH` and others (`include/uapi/linux/bpf.h`).
pub const HASH: u32 = 1;
pub const ARRAY: u32 = 2;
pub const RING: u32 = 27;
/// `BPF_F_MMAPABLE`.
pub const MMAPABLE: u32 = 1 << 10;

/// A map definition.
#[derive(Clone, Debug)]
pub struct Map {
    pub name: String,
    pub kind: u32,
    /// Sizes of a key and of a value, in bytes.
    pub key: u32,
    pub value: u32,
    pub entries: u32,
    pub flags: u32,
}

/// Returns the maps that an object defines: seven words each, at the address of the symbol with its name.
pub fn of(elf: &[u8]) -> Vec<Map> {
    let file = object::File::parse(elf).expect("an ELF object");
    let Some(section) = file.section_by_name("maps") else {
        return Vec::new();
    };
    let data = section.data().expect("data");
    let maps: Vec<_> = file
        .symbols()
        .filter(|symbol| symbol.section_index() == Some(section.index()) && symbol.size() != 0)
        .map(|symbol| {
            let start = symbol.address() as usize;
            let word = |place: usize| {
                let at = start + place * 4;
                u32::from_le_bytes(data[at..at + 4].try_into().expect("four bytes"))
            };
            Map {
                name: symbol.name().expect("a name").to_owned(),
                kind: word(0),
                key: word(1),
                value: word(2),
                entries: word(3),
                flags: word(4),
            }
        })
        .collect();
    assert_eq!(maps.len() * 28, data.len(), "every map has a symbol");
    maps
}

impl Map {
    /// Returns the upper bound of its kernel memory in bytes, with pages of `page` bytes on `cpus` CPUs (`kernel/bpf`:
    /// `array_map_alloc`, `htab_map_alloc`, `bpf_ringbuf_alloc`).
    pub fn bytes(&self, page: u64, cpus: u64) -> u64 {
        /// Upper bounds of `struct bpf_array`, `struct bpf_htab` and `struct htab_elem`.
        const HEAD: u64 = 1024;
        const ELEMENT: u64 = 48;
        const BUCKET: u64 = 16;
        let entries = u64::from(self.entries);
        let value = u64::from(self.value).next_multiple_of(8);
        let key = u64::from(self.key).next_multiple_of(8);
        match self.kind {
            // A memory-mapped array begins with a page of its own.
            ARRAY if self.flags & MMAPABLE != 0 => {
                HEAD.next_multiple_of(page) + (entries * value).next_multiple_of(page)
            }
            ARRAY => (HEAD + entries * value).next_multiple_of(page),
            HASH => {
                let buckets = entries.next_power_of_two() * BUCKET;
                let elements = (entries + cpus) * (ELEMENT + key + value);
                HEAD + buckets.next_multiple_of(page) + elements.next_multiple_of(page)
            }
            // The positions of both sides take three pages.
            RING => entries + 3 * page,
            kind => panic!("{}: maps of type {kind} are not known", self.name),
        }
    }
}

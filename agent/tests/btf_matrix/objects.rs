//! Reads of BPF objects: the arguments of their hooks and the kernel fields that they use. They come from the objects'
//! instructions (`Documentation/bpf/standardization/instruction-set.rst`), not from the sources.

use std::collections::{BTreeMap, BTreeSet};

use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SymbolKind};
use stallscope_ebpf::kernel::Layout;

/// Reads of a program, including those of the functions it calls.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reads {
    /// Offsets in bytes into the context with which the kernel starts it.
    pub context: BTreeSet<u32>,
    /// Names of fields in [`Layout`].
    pub fields: BTreeSet<&'static str>,
    calls: BTreeSet<Place>,
}

/// Number of a section, and an offset in it.
type Place = (usize, u64);

/// Known content of a register or stack slot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Value {
    Unknown,
    /// Pointer to the context, with its offset from the beginning.
    Context(i64),
    /// Pointer to the global `LAYOUT`, with its offset from the beginning.
    Layout(i64),
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct State {
    registers: [Value; 11],
    stack: BTreeMap<i16, Value>,
}

impl State {
    /// Returns the state at a program's start, in which the first argument's register points to the context.
    fn start() -> Self {
        let mut registers = [Value::Unknown; 11];
        registers[1] = Value::Context(0);
        Self {
            registers,
            stack: BTreeMap::new(),
        }
    }

    /// Keeps the knowledge that both states share. Returns whether this state changed.
    fn join(&mut self, other: &Self) -> bool {
        let before = self.clone();
        for (mine, theirs) in self.registers.iter_mut().zip(other.registers) {
            if *mine != theirs {
                *mine = Value::Unknown;
            }
        }
        self.stack
            .retain(|slot, value| other.stack.get(slot) == Some(value));
        *self != before
    }
}

/// Returns an object's programs and functions, by name.
pub fn read(elf: &[u8]) -> BTreeMap<String, Reads> {
    let file = object::File::parse(elf).expect("an ELF object");
    let mut functions = BTreeMap::new();
    for symbol in file.symbols().filter(|s| s.kind() == SymbolKind::Text) {
        let section = symbol.section_index().expect("a section");
        let place = (section.0, symbol.address());
        let name = symbol.name().expect("a name").to_owned();
        functions.insert(place, (name, Function::of(&file, &symbol).reads()));
    }
    let reads = |place: &Place| &functions[place].1;
    let programs = functions.iter().map(|(place, (name, own))| {
        let (mut all, mut seen) = (own.clone(), BTreeSet::from([*place]));
        let mut calls: Vec<Place> = own.calls.iter().copied().collect();
        while let Some(call) = calls.pop() {
            if seen.insert(call) {
                all.fields.extend(&reads(&call).fields);
                calls.extend(&reads(&call).calls);
            }
        }
        (name.clone(), all)
    });
    programs.collect()
}

struct Function<'a> {
    section: usize,
    start: u64,
    code: &'a [u8],
    /// Relocations by offset in the section.
    relocations: BTreeMap<u64, Target>,
}

#[derive(Debug)]
enum Target {
    Layout,
    Code(Place),
    Other,
}

impl<'a> Function<'a> {
    fn of(file: &object::File<'a>, symbol: &object::Symbol<'a, '_>) -> Self {
        let index = symbol.section_index().expect("a section");
        let section = file.section_by_index(index).expect("a section");
        let relocations = section.relocations().map(|(offset, relocation)| {
            let RelocationTarget::Symbol(index) = relocation.target() else {
                panic!("a relocation without a symbol");
            };
            let symbol = file.symbol_by_index(index).expect("a symbol");
            let target = match (symbol.name(), symbol.kind()) {
                (Ok("LAYOUT"), _) => {
                    assert_eq!(symbol.size(), Layout::FIELDS.len() as u64 * 4);
                    Target::Layout
                }
                (_, SymbolKind::Text | SymbolKind::Section) => Target::Code((
                    symbol.section_index().expect("a section").0,
                    symbol.address(),
                )),
                _ => Target::Other,
            };
            (offset, target)
        });
        let start = symbol.address() as usize;
        let data = section.data().expect("code");
        Self {
            section: index.0,
            start: symbol.address(),
            code: &data[start..start + symbol.size() as usize],
            relocations: relocations.collect(),
        }
    }

    /// Follows every path, and joins the known states where paths meet.
    fn reads(&self) -> Reads {
        let mut reads = Reads::default();
        let mut states = BTreeMap::from([(0, State::start())]);
        let mut open = vec![0];
        while let Some(at) = open.pop() {
            let mut state = states[&at].clone();
            for next in self.step(at, &mut state, &mut reads) {
                let changed = match states.get_mut(&next) {
                    Some(known) => known.join(&state),
                    None => states.insert(next, state.clone()).is_none(),
                };
                if changed {
                    open.push(next);
                }
            }
        }
        reads
    }

    /// Executes one instruction. Returns the numbers of the possible next ones.
    fn step(&self, at: usize, state: &mut State, reads: &mut Reads) -> Vec<usize> {
        const FRAME: usize = 10;
        let code = &self.code[at * 8..at * 8 + 8];
        let (opcode, to, from) = (
            code[0],
            usize::from(code[1] & 0xf),
            usize::from(code[1] >> 4),
        );
        let offset = i16::from_le_bytes([code[2], code[3]]);
        let immediate = i32::from_le_bytes([code[4], code[5], code[6], code[7]]);
        let target = self.relocations.get(&(self.start + at as u64 * 8));
        let jump = at.wrapping_add_signed(1 + isize::from(offset));
        match opcode {
            // A 64-bit constant takes two instruction slots.
            0x18 => {
                state.registers[to] = match target {
                    Some(Target::Layout) => Value::Layout(immediate.into()),
                    _ => Value::Unknown,
                };
                return vec![at + 2];
            }
            0x95 => return Vec::new(),
            0x05 => return vec![jump],
            0x85 => {
                // The target is relative to the relocation's symbol, or else to the next instruction.
                let behind = 8 * (i64::from(immediate) + 1);
                let place = match (target, from) {
                    (Some(Target::Code((section, base))), _) => Some((*section, *base)),
                    (None, 1) => Some((self.section, self.start + at as u64 * 8)),
                    _ => None,
                };
                let call = |(section, base): Place| (section, base.wrapping_add_signed(behind));
                reads.calls.extend(place.map(call));
                state.registers[..6].fill(Value::Unknown);
            }
            _ => match opcode & 7 {
                // Loads.
                1 => {
                    let behind = i64::from(offset);
                    state.registers[to] = match state.registers[from] {
                        Value::Context(base) => {
                            let offset = u32::try_from(base + behind).expect("in the context");
                            reads.context.insert(offset);
                            Value::Unknown
                        }
                        Value::Layout(base) => {
                            let offset = usize::try_from(base + behind).expect("in the layout");
                            reads.fields.insert(Layout::FIELDS[offset / 4].0);
                            Value::Unknown
                        }
                        Value::Unknown if from == FRAME => {
                            state.stack.get(&offset).copied().unwrap_or(Value::Unknown)
                        }
                        Value::Unknown => Value::Unknown,
                    };
                }
                // Stores.
                3 if to == FRAME => {
                    state.stack.insert(offset, state.registers[from]);
                }
                2 | 3 => {}
                // Arithmetic.
                4 | 7 => {
                    state.registers[to] = match (opcode, state.registers[to]) {
                        (0xbf, _) => state.registers[from],
                        (0x07, Value::Context(base)) => Value::Context(base + i64::from(immediate)),
                        (0x07, Value::Layout(base)) => Value::Layout(base + i64::from(immediate)),
                        _ => Value::Unknown,
                    };
                }
                // Conditional jumps.
                _ => return vec![at + 1, jump],
            },
        }
        vec![at + 1]
    }
}

/// Returns the bytes of CO-RE relocations; none if the object does not say (`Documentation/bpf/btf.rst`, ".BTF.ext
/// section").
pub fn core_relocations(elf: &[u8]) -> Option<u32> {
    let file = object::File::parse(elf).expect("an ELF object");
    let header = file.section_by_name(".BTF.ext")?.data().expect("data");
    let word = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
    // A shorter header has no such relocations.
    if word(4)? < 32 { Some(0) } else { word(28) }
}

/// Returns the symbols that the loader would have to find in the kernel: functions (`kfunc`), variables, options.
pub fn unresolved(elf: &[u8]) -> Vec<String> {
    let file = object::File::parse(elf).expect("an ELF object");
    file.symbols()
        .filter(|symbol| symbol.is_undefined() && symbol.kind() != SymbolKind::Unknown)
        .chain(file.symbols().filter(|symbol| {
            symbol.is_undefined() && symbol.name().is_ok_and(|name| !name.is_empty())
        }))
        .map(|symbol| symbol.name().unwrap_or("?").to_owned())
        .collect()
}

/// Returns the names of an object's sections.
pub fn sections(elf: &[u8]) -> BTreeSet<String> {
    let file = object::File::parse(elf).expect("an ELF object");
    file.sections()
        .map(|section| section.name().expect("a name").to_owned())
        .collect()
}

//! Reduction of a kernel's type information to what the agent looks up: megabytes become kilobytes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use stallscope_ebpf::Layout;

use super::{Btf, Enumerator, MAGIC, Symbol, Type, kind, prototype::trace_type, queries};

impl Btf {
    /// Returns reduced type information that gives the agent and these symbols the same answers as this one. It leaves
    /// out the types to which pointers in structures point.
    #[must_use]
    pub fn reduced(&self, symbols: impl Iterator<Item = Symbol>) -> Vec<u8> {
        let mut reduction = Reduction::of(self);
        let fields = Layout::FIELDS.iter().map(|(_, structure, _)| *structure);
        let members = queries::MEMBERS.map(|(structure, _)| structure);
        for structure in fields.chain(members).collect::<BTreeSet<_>>() {
            reduction.add(structure, &[kind::STRUCT]);
        }
        for enumerator in Enumerator::all() {
            let defining = self.enumerator_in(enumerator.name());
            reduction.kept.extend(defining.map(|(id, _)| id));
        }
        for (kind, name) in symbols.map(type_of).collect::<BTreeSet<_>>() {
            reduction.add(&name, &[kind]);
        }
        reduction.write()
    }
}

/// Returns the kind and name of the type that describes a symbol.
fn type_of(symbol: Symbol) -> (u32, String) {
    match symbol {
        Symbol::Tracepoint(name) => (kind::TYPEDEF, trace_type(name)),
        Symbol::Function(name) => (kind::FUNC, name.to_owned()),
    }
}

/// Reason for which a type is kept. It decides which other types are kept with it.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
enum Role {
    /// A value, kept with all the types that lie within it.
    Value,
    /// A function, or the typedef of a tracepoint, kept with its arguments.
    Prototype,
    /// An argument. If it points to a structure, the structure's name is kept.
    Argument,
    /// The type to which an argument points.
    Target,
}

/// Types to keep, by id. A reference to any other type becomes one to `void`.
struct Reduction<'a> {
    btf: &'a Btf,
    kept: BTreeSet<u32>,
    /// Structures of which only the name is kept.
    named: BTreeSet<u32>,
    /// Types already followed, so that a type that refers back to itself is followed once.
    followed: BTreeSet<(u32, Role)>,
}

impl<'a> Reduction<'a> {
    fn of(btf: &'a Btf) -> Self {
        Self {
            btf,
            kept: BTreeSet::new(),
            named: BTreeSet::new(),
            followed: BTreeSet::new(),
        }
    }

    /// Keeps the first type of this name and one of these kinds, with the types that it needs.
    fn add(&mut self, name: &str, kinds: &[u32]) {
        let Some(id) = self.btf.find_id(name, kinds) else {
            return;
        };
        let role = match self.btf.type_by_id(id).map(|t| t.kind) {
            Some(kind::STRUCT) => Role::Value,
            _ => Role::Prototype,
        };
        let mut ahead = vec![(id, role)];
        while let Some(next) = ahead.pop() {
            if self.followed.insert(next)
                && let Some(t) = self.btf.type_by_id(next.0)
            {
                self.follow(next.0, t, next.1, &mut ahead);
            }
        }
    }

    /// Keeps one type, and adds the types that it needs to `ahead`.
    fn follow(&mut self, id: u32, t: Type, role: Role, ahead: &mut Vec<(u32, Role)>) {
        let btf = self.btf;
        let referred = t.size_or_id;
        match (role, t.kind) {
            (Role::Prototype, kind::FUNC_PROTO) => {
                ahead.push((referred, Role::Argument));
                let arguments = btf.entries(t, 2);
                ahead.extend(arguments.iter().map(|entry| (entry[1], Role::Argument)));
            }
            (Role::Argument, kind::PTR) => ahead.push((referred, Role::Target)),
            (Role::Target, kind::STRUCT | kind::UNION) => {
                if !btf.name(t.name).is_empty() {
                    self.named.insert(id);
                }
                return;
            }
            (Role::Target, kind::FWD) => {}
            (Role::Prototype, _) => ahead.push((referred, role)),
            (_, kind) if is_modifier(kind) => ahead.push((referred, role)),
            (Role::Target, _) => return,
            (Role::Value | Role::Argument, kind::STRUCT | kind::UNION) => {
                let members = btf.entries(t, 3);
                ahead.extend(members.iter().map(|member| (member[1], Role::Value)));
            }
            (Role::Value | Role::Argument, kind::ARRAY) => {
                let arrays = btf.entries(t, 3);
                let ids = arrays.iter().flat_map(|array| &array[..2]);
                ahead.extend(ids.map(|&id| (id, Role::Value)));
            }
            (Role::Value | Role::Argument, _) => {}
        }
        self.kept.insert(id);
    }

    fn write(&self) -> Vec<u8> {
        let ids: BTreeMap<u32, u32> = self.kept.union(&self.named).copied().zip(1..).collect();
        let mut writer = Writer::new(&ids);
        for id in ids.keys() {
            if let Some(t) = self.btf.type_by_id(*id) {
                writer.put(self.btf, t, !self.kept.contains(id));
            }
        }
        writer.finish()
    }
}

/// Returns whether a type only names or qualifies another.
fn is_modifier(kind: u32) -> bool {
    matches!(
        kind,
        kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG
    )
}

struct Writer<'a> {
    /// New ids by old ones.
    ids: &'a BTreeMap<u32, u32>,
    types: Vec<u8>,
    strings: Vec<u8>,
    known: HashMap<Vec<u8>, u32>,
}

impl<'a> Writer<'a> {
    fn new(ids: &'a BTreeMap<u32, u32>) -> Self {
        Self {
            ids,
            types: Vec::new(),
            strings: vec![0],
            known: HashMap::from([(Vec::new(), 0)]),
        }
    }

    fn words(&mut self, words: &[u32]) {
        self.types
            .extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    }

    fn string(&mut self, text: &[u8]) -> u32 {
        if let Some(&at) = self.known.get(text) {
            return at;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(text);
        self.strings.push(0);
        self.known.insert(text.to_vec(), at);
        at
    }

    fn id(&self, old: u32) -> u32 {
        self.ids.get(&old).copied().unwrap_or(0)
    }

    fn put(&mut self, btf: &Btf, t: Type, name_only: bool) {
        let name = self.string(btf.name(t.name));
        if name_only {
            let of_union = u32::from(t.kind == kind::UNION) << 31;
            return self.words(&[name, of_union | kind::FWD << 24, 0]);
        }
        let flag = u32::from(t.kind_flag) << 31;
        let info = |vlen: usize| flag | t.kind << 24 | vlen as u32;
        match t.kind {
            kind::STRUCT | kind::UNION => {
                self.words(&[name, info(t.vlen), t.size_or_id]);
                for member in btf.entries(t, 3) {
                    let name = self.string(btf.name(member[0]));
                    let id = self.id(member[1]);
                    self.words(&[name, id, member[2]]);
                }
            }
            kind::ENUM | kind::ENUM64 => {
                let asked = asked_of(btf, t);
                self.words(&[name, info(asked.len()), t.size_or_id]);
                for mut enumerator in asked {
                    enumerator[0] = self.string(btf.name(enumerator[0]));
                    self.words(&enumerator);
                }
            }
            kind::FUNC_PROTO => {
                self.words(&[name, info(t.vlen), self.id(t.size_or_id)]);
                for argument in btf.entries(t, 2) {
                    let name = self.string(btf.name(argument[0]));
                    self.words(&[name, self.id(argument[1])]);
                }
            }
            kind::ARRAY => {
                self.words(&[name, info(t.vlen), t.size_or_id]);
                for array in btf.entries(t, 3) {
                    self.words(&[self.id(array[0]), self.id(array[1]), array[2]]);
                }
            }
            // An integer's one extra word is its encoding.
            kind::INT => {
                self.words(&[name, info(t.vlen), t.size_or_id]);
                for encoding in btf.entries(t, 1) {
                    self.words(&encoding);
                }
            }
            kind::FLOAT | kind::FWD => self.words(&[name, info(t.vlen), t.size_or_id]),
            _ => self.words(&[name, info(t.vlen), self.id(t.size_or_id)]),
        }
    }

    fn finish(mut self) -> Vec<u8> {
        let mut blob = MAGIC.to_ne_bytes().to_vec();
        // Version 1, no flags.
        blob.extend([1, 0]);
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        for word in [24, 0, types, types, strings] {
            blob.extend(u32::to_ne_bytes(word));
        }
        blob.append(&mut self.types);
        blob.append(&mut self.strings);
        blob
    }
}

/// Returns the enumerators of an enum that the agent looks up.
fn asked_of(btf: &Btf, t: Type) -> Vec<Vec<u32>> {
    let words = if t.kind == kind::ENUM { 2 } else { 3 };
    let mut enumerators = btf.entries(t, words);
    enumerators.retain(|enumerator| {
        let name = btf.name(enumerator[0]);
        Enumerator::all().any(|asked| asked.name().as_bytes() == name)
    });
    enumerators
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds type information of types without entries, each (name, kind, type referred to). A name is an offset into
    /// the strings: 1 is `btf_trace_sched_switch`, 24 `handle_mm_fault`.
    fn chain(types: &[(u32, u32, u32)]) -> Btf {
        let mut writer = Writer::new(const { &BTreeMap::new() });
        for &(name, kind, referred) in types {
            writer.words(&[name, kind << 24, referred]);
        }
        writer.string(b"btf_trace_sched_switch");
        writer.string(b"handle_mm_fault");
        Btf::parse(writer.finish()).expect("BTF")
    }

    #[test]
    fn types_that_lead_back_to_themselves_are_followed_once() {
        let hooks = [
            Symbol::Tracepoint("sched_switch"),
            Symbol::Function("handle_mm_fault"),
        ];
        for types in [
            // A function, then a tracepoint, that refers to itself.
            vec![(24, kind::FUNC, 1)],
            vec![(1, kind::TYPEDEF, 1)],
            // A result, then the type to which a result points, whose modifiers refer to each other or to themselves.
            vec![
                (24, kind::FUNC, 2),
                (0, kind::FUNC_PROTO, 3),
                (0, kind::CONST, 4),
                (0, kind::TYPEDEF, 3),
            ],
            vec![
                (24, kind::FUNC, 2),
                (0, kind::FUNC_PROTO, 3),
                (0, kind::PTR, 4),
                (0, kind::CONST, 4),
            ],
        ] {
            let reduced = chain(&types).reduced(hooks.into_iter());
            let reduced = Btf::parse(reduced).expect("BTF");
            assert_eq!(reduced.offsets.len(), types.len() + 1);
        }
    }
}

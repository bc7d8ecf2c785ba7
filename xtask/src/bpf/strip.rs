//! Strips debug information from BPF objects: it is most of their size, and the kernel and the loader read BTF instead.

use anyhow::{Context as _, Result};
use object::build::elf::{Builder, SectionData};
use object::elf;

/// Returns the object without DWARF. Programs with their relocations, maps, symbols and BTF stay as they are.
pub fn without_dwarf(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(bytes).context("it is no ELF object")?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        // Only a linker reads relocations of BTF, and these objects are linked.
        let relocated = name.strip_prefix(b".rel").unwrap_or_default();
        section.delete = [name, relocated]
            .iter()
            .any(|name| name.starts_with(b".debug_"))
            || relocated.starts_with(b".BTF");
    }
    let apart = |data: &SectionData| matches!(data, SectionData::SectionString);
    // LLVM keeps the names of sections in the string table of symbols; this writer needs a table of their own.
    if !builder.sections.iter().any(|section| apart(&section.data)) {
        let names = builder.sections.add();
        names.name = b".shstrtab".as_slice().into();
        names.sh_type = elf::SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    builder
        .write(&mut stripped)
        .context("it cannot be written without its debug information")?;
    Ok(stripped)
}

#[cfg(test)]
pub mod tests {
    use super::without_dwarf;
    use object::write::{Object, Relocation, StandardSection, Symbol, SymbolSection};
    use object::{
        Architecture, BinaryFormat, Endianness, Object as _, ObjectSection as _, ObjectSymbol as _,
        RelocationFlags, RelocationTarget, SectionKind, SymbolFlags, SymbolKind, SymbolScope, elf,
    };

    /// Returns an object with a program that calls a function, and debug and type information that refer to them.
    pub fn object() -> Vec<u8> {
        let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
        let section = |object: &mut Object<'_>, name: &str, kind, data: &[u8]| {
            let id = object.add_section(Vec::new(), name.into(), kind);
            object.append_section_data(id, data, 8);
            id
        };
        let text = object.section_id(StandardSection::Text);
        object.append_section_data(text, &[1; 16], 8);
        let debug = section(&mut object, ".debug_info", SectionKind::Debug, &[2; 64]);
        let program = section(&mut object, "kprobe", SectionKind::Text, &[3; 24]);
        let types = section(&mut object, ".BTF", SectionKind::Other, &[4; 8]);
        let lines = section(&mut object, ".BTF.ext", SectionKind::Other, &[5; 8]);
        let debug_symbol = object.section_symbol(debug);
        let mut symbol = |name: &str, section, scope| {
            object.add_symbol(Symbol {
                name: name.into(),
                value: 0,
                size: 8,
                kind: SymbolKind::Text,
                scope,
                weak: false,
                section: SymbolSection::Section(section),
                flags: SymbolFlags::None,
            })
        };
        let called = symbol("called", text, SymbolScope::Compilation);
        symbol("begun", program, SymbolScope::Dynamic);
        for (section, symbol) in [
            (program, called),
            (debug, debug_symbol),
            (debug, called),
            (types, called),
            (lines, called),
        ] {
            let relocation = Relocation {
                offset: 0,
                symbol,
                addend: 0,
                flags: RelocationFlags::Elf {
                    r_type: elf::R_BPF_64_64,
                },
            };
            object.add_relocation(section, relocation).unwrap();
        }
        object.write().unwrap()
    }

    #[test]
    fn what_loaders_read_stays_and_refers_to_the_same() {
        let (whole, stripped) = (object(), without_dwarf(&object()).unwrap());
        let whole = object::File::parse(whole.as_slice()).unwrap();
        let stripped = object::File::parse(stripped.as_slice()).unwrap();
        assert!(whole.section_by_name(".debug_info").is_some());
        for section in stripped.sections() {
            let name = section.name().unwrap();
            assert!(!name.contains("debug"), "{name}");
        }
        for name in [".text", "kprobe", ".BTF", ".BTF.ext"] {
            let data = |file: &object::File<'_>| {
                let section = file.section_by_name(name).unwrap();
                section.data().unwrap().to_vec()
            };
            assert_eq!(data(&stripped), data(&whole), "{name}");
        }
        let types = stripped.section_by_name(".BTF").unwrap();
        assert_eq!(types.relocations().count(), 0);
        let program = stripped.section_by_name("kprobe").unwrap();
        let relocations: Vec<_> = program.relocations().collect();
        let [(0, relocation)] = relocations.as_slice() else {
            panic!("{relocations:?}");
        };
        let RelocationTarget::Symbol(called) = relocation.target() else {
            panic!("{relocation:?}");
        };
        let called = stripped.symbol_by_index(called).unwrap();
        assert_eq!(called.name(), Ok("called"));
        assert_eq!(
            called.section_index(),
            stripped.section_by_name(".text").map(|text| text.index())
        );
    }

    #[test]
    fn stripped_twice_is_stripped_once_and_what_is_no_object_is_refused() {
        let once = without_dwarf(&object()).unwrap();
        assert_eq!(without_dwarf(&once).unwrap(), once);
        assert!(without_dwarf(b"#!/bin/sh").is_err());
        assert!(without_dwarf(b"\x7fELF1").is_err());
    }
}

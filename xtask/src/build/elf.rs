//! Checks of built programs: their architecture, and that they are static.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::{Architecture, Endianness, Object as _, elf};

use crate::bpf::Arch;

/// Checks that a file is a static program of that architecture, which needs no dynamic loader.
pub fn check_static(path: &Path, arch: Arch) -> Result<()> {
    let bytes =
        fs::read(path).with_context(|| format!("could not read the program {}", path.display()))?;
    check_static_bytes(&bytes, arch).with_context(|| format!("{} cannot be used", path.display()))
}

/// Returns whether these bytes are a program of that architecture. A script has none.
pub fn is_for(bytes: &[u8], arch: Arch) -> bool {
    ElfFile64::<Endianness>::parse(bytes)
        .is_ok_and(|file| file.architecture() == architecture(arch))
}

fn architecture(arch: Arch) -> Architecture {
    match arch {
        Arch::X86_64 => Architecture::X86_64,
        Arch::Aarch64 => Architecture::Aarch64,
    }
}

/// Checks the bytes of a program as [`check_static`] does.
pub fn check_static_bytes(bytes: &[u8], arch: Arch) -> Result<()> {
    let file: ElfFile64<Endianness> =
        ElfFile64::parse(bytes).context("it is no 64-bit ELF file")?;
    if file.architecture() != architecture(arch) {
        bail!(
            "it is for {:?}, but should be for {}",
            file.architecture(),
            arch.name()
        );
    }
    let endian = file.endian();
    let headers = file.elf_program_headers();
    if !headers.iter().any(|h| h.p_type(endian) == elf::PT_LOAD) {
        bail!("it has nothing to load, so it is no program");
    }
    for header in headers {
        if let Some(loader) = header.interpreter(endian, bytes)? {
            bail!(
                "it asks for the dynamic loader {}, but should be linked statically",
                String::from_utf8_lossy(loader)
            );
        }
        // A static position-independent program has a dynamic section too, without libraries in it.
        let entries = header.dynamic(endian, bytes)?.unwrap_or_default();
        if entries
            .iter()
            .any(|entry| entry.d_tag.get(endian) == elf::DT_NEEDED)
        {
            bail!("it names shared libraries, but should be linked statically");
        }
    }
    Ok(())
}

/// Minimal ELF programs for tests: 120 bytes, an ELF header and one program header.
#[cfg(test)]
pub mod tiny {
    use object::elf;

    use crate::bpf::Arch;

    /// Returns a static program with a loadable segment. Its last bytes can be changed to tell programs apart.
    pub fn program(arch: Arch) -> Vec<u8> {
        with_header(arch, elf::PT_LOAD)
    }

    /// Returns a program whose only header has that type and covers the bytes after the headers.
    pub fn with_header(arch: Arch, kind: u32) -> Vec<u8> {
        let machine = match arch {
            Arch::X86_64 => elf::EM_X86_64,
            Arch::Aarch64 => elf::EM_AARCH64,
        };
        let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        for half in [elf::ET_EXEC, machine] {
            bytes.extend(half.to_le_bytes());
        }
        bytes.extend(1_u32.to_le_bytes());
        for entry_and_tables in [0_u64, 64, 0] {
            bytes.extend(entry_and_tables.to_le_bytes());
        }
        bytes.extend(0_u32.to_le_bytes());
        for sizes_and_counts in [64_u16, 56, 1, 64, 0, 0] {
            bytes.extend(sizes_and_counts.to_le_bytes());
        }
        bytes.extend(kind.to_le_bytes());
        bytes.extend(elf::PF_R.to_le_bytes());
        for offset_addresses_sizes_and_alignment in [120_u64, 0, 0, 16, 16, 8] {
            bytes.extend(offset_addresses_sizes_and_alignment.to_le_bytes());
        }
        bytes.extend([0; 16]);
        bytes
    }

    /// Returns a program with a second header, of the dynamic section that names libraries.
    pub fn needing_library(arch: Arch) -> Vec<u8> {
        let mut bytes = program(arch);
        let mut dynamic = with_header(arch, elf::PT_DYNAMIC)[64..120].to_vec();
        dynamic[8..16].copy_from_slice(&176_u64.to_le_bytes());
        bytes.splice(120..136, dynamic);
        bytes[56..58].copy_from_slice(&2_u16.to_le_bytes());
        bytes.extend(elf::DT_NEEDED.to_le_bytes());
        bytes.extend(0_u64.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{check_static_bytes as check, tiny};
    use crate::bpf::Arch;
    use object::elf;

    fn refused(bytes: &[u8], arch: Arch) -> String {
        format!("{:#}", check(bytes, arch).unwrap_err())
    }

    #[test]
    fn a_static_program_of_the_architecture_is_taken() {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            check(&tiny::program(arch), arch).unwrap();
        }
        let error = refused(&tiny::program(Arch::X86_64), Arch::Aarch64);
        assert!(error.contains("should be for aarch64"), "{error}");
    }

    #[test]
    fn what_needs_a_loader_or_a_library_is_refused() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let error = refused(&own, Arch::host().unwrap());
        assert!(error.contains("dynamic loader /"), "{error}");
        let needing = tiny::needing_library(Arch::X86_64);
        let error = refused(&needing, Arch::X86_64);
        assert!(error.contains("names shared libraries"), "{error}");
    }

    #[test]
    fn what_is_no_program_is_refused() {
        assert!(refused(b"#!/bin/sh\n", Arch::X86_64).contains("ELF"));
        let cut = &tiny::program(Arch::X86_64)[..80];
        assert!(!refused(cut, Arch::X86_64).is_empty());
        let none = tiny::with_header(Arch::X86_64, elf::PT_NOTE);
        assert!(refused(&none, Arch::X86_64).contains("nothing to load"));
    }
}

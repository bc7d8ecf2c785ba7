//! Identification of the CPU model by its register or its name, never by `uname`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::root::Root;

/// Model of a CPU.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct CpuModel {
    /// Designer.
    pub vendor: String,
    /// Name of the core, or of the product if the CPU states it.
    pub model: String,
    /// Implementer and part number (Arm), or family and model (x86).
    pub id: String,
    /// Server products that have this core, if known.
    pub product: Option<&'static str>,
    /// File from which it was read.
    pub read: String,
}

impl CpuModel {
    /// Returns a name for use in a sentence.
    #[must_use]
    pub fn name(&self) -> String {
        let product = self.product.map(|product| format!(" ({product})"));
        let vendor = if self.model.starts_with(&self.vendor) {
            ""
        } else {
            &self.vendor
        };
        let name = format!("{vendor} {}{}", self.model, product.unwrap_or_default());
        name.trim().to_owned()
    }
}

/// Implementers of Arm cores (Arm Architecture Reference Manual, `MIDR_EL1`; arch/arm64/include/asm/cputype.h).
const IMPLEMENTERS: [(u32, &str); 13] = [
    (0x41, "Arm"),
    (0x42, "Broadcom"),
    (0x43, "Cavium"),
    (0x46, "Fujitsu"),
    (0x48, "HiSilicon"),
    (0x4e, "NVIDIA"),
    (0x50, "Applied Micro"),
    (0x51, "Qualcomm"),
    (0x53, "Samsung"),
    (0x61, "Apple"),
    (0x6d, "Microsoft"),
    (0x70, "Phytium"),
    (0xc0, "Ampere"),
];

/// Arm cores by implementer and part number, with the servers that have them.
const PARTS: [(u32, u32, &str, Option<&str>); 40] = [
    (0x41, 0xd03, "Cortex-A53", None),
    (0x41, 0xd05, "Cortex-A55", None),
    (0x41, 0xd07, "Cortex-A57", None),
    (0x41, 0xd08, "Cortex-A72", Some("AWS Graviton")),
    (0x41, 0xd09, "Cortex-A73", None),
    (0x41, 0xd0a, "Cortex-A75", None),
    (0x41, 0xd0b, "Cortex-A76", None),
    (
        0x41,
        0xd0c,
        "Neoverse-N1",
        Some("Ampere Altra, AWS Graviton2"),
    ),
    (0x41, 0xd0d, "Cortex-A77", None),
    (0x41, 0xd40, "Neoverse-V1", Some("AWS Graviton3")),
    (0x41, 0xd41, "Cortex-A78", None),
    (0x41, 0xd42, "Cortex-A78AE", None),
    (0x41, 0xd44, "Cortex-X1", None),
    (0x41, 0xd46, "Cortex-A510", None),
    (0x41, 0xd47, "Cortex-A710", None),
    (0x41, 0xd48, "Cortex-X2", None),
    (
        0x41,
        0xd49,
        "Neoverse-N2",
        Some("Alibaba Yitian 710, Azure Cobalt 100"),
    ),
    (0x41, 0xd4a, "Neoverse-E1", None),
    (0x41, 0xd4b, "Cortex-A78C", None),
    (0x41, 0xd4d, "Cortex-A715", None),
    (0x41, 0xd4e, "Cortex-X3", None),
    (
        0x41,
        0xd4f,
        "Neoverse-V2",
        Some("AWS Graviton4, NVIDIA Grace, Google Axion"),
    ),
    (0x41, 0xd80, "Cortex-A520", None),
    (0x41, 0xd81, "Cortex-A720", None),
    (0x41, 0xd82, "Cortex-X4", None),
    (0x41, 0xd84, "Neoverse-V3", None),
    (0x41, 0xd8e, "Neoverse-N3", None),
    (0x42, 0x516, "Vulcan", None),
    (0x43, 0x0a1, "ThunderX", None),
    (0x43, 0x0af, "ThunderX2", None),
    (0x46, 0x001, "A64FX", None),
    (0x48, 0xd01, "TSV110", Some("Kunpeng 920")),
    (0x48, 0xd02, "TSV200", Some("Kunpeng 920 of 2024")),
    (0x4e, 0x004, "Carmel", None),
    (0x51, 0xc00, "Falkor", Some("Centriq 2400")),
    (0x51, 0xc01, "Saphira", None),
    (0x6d, 0xd49, "Azure Cobalt 100", None),
    (0x70, 0x663, "FTC663", Some("Phytium S2500")),
    (0xc0, 0xac3, "Ampere-1", Some("AmpereOne")),
    (0xc0, 0xac4, "Ampere-1a", Some("AmpereOne")),
];

/// Returns the CPU models of a node, each with its CPUs; empty if no file states them.
#[must_use]
pub fn read(root: &Root, online: &[u32]) -> Vec<(CpuModel, Vec<u32>)> {
    let by_register = registers(root, online);
    if !by_register.is_empty() {
        return by_register;
    }
    root.large_text("/proc/cpuinfo")
        .map(|text| cpuinfo(&text))
        .unwrap_or_default()
}

/// Reads the models from `MIDR_EL1`, which the kernel exposes for every Arm CPU.
fn registers(root: &Root, online: &[u32]) -> Vec<(CpuModel, Vec<u32>)> {
    let mut found: BTreeMap<(u32, u32), (CpuModel, Vec<u32>)> = BTreeMap::new();
    for &cpu in online {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/regs/identification/midr_el1");
        let Ok(text) = root.text(&path) else {
            continue;
        };
        let Ok(midr) = u64::from_str_radix(text.trim_start_matches("0x"), 16) else {
            root.reject(&path, "a hexadecimal number was expected");
            continue;
        };
        let (implementer, part) = ((midr >> 24 & 0xff) as u32, (midr >> 4 & 0xfff) as u32);
        let entry = found.entry((implementer, part));
        entry
            .or_insert_with(|| (arm(implementer, part, &path), Vec::new()))
            .1
            .push(cpu);
    }
    found.into_values().collect()
}

fn cpuinfo(text: &str) -> Vec<(CpuModel, Vec<u32>)> {
    let mut found: Vec<(CpuModel, Vec<u32>)> = Vec::new();
    for block in text.split("\n\n") {
        let field = |name: &str| {
            block.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == name).then(|| value.trim())
            })
        };
        let Some(cpu) = field("processor").and_then(|id| id.parse().ok()) else {
            continue;
        };
        let hex = |name| u32::from_str_radix(field(name)?.trim_start_matches("0x"), 16).ok();
        let model = match (hex("CPU implementer"), hex("CPU part")) {
            (Some(implementer), Some(part)) => arm(implementer, part, "/proc/cpuinfo"),
            _ => match field("model name") {
                Some(name) => CpuModel {
                    vendor: vendor(field("vendor_id").unwrap_or_default()).to_owned(),
                    model: name.to_owned(),
                    id: format!(
                        "family {} model {}",
                        field("cpu family").unwrap_or("?"),
                        field("model").unwrap_or("?")
                    ),
                    product: None,
                    read: "/proc/cpuinfo".to_owned(),
                },
                None => continue,
            },
        };
        match found.iter_mut().find(|(known, _)| *known == model) {
            Some((_, cpus)) => cpus.push(cpu),
            None => found.push((model, vec![cpu])),
        }
    }
    found
}

fn vendor(id: &str) -> &str {
    match id {
        "GenuineIntel" => "Intel",
        "AuthenticAMD" => "AMD",
        "HygonGenuine" => "Hygon",
        other => other,
    }
}

fn arm(implementer: u32, part: u32, read: &str) -> CpuModel {
    let vendor = IMPLEMENTERS.iter().find(|(id, _)| *id == implementer);
    let known = PARTS
        .iter()
        .find(|(by, number, ..)| (*by, *number) == (implementer, part));
    CpuModel {
        vendor: vendor.map_or("", |(_, name)| name).to_owned(),
        model: known.map_or("", |(_, _, name, _)| name).to_owned(),
        id: format!("implementer {implementer:#04x} part {part:#05x}"),
        product: known.and_then(|(.., product)| *product),
        read: read.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_named_by_its_number_and_an_unknown_one_is_not_guessed() {
        let text = "processor\t: 0\nCPU implementer\t: 0x48\nCPU part\t: 0xd01\n\n\
                    processor\t: 1\nCPU implementer\t: 0x48\nCPU part\t: 0xd01\n\n\
                    processor\t: 2\nCPU implementer\t: 0xc0\nCPU part\t: 0xfff\n";
        let found = cpuinfo(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].0.name(), "HiSilicon TSV110 (Kunpeng 920)");
        assert_eq!(found[0].1, [0, 1]);
        assert_eq!(found[1].0.model, "");
        assert_eq!(found[1].0.id, "implementer 0xc0 part 0xfff");
    }

    #[test]
    fn parts_are_unique_and_of_a_known_implementer() {
        for (index, (by, number, name, _)) in PARTS.iter().enumerate() {
            assert!(IMPLEMENTERS.iter().any(|(id, _)| id == by), "{name}");
            let twice = PARTS[..index].iter().any(|p| (p.0, p.1) == (*by, *number));
            assert!(!twice, "{name}");
        }
    }
}

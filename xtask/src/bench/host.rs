//! Description of the machine that runs the benchmark.

use std::fs;

use anyhow::{Context as _, Result};

use super::figure::Figures;
use super::load;

/// CPUs that loads and measurement run on.
#[derive(Clone, Copy, Debug)]
pub struct Cpus {
    /// CPU of the loads.
    pub load: usize,
    /// CPU of the measurement; the same one if there is no other.
    pub other: usize,
}

/// Picks the last CPU for the loads and the first for the rest, because the first serves more interrupts.
pub fn cpus() -> Result<Cpus> {
    let allowed = load::allowed_cpus()?;
    let (Some(&other), Some(&load)) = (allowed.first(), allowed.last()) else {
        anyhow::bail!("this process may run on no CPU");
    };
    Ok(Cpus { load, other })
}

/// Notes the machine that the figures are of.
pub fn header(figures: &mut Figures) -> Result<()> {
    let kernel = text("/proc/sys/kernel/osrelease")?;
    let info = text("/proc/cpuinfo")?;
    let online = load::allowed_cpus()?.len();
    let virtual_machine = if field(&info, "flags").is_some_and(|f| f.contains("hypervisor")) {
        ", in a virtual machine"
    } else {
        ""
    };
    let average = text("/proc/loadavg")?;
    let average = average.split(' ').next().unwrap_or_default();
    figures.note(format!(
        "Linux {} {}, {online} CPUs: {}{virtual_machine}; load average before {average}",
        kernel.trim(),
        std::env::consts::ARCH,
        model(&info),
    ));
    figures.note(
        "Nanoseconds and milliseconds are this machine's; ratios compare with others.".to_owned(),
    );
    Ok(())
}

fn text(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("could not read {path}"))
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(field, _)| field.trim() == name)
        .map(|(_, value)| value.trim())
}

/// Returns the CPU's model name; ARM has numbers only.
fn model(info: &str) -> String {
    if let Some(name) = field(info, "model name") {
        return name.to_owned();
    }
    match (field(info, "CPU implementer"), field(info, "CPU part")) {
        (Some(implementer), Some(part)) => format!("implementer {implementer} part {part}"),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::model;

    #[test]
    fn both_architectures_name_their_cpu() {
        let x86 = "processor\t: 0\nmodel name\t: AMD EPYC\n";
        assert_eq!(model(x86), "AMD EPYC");
        let arm = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n";
        assert_eq!(model(arm), "implementer 0x41 part 0xd0c");
        assert_eq!(model(""), "unknown");
    }
}

//! Machines for the user: a prompt, or the run of the user's own program.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::Args;
use super::assembly::Maker;
use super::guest::{self, Session};
use crate::bpf::Arch;
use crate::build::elf;

/// Gives the user a prompt.
pub fn shell(maker: &Maker, args: &Args) -> Result<()> {
    let kernel = args.kernel(Arch::Aarch64)?;
    let parts = maker.parts(kernel.arch)?;
    let mut guest = maker.guest(kernel, &parts, &[])?;
    guest.cpus = args.cpus();
    "lab.mode=shell".clone_into(&mut guest.order);
    let port = guest::free_port()?;
    guest.port = Some(port);
    println!(
        "==> Linux {kernel}, {} CPUs in four NUMA nodes; its metrics will be at http://127.0.0.1:{port}/metrics\n    `exit` or Ctrl-A X switches it off",
        guest.cpus
    );
    guest.interactive()
}

/// Runs the first of the files as root in the machine, writes its output to `output`, and returns its status.
pub fn exec(maker: &Maker, args: &Args, first: &Path, mut output: File) -> Result<u8> {
    let program = fs::read(first).with_context(|| format!("could not read {}", first.display()))?;
    let arch = if elf::is_for(&program, Arch::X86_64) {
        Arch::X86_64
    } else {
        Arch::Aarch64
    };
    let kernel = args.kernel(arch)?;
    let parts = maker.parts(kernel.arch)?;
    let mut guest = maker.guest(kernel, &parts, &args.exec)?;
    guest.cpus = args.cpus();
    "lab.mode=exec".clone_into(&mut guest.order);
    if let Some(hierarchy) = args.cgroup {
        guest.order = format!("{} lab.cgroup={}", guest.order, hierarchy.name());
    }
    let mut said = Said::default();
    let session = guest.run(|line| {
        match said.hear(line) {
            Some(text) => output.write_all(text.as_bytes())?,
            None => eprintln!("{line}"),
        }
        Ok(())
    })?;
    match session {
        Session::Ended(code) => Ok(u8::try_from(code).unwrap_or(125)),
        other => bail!("{kernel}: {other}"),
    }
}

/// Filter that separates the program's output from the other console lines.
#[derive(Default)]
struct Said {
    on: bool,
    /// Pending end of line: the last one is not the program's, it only starts the line of the end mark.
    newline: bool,
}

impl Said {
    /// Returns the program's output that this console line completes; `None` outside of the output.
    fn hear(&mut self, line: &str) -> Option<String> {
        match line {
            "@lab output" => {
                *self = Self {
                    on: true,
                    newline: false,
                };
                Some(String::new())
            }
            "@lab output-end" if self.on => {
                self.on = false;
                Some(String::new())
            }
            line if self.on => {
                let before = if self.newline { "\n" } else { "" };
                self.newline = true;
                Some(format!("{before}{line}"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Said;

    fn heard(lines: &[&str]) -> String {
        let mut said = Said::default();
        lines.iter().filter_map(|line| said.hear(line)).collect()
    }

    #[test]
    fn the_output_is_the_program_s_to_the_last_byte() {
        let (begin, end) = ("@lab output", "@lab output-end");
        assert_eq!(
            heard(&["boot", begin, "a", "", "b", "", end, "off"]),
            "a\n\nb\n"
        );
        assert_eq!(heard(&[begin, "no newline", end]), "no newline");
        assert_eq!(heard(&[begin, "", end]), "");
        assert_eq!(heard(&["boot"]), "");
    }
}

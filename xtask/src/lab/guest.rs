//! One virtual machine: QEMU's command line, its console output, and how it ended.

use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::kernels::Kernel;
use super::which;
use crate::bpf::Arch;
use crate::setup::{Missing, Setup, apt};
use crate::shell;

/// Port that the agent of a machine listens on.
const PORT: u16 = 9750;

/// Time without console output after which a machine counts as hung. Attaching programs is the longest phase without
/// output.
const SILENCE: Duration = Duration::from_secs(420);

/// Number of NUMA nodes of a machine, and megabytes of memory of each.
const NODES: u32 = 4;
const NODE_MEGABYTES: u32 = 1024;

/// Size of the disk in bytes. Machines only read it.
const DISK: u64 = 2 << 30;

/// Installs the emulator of an architecture if it is missing.
pub fn emulator(setup: &mut Setup, arch: Arch) -> Result<()> {
    let (program, package) = programs(arch);
    if shell::which(program).is_some() {
        return Ok(());
    }
    let packages = [package.to_owned()];
    let missing = Missing {
        what: package.to_owned(),
        why: "the lab's machines are emulated",
        takes: "about a minute",
        command: apt::install_line(&packages),
    };
    setup.need(missing, || apt::install(&packages)).map(|_| ())
}

fn programs(arch: Arch) -> (&'static str, &'static str) {
    match arch {
        Arch::Aarch64 => ("qemu-system-aarch64", "qemu-system-arm"),
        Arch::X86_64 => ("qemu-system-x86_64", "qemu-system-x86"),
    }
}

/// Returns the drivers that machines need.
pub fn modules(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::Aarch64 => &["virtio_mmio", "virtio_blk", "virtio_net"],
        Arch::X86_64 => &["virtio_pci", "virtio_blk", "virtio_net"],
    }
}

/// Returns a free port on loopback: the agent's default, if it is free.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("could not find a free port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}

/// Creates a sparse file for the disk, which takes no space.
pub fn disk(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("disk.raw");
    File::create(&path)
        .and_then(|file| file.set_len(DISK))
        .with_context(|| format!("could not write {}", path.display()))?;
    Ok(path)
}

/// Settings of a virtual machine.
#[derive(Clone)]
pub struct Guest {
    /// Kernel that it boots.
    pub kernel: &'static Kernel,
    /// File of the kernel.
    pub image: PathBuf,
    /// Archive with its initial file system.
    pub initramfs: PathBuf,
    /// File of its disk.
    pub disk: PathBuf,
    /// Number of its CPUs.
    pub cpus: u32,
    /// Words added to the kernel's command line.
    pub order: String,
    /// Port of this machine's loopback that leads to the agent, if the guest has a network.
    pub port: Option<u16>,
}

/// Outcome of a machine's run.
#[derive(Debug, Eq, PartialEq)]
pub enum Session {
    /// The machine switched itself off, with this status.
    Ended(i32),
    /// The machine printed nothing for too long and was killed.
    Hung,
    /// The machine crashed; the last lines it printed.
    Crashed(String),
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(code) => write!(f, "the machine ended with status {code}"),
            Self::Hung => write!(
                f,
                "the machine said nothing for {} s and was ended",
                SILENCE.as_secs()
            ),
            Self::Crashed(last) => write!(f, "the machine broke down: {last}"),
        }
    }
}

impl Guest {
    fn command(&self) -> Result<Command> {
        let mut command = which(programs(self.kernel.arch).0)?;
        let nodes = NODES.min(self.cpus);
        match self.kernel.arch {
            Arch::Aarch64 => command
                .args(["-M", "virt,gic-version=3"])
                .args(["-accel", "tcg,thread=multi"])
                .args(["-cpu", "max,pauth-impdef=on"]),
            // With one thread per CPU the emulator mishandles patched code, and guests crash.
            Arch::X86_64 => command
                .args(["-M", "q35", "-accel", "tcg,thread=single"])
                .args(["-cpu", "max,-cx16,-la57"]),
        };
        command
            .args(["-smp", &self.cpus.to_string()])
            .args(["-m", &format!("{}M", nodes * NODE_MEGABYTES)])
            .args(numa(self.cpus, nodes))
            .arg("-kernel")
            .arg(&self.image)
            .arg("-initrd")
            .arg(&self.initramfs)
            .args(["-append", &self.command_line()])
            .args(["-nographic", "-no-reboot"])
            .args(self.devices());
        Ok(command)
    }

    fn command_line(&self) -> String {
        let console = match self.kernel.arch {
            Arch::Aarch64 => "ttyAMA0",
            Arch::X86_64 => "ttyS0",
        };
        format!(
            "console={console} quiet panic=-1 psi=1 nokaslr {}",
            self.order
        )
    }

    fn devices(&self) -> Vec<String> {
        let bus = match self.kernel.arch {
            Arch::Aarch64 => "device",
            Arch::X86_64 => "pci",
        };
        let disk = self.disk.display();
        let mut words = vec![
            "-drive".to_owned(),
            format!("file={disk},format=raw,if=none,id=disk,snapshot=on"),
            "-device".to_owned(),
            format!("virtio-blk-{bus},drive=disk"),
        ];
        if let Some(port) = self.port {
            words.extend([
                "-netdev".to_owned(),
                format!("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:{PORT}"),
                "-device".to_owned(),
                format!("virtio-net-{bus},netdev=net"),
            ]);
        } else {
            words.extend(["-net".to_owned(), "none".to_owned()]);
        }
        words
    }

    /// Gives the machine this terminal.
    pub fn interactive(&self) -> Result<()> {
        shell::run(&mut self.command()?)
    }

    /// Boots the machine and passes each line it prints to `hear`, until it ends.
    pub fn run(&self, hear: impl FnMut(&str) -> Result<()>) -> Result<Session> {
        let mut command = self.command()?;
        let mut child = Running(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .with_context(|| format!("could not start `{}`", shell::line(&command)))?,
        );
        listen(&mut child, hear)
    }
}

/// A running emulator. Dropping it kills the process.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn listen(child: &mut Running, mut hear: impl FnMut(&str) -> Result<()>) -> Result<Session> {
    let output = child.0.stdout.take().context("QEMU has an output")?;
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            // The receiver goes away once the machine has ended.
            if send.send(line).is_err() {
                return;
            }
        }
    });
    let mut last: Vec<String> = Vec::new();
    loop {
        match lines.recv_timeout(SILENCE) {
            Ok(line) => {
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end_matches('\r');
                if let Some(code) = exit_code(line) {
                    return Ok(Session::Ended(code));
                }
                hear(line)?;
                last.push(line.to_owned());
                if last.len() > 12 {
                    last.remove(0);
                }
            }
            Err(RecvTimeoutError::Timeout) => return Ok(Session::Hung),
            Err(RecvTimeoutError::Disconnected) => return Ok(Session::Crashed(last.join(" | "))),
        }
    }
}

/// Returns the status from the last line of a machine. The kernel may print text on the same line.
fn exit_code(line: &str) -> Option<i32> {
    let (_, rest) = line.split_once("@lab exit ")?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// Returns QEMU arguments that spread CPUs and memory over the nodes. Neighbours in a ring are near, the others far.
fn numa(cpus: u32, nodes: u32) -> Vec<String> {
    let mut words = Vec::new();
    let mut first = 0;
    for node in 0..nodes {
        let count = cpus / nodes + u32::from(node < cpus % nodes);
        let last = first + count - 1;
        words.extend([
            "-object".to_owned(),
            format!("memory-backend-ram,size={NODE_MEGABYTES}M,id=m{node}"),
            "-numa".to_owned(),
            format!("node,nodeid={node},cpus={first}-{last},memdev=m{node}"),
        ]);
        first += count;
    }
    for from in 0..nodes {
        for to in from + 1..nodes {
            let apart = (to - from).min(nodes - (to - from));
            let distance = if apart == 1 { 20 } else { 35 };
            words.extend([
                "-numa".to_owned(),
                format!("dist,src={from},dst={to},val={distance}"),
            ]);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::{exit_code, numa};

    #[test]
    fn the_status_is_read_among_what_the_kernel_says() {
        assert_eq!(exit_code("@lab exit 1"), Some(1));
        assert_eq!(exit_code("\u{1b}[0m@lab exit 0[   20.1] reboot"), Some(0));
        assert_eq!(exit_code("@lab exit "), None);
    }

    #[test]
    fn every_cpu_has_a_node_and_distances_are_uneven() {
        let words = numa(8, 4).join(" ");
        assert!(words.contains("nodeid=3,cpus=6-7,memdev=m3"), "{words}");
        assert!(words.contains("src=0,dst=3,val=20"), "{words}");
        assert!(words.contains("src=0,dst=2,val=35"), "{words}");
        let words = numa(2, 2).join(" ");
        assert!(words.contains("nodeid=1,cpus=1-1"), "{words}");
        let words = numa(6, 4).join(" ");
        assert!(
            words.contains("nodeid=1,cpus=2-3") && words.contains("nodeid=2,cpus=4-4"),
            "{words}"
        );
    }
}

//! Initramfs of a machine: one archive with the lab's program as the first process.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use cpio::newc::{Builder, ModeFileType, trailer};

use super::kernels::Module;

/// Commands that busybox provides: a user's script may need any of these.
const COMMANDS: &str = "\
ash awk base64 basename cat chmod chrt clear cp cut date dd df diff dirname dmesg du echo egrep env expr \
false fgrep find free grep gunzip gzip head hexdump hostname id ifconfig ionice ip kill killall less ln ls \
lsmod md5sum mkdir mknod mktemp more mount mv nc nice nproc od pgrep pidof ping pkill printf ps pwd \
readlink realpath renice rm rmdir route sed seq setsid sh sha256sum sleep sort stat stty swapoff swapon sync \
sysctl tail tar taskset tee test time timeout top touch tr true uname uniq uptime usleep vi watch wc wget which \
xargs yes zcat";

const FOLDERS: &[&str] = &[
    "bin",
    "dev",
    "etc",
    "lab",
    "lab/exec",
    "lab/modules",
    "proc",
    "root",
    "run",
    "sbin",
    "sys",
    "tmp",
    "usr",
    "usr/bin",
];

/// Files of a machine.
pub struct Contents<'a> {
    /// Program of the first process.
    pub init: &'a Path,
    /// Program of the agent.
    pub agent: &'a Path,
    /// Program of the shell.
    pub busybox: &'a Path,
    /// Drivers, in the order of insertion.
    pub modules: &'a [Module],
    /// Files of the user. The machine runs the first one.
    pub exec: &'a [PathBuf],
}

impl Contents<'_> {
    /// Writes the archive (`Documentation/driver-api/early-userspace/buffer-format.rst`).
    pub fn write(&self, path: &Path) -> Result<()> {
        let file =
            File::create(path).with_context(|| format!("could not write {}", path.display()))?;
        let mut archive = Archive(BufWriter::new(file));
        self.fill(&mut archive)?;
        trailer(archive.0)
            .and_then(|mut file| file.flush())
            .with_context(|| format!("could not write {}", path.display()))
    }

    fn fill(&self, archive: &mut Archive) -> Result<()> {
        for folder in FOLDERS {
            archive.put(folder, ModeFileType::Directory, 0o755, &[])?;
        }
        archive.copy("init", self.init)?;
        archive.copy("lab/stallscope", self.agent)?;
        archive.copy("bin/busybox", self.busybox)?;
        archive.link("bin/stallscope", "/lab/stallscope")?;
        archive.link("bin/stallscope-lab", "/init")?;
        archive.link("usr/bin/env", "/bin/busybox")?;
        for command in COMMANDS.split_whitespace() {
            archive.link(&format!("bin/{command}"), "/bin/busybox")?;
        }
        for (nth, module) in self.modules.iter().enumerate() {
            let name = format!("lab/modules/{nth:02}-{}.ko", module.name);
            archive.put(&name, ModeFileType::Regular, 0o644, &module.bytes)?;
        }
        for path in self.exec {
            archive.copy(&format!("lab/exec/{}", name_of(path)?), path)?;
        }
        if let Some(first) = self.exec.first() {
            archive.put(
                "lab/exec-first",
                ModeFileType::Regular,
                0o644,
                name_of(first)?.as_bytes(),
            )?;
        }
        Ok(())
    }
}

fn name_of(path: &Path) -> Result<&str> {
    path.file_name()
        .and_then(|name| name.to_str())
        .with_context(|| {
            format!(
                "{} has no name that could be used in a machine",
                path.display()
            )
        })
}

struct Archive(BufWriter<File>);

impl Archive {
    fn copy(&mut self, name: &str, from: &Path) -> Result<()> {
        if from.is_dir() {
            bail!("{} is a folder; name files", from.display());
        }
        let bytes = fs::read(from).with_context(|| format!("could not read {}", from.display()))?;
        self.put(name, ModeFileType::Regular, 0o755, &bytes)
    }

    fn link(&mut self, name: &str, to: &str) -> Result<()> {
        self.put(name, ModeFileType::Symlink, 0o777, to.as_bytes())
    }

    fn put(&mut self, name: &str, kind: ModeFileType, mode: u32, bytes: &[u8]) -> Result<()> {
        let size =
            u32::try_from(bytes.len()).with_context(|| format!("{name} is larger than 4 GiB"))?;
        let mut entry = Builder::new(name)
            .mode(mode)
            .set_mode_file_type(kind)
            .nlink(1)
            .write(&mut self.0, size);
        entry
            .write_all(bytes)
            .and_then(|()| entry.finish().map(|_| ()))
            .with_context(|| format!("could not pack {name}"))
    }
}

//! Modules of a kernel: which ones to keep, and their order of insertion.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSection as _};

use super::packed;

/// A module ready for `insmod`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Module {
    /// Name, as `lsmod` shows it.
    pub name: String,
    /// Unpacked object.
    pub bytes: Vec<u8>,
}

/// Folders and modules that guests may need. The lab keeps their dependencies too. A whole tree is ten times as large.
const KEPT: &[&str] = &[
    "arch/",
    "block/",
    "crypto/",
    "drivers/block/",
    "drivers/char/",
    "drivers/net/net_failover",
    "drivers/net/veth",
    "drivers/net/virtio_net",
    "drivers/nvdimm/",
    "drivers/scsi/virtio_scsi",
    "drivers/virtio/",
    "fs/",
    "lib/",
    "mm/",
    "net/9p/",
    "net/bridge/bridge",
    "net/core/",
];

/// A folder `lib/modules/RELEASE`: its modules by name, and the built-in ones.
#[derive(Debug)]
pub struct Tree {
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

impl Tree {
    /// Lists the folder.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn open(folder: &Path) -> Result<Self> {
        let list = folder.join("modules.builtin");
        let builtin = fs::read_to_string(&list)
            .with_context(|| format!("could not read {}", list.display()))?;
        let mut files = BTreeMap::new();
        collect(&folder.join("kernel"), &mut files)?;
        Ok(Self {
            files,
            builtin: builtin.lines().filter_map(module_name).collect(),
        })
    }

    /// Returns the files to keep: [`KEPT`] and its dependencies.
    ///
    /// # Errors
    /// When a module cannot be read.
    pub fn kept(&self, folder: &Path) -> Result<Vec<&Path>> {
        let kernel = folder.join("kernel");
        let mut wanted: Vec<String> = Vec::new();
        for (name, path) in &self.files {
            let place = path.strip_prefix(&kernel).unwrap_or(path).to_string_lossy();
            if KEPT.iter().any(|kept| place.starts_with(kept)) {
                wanted.push(name.clone());
            }
        }
        let mut kept = BTreeSet::new();
        while let Some(name) = wanted.pop() {
            if kept.contains(&name) || !self.files.contains_key(&name) {
                continue;
            }
            wanted.extend(self.load(&name)?.1);
            kept.insert(name);
        }
        Ok(kept.iter().map(|name| &*self.files[name]).collect())
    }

    /// Returns the named modules and their dependencies, in the order of insertion. Built-in ones are left out.
    ///
    /// # Errors
    /// When this kernel has no such module, or one cannot be read.
    pub fn in_order(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut order = Vec::new();
        for name in names {
            self.insert(&normal(name), &mut order, 0)?;
        }
        Ok(order)
    }

    fn insert(&self, name: &str, order: &mut Vec<Module>, depth: usize) -> Result<()> {
        if self.builtin.contains(name) || order.iter().any(|module| module.name == name) {
            return Ok(());
        }
        if depth > 64 {
            bail!("the module {name} depends on itself");
        }
        let (bytes, depends) = self.load(name)?;
        for needed in &depends {
            self.insert(needed, order, depth + 1)
                .with_context(|| format!("the module {name} needs {needed}"))?;
        }
        order.push(Module {
            name: name.to_owned(),
            bytes,
        });
        Ok(())
    }

    /// Returns a module's unpacked object, and the names of its dependencies.
    fn load(&self, name: &str) -> Result<(Vec<u8>, Vec<String>)> {
        let path = self.files.get(name).with_context(|| {
            format!(
                "this kernel has no module {name}, neither built in nor as a file that was kept"
            )
        })?;
        let read = || {
            let bytes = fs::read(path)?;
            let bytes = if bytes.starts_with(b"\x7fELF") {
                bytes
            } else {
                packed::unpack(&bytes)?
            };
            let depends = depends(&bytes)?;
            anyhow::Ok((bytes, depends))
        };
        read().with_context(|| format!("could not read the module {}", path.display()))
    }
}

fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("could not list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = path.to_str().and_then(module_name) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// Returns the module's name: `virtio_blk` for `kernel/drivers/block/virtio_blk.ko.xz`.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    file.split_once(".ko").map(|(name, _)| normal(name))
}

/// Replaces dashes by underscores: files may have dashes where the kernel has underscores.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// Returns a module's dependencies from its section `.modinfo`.
fn depends(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module).context("it is no ELF object")?;
    let info = file
        .section_by_name(".modinfo")
        .context("it has no section .modinfo")?
        .data()?;
    Ok(parse_depends(&String::from_utf8_lossy(info)))
}

fn parse_depends(info: &str) -> Vec<String> {
    info.split('\0')
        .filter_map(|entry| entry.strip_prefix("depends="))
        .flat_map(|names| names.split(','))
        .filter(|name| !name.is_empty())
        .map(normal)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Tree, module_name, parse_depends};
    use object::write::Object;
    use std::fs;
    use std::path::{Path, PathBuf};

    fn module(depends: &str) -> Vec<u8> {
        use object::{Architecture, BinaryFormat, Endianness, SectionKind};
        let mut object = Object::new(BinaryFormat::Elf, Architecture::Aarch64, Endianness::Little);
        let section =
            object.add_section(Vec::new(), b".modinfo".to_vec(), SectionKind::ReadOnlyData);
        let info = format!("license=GPL\0depends={depends}\0name=x\0");
        object.append_section_data(section, info.as_bytes(), 1);
        object.write().unwrap()
    }

    /// Makes a tree in which `virtio_blk` depends on `virtio_ring`, that on `virtio`, and `virtio_mmio` is built in.
    fn tree(name: &str) -> (PathBuf, Tree) {
        let folder = std::env::temp_dir().join(format!("stallscope-{name}-{}", std::process::id()));
        let put = |path: &str, depends: &str| {
            let path = folder.join("kernel").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, module(depends)).unwrap();
        };
        put(
            "drivers/block/virtio-blk.ko",
            "virtio_ring,virtio,virtio_mmio",
        );
        put("sound/virtio_ring.ko", "virtio");
        put("drivers/virtio/virtio.ko", "");
        put("sound/loud.ko", "");
        put("fs/one.ko", "two");
        put("fs/two.ko", "one");
        fs::write(
            folder.join("modules.builtin"),
            "kernel/drivers/virtio/virtio_mmio.ko\n",
        )
        .unwrap();
        let tree = Tree::open(&folder).unwrap();
        (folder, tree)
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let (folder, tree) = tree("order");
        let order = tree
            .in_order(&["virtio_mmio", "virtio_blk", "virtio"])
            .unwrap();
        let names: Vec<&str> = order.iter().map(|module| &*module.name).collect();
        assert_eq!(names, ["virtio", "virtio_ring", "virtio_blk"]);
        assert_eq!(order[0].bytes, module(""));
        let error = |name: &str| format!("{:#}", tree.in_order(&[name]).unwrap_err());
        assert!(error("zram").contains("no module zram"));
        assert!(error("one").contains("depends on itself"));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_kept_is_complete_and_no_more() {
        let (folder, tree) = tree("kept");
        let kept = tree.kept(&folder).unwrap();
        let has = |path: &str| kept.contains(&&*folder.join("kernel").join(Path::new(path)));
        assert!(has("drivers/block/virtio-blk.ko") && has("sound/virtio_ring.ko"));
        assert!(!has("sound/loud.ko"), "{kept:?}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn names_are_read_as_the_kernel_has_them() {
        let name = |path| module_name(path);
        assert_eq!(name("a/virtio-blk.ko.xz").as_deref(), Some("virtio_blk"));
        assert_eq!(name("a/9p.ko").as_deref(), Some("9p"));
        assert_eq!(name("a/modules.order"), None);
        assert_eq!(parse_depends("a=b\0depends=x-y,z\0"), ["x_y", "z"]);
        assert!(parse_depends("depends=\0").is_empty());
    }
}

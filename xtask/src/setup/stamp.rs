//! Cache of the tools that set-up found, so that the next run looks at three files instead of starting a dozen
//! programs.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::Bpf;
use super::compiler::Route;
use crate::workspace::Workspace;

#[derive(Debug, Deserialize, Serialize)]
struct Stamp {
    /// Route that the user forced. A run that forces none does not use it.
    forced: Option<Route>,
    bpf: Bpf,
    rustc: Mark,
    linker: Mark,
}

/// Properties of a program's file that change when it is replaced or upgraded.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Mark {
    bytes: u64,
    modified: (i64, i64),
}

impl Mark {
    fn of(path: &Path) -> Option<Self> {
        let metadata = path.metadata().ok()?;
        Some(Self {
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

fn path(workspace: &Workspace) -> PathBuf {
    workspace.tools().join("setup.json")
}

/// Loads the tools, if all of them are still there and unchanged and the forced route is the same.
pub fn load(workspace: &Workspace, forced: Option<Route>) -> Option<Bpf> {
    let stamp: Stamp = serde_json::from_slice(&fs::read(path(workspace)).ok()?).ok()?;
    let unchanged = Mark::of(&stamp.bpf.compiler.rustc)? == stamp.rustc
        && Mark::of(&stamp.bpf.linker)? == stamp.linker
        && stamp.bpf.compiler.core.is_dir();
    (unchanged && stamp.forced == forced).then_some(stamp.bpf)
}

/// Stores the tools.
pub fn save(workspace: &Workspace, bpf: &Bpf, forced: Option<Route>) -> Result<()> {
    let mark = |path: &Path| {
        Mark::of(path).with_context(|| format!("{} vanished during set-up", path.display()))
    };
    let stamp = Stamp {
        forced,
        bpf: bpf.clone(),
        rustc: mark(&bpf.compiler.rustc)?,
        linker: mark(&bpf.linker)?,
    };
    let path = path(workspace);
    fs::create_dir_all(workspace.tools())
        .and_then(|()| fs::write(&path, serde_json::to_vec_pretty(&stamp)?))
        .with_context(|| format!("could not write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::compiler::Compiler;
    use super::{Bpf, Route, load, save};
    use crate::workspace::Workspace;
    use std::fs;

    #[test]
    fn a_stamp_holds_until_a_program_changes_or_another_route_is_asked_for() {
        let folder = std::env::temp_dir().join(format!("stallscope-stamp-{}", std::process::id()));
        fs::create_dir_all(folder.join("core")).unwrap();
        fs::write(folder.join("rustc"), "one").unwrap();
        fs::write(folder.join("linker"), "one").unwrap();
        let workspace = Workspace {
            root: folder.clone(),
            target: folder.clone(),
            bpf_bins: Vec::new(),
        };
        let bpf = Bpf {
            compiler: Compiler {
                route: Route::Packages,
                rustc: folder.join("rustc"),
                core: folder.join("core"),
                llvm: 22,
            },
            linker: folder.join("linker"),
        };
        assert_eq!(load(&workspace, None), None);
        save(&workspace, &bpf, None).unwrap();
        assert_eq!(load(&workspace, None), Some(bpf.clone()));
        assert_eq!(load(&workspace, Some(Route::Rustup)), None);
        fs::write(folder.join("linker"), "another").unwrap();
        assert_eq!(load(&workspace, None), None);
        fs::remove_dir_all(folder).unwrap();
    }
}

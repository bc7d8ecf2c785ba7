//! Evidence of a report: every file that the audit read, in a tree that can be audited again.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result, ensure};

use super::{Node, Report, Root, live};

/// Folders of each CPU from which the topology is read.
const CPU_FOLDERS: [&str; 2] = ["topology", "cache"];

/// Writes `report.json`, `report.txt`, `live.json` and the files read, below `dir`, which can then be audited as a
/// root. Returns the number of files read.
///
/// # Errors
/// When `dir` is not empty, or cannot be written to.
pub fn write(node: &Node, report: &Report, dir: &Path) -> Result<usize> {
    prepare(dir)?;
    keep_topology(&node.root);
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.join(name.trim_start_matches('/'));
        path.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&path, bytes))
            .with_context(|| format!("cannot write {}", path.display()))
    };
    put("report.json", &serde_json::to_vec_pretty(report)?)?;
    put("report.txt", report.to_text(false).as_bytes())?;
    put(live::FILE, &serde_json::to_vec_pretty(&node.live)?)?;
    let evidence = node.root.evidence();
    for (path, bytes) in &evidence {
        put(path, bytes)?;
    }
    for path in node.root.marks() {
        let path = dir.join(path.trim_start_matches('/'));
        if !path.exists() {
            put_mark(&path).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(evidence.len())
}

/// Makes a directory for a file that was only looked for: it shows that the file exists, without its content.
fn put_mark(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::create_dir(path)
}

fn prepare(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut entries =
        fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    ensure!(
        entries.next().is_none(),
        "{} has something in it: expected an empty or a new directory, so that a report is of one node at one time",
        dir.display()
    );
    Ok(())
}

/// Reads the topology's files once more through `root`, so that they become part of the evidence.
fn keep_topology(root: &Root) {
    let cpus = "/sys/devices/system/cpu";
    for name in ["possible", "present", "online", "smt/active"] {
        keep(root, &format!("{cpus}/{name}"));
    }
    for cpu in numbered(root, cpus, "cpu") {
        for folder in CPU_FOLDERS {
            keep_folder(root, &format!("{cpus}/{cpu}/{folder}"), 1);
        }
    }
    let nodes = "/sys/devices/system/node";
    for node in numbered(root, nodes, "node") {
        for name in ["cpulist", "distance", "meminfo"] {
            keep(root, &format!("{nodes}/{node}/{name}"));
        }
    }
}

fn numbered(root: &Root, folder: &str, prefix: &str) -> Vec<String> {
    let names = if root.exists(folder) {
        root.names(folder)
    } else {
        return Vec::new();
    };
    let mut names = names.unwrap_or_default();
    names.retain(|name| {
        name.strip_prefix(prefix)
            .is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
    });
    names
}

fn keep_folder(root: &Root, folder: &str, deeper: u32) {
    if !root.exists(folder) {
        return;
    }
    let below = root.folders(folder).unwrap_or_default();
    for name in root.names(folder).unwrap_or_default() {
        let path = format!("{folder}/{name}");
        if !below.contains(&name) {
            keep(root, &path);
        } else if deeper > 0 {
            keep_folder(root, &path, deeper - 1);
        }
    }
}

fn keep(root: &Root, path: &str) {
    if root.exists(path) {
        // A file that cannot be read is among the findings, or is of no use to anybody.
        let _ = root.text_or_empty(path);
    }
}

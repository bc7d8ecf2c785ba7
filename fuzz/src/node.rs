//! The files of a node, as `stallscope doctor` reads them.

use std::fs;
use std::path::{Component, Path, PathBuf};

use stallscope::doctor::{Live, Node, Root, audit, samples};
use stallscope::host::topology::Topology;
use tempfile::TempDir;

use crate::plain;

/// Longest file name that file systems take, in bytes.
const LONGEST_NAME: usize = 255;

/// Audits a node and prints the report in every format. In the input, `== PATH` begins a file, whose content is on the
/// lines after it.
pub fn node(data: &[u8]) {
    let dir = directory();
    for (path, content) in files(data) {
        let path = dir.path().join(path);
        // One line may use a path as a file and another as a directory.
        if let Some(above) = path.parent()
            && fs::create_dir_all(above).is_ok()
        {
            let _ = fs::write(&path, content);
        }
    }
    if let Ok(topology) = Topology::read(&dir.path().join("sys")) {
        let _ = topology.to_text();
        let _ = serde_json::to_string(&topology).expect("a topology is JSON");
        let cpus = topology.possible_cpus();
        let _ = topology.boundary(0, cpus.saturating_sub(1));
    }
    let root = Root::open(dir.path()).expect("a directory");
    let live = Live::of_report(&root);
    let report = audit(&Node::read(root, live));
    plain(&report.to_text(false));
    let _ = serde_json::to_string(&report).expect("a report is JSON");
    let _ = samples(&report);
}

/// Returns a temporary directory, in memory where `/dev/shm` exists because the target writes it thousands of times.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    dir.expect("a temporary directory")
}

/// Splits the input into files. Their paths stay below the directory they are put in.
fn files(data: &[u8]) -> impl Iterator<Item = (PathBuf, Vec<u8>)> {
    let mut files: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    for line in data.split_inclusive(|&byte| byte == b'\n') {
        if let Some(path) = line.strip_prefix(b"== ") {
            let path = String::from_utf8_lossy(path);
            files.push((below(path.trim()), Vec::new()));
        } else if let Some((_, content)) = files.last_mut() {
            content.extend_from_slice(line);
        }
    }
    files
        .into_iter()
        .filter(|(path, _)| path.file_name().is_some())
}

fn below(path: &str) -> PathBuf {
    let path = path.replace('\0', "");
    let names = Path::new(&path)
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) if name.len() <= LONGEST_NAME => Some(name),
            _ => None,
        });
    names.take(16).collect()
}

//! Nodes as directories: the format is described in `tests/fixtures/doctor/README.md`.

use std::fs;
use std::path::{Path, PathBuf};

use stallscope::doctor::{Live, Node, Report, Root, audit};
use tempfile::TempDir;

use crate::sysfs;

/// The nodes there are.
pub const NODES: [&str; 6] = ["altra", "kunpeng", "graviton", "epyc", "vm", "kind"];

/// A file of the fixtures.
pub fn text(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/doctor")
}

/// A node with its files.
pub fn node(name: &str) -> TempDir {
    // Thousands of files are slow to write on a busy disk.
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    let dir = dir.unwrap();
    change(dir.path(), &text(&format!("{name}.tree")));
    dir
}

/// Audits the files of a node.
pub fn audited(dir: &Path) -> Report {
    audit(&read(dir))
}

/// What its files say.
pub fn read(dir: &Path) -> Node {
    let root = Root::open(dir).unwrap();
    let live = Live::of_report(&root);
    Node::read(root, live)
}

/// Writes the files that a text describes, and takes those away that it says so of.
pub fn change(dir: &Path, text: &str) {
    let mut block: Option<(String, String)> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("==") {
            if let Some((path, content)) = block.take() {
                put(dir, &path, &content);
            }
            let path = rest.trim();
            block = (!path.is_empty()).then(|| (path.to_owned(), String::new()));
        } else if let Some((_, content)) = &mut block {
            content.push_str(line);
            content.push('\n');
        } else {
            one_line(dir, line);
        }
    }
    assert!(block.is_none(), "a file of several lines ends with `==`");
}

fn one_line(dir: &Path, line: &str) {
    if line.is_empty() || line.starts_with('#') {
    } else if let Some(name) = line.strip_prefix("@include ") {
        change(dir, &text(&format!("{name}.tree")));
    } else if let Some(name) = line.strip_prefix("@topology ") {
        sysfs::write_into(name, &dir.join("sys"));
    } else if let Some(path) = line.strip_prefix("- ") {
        sysfs::each(path, "", &mut |path, _| remove(&at(dir, path)));
    } else {
        let (path, content) = line
            .split_once('=')
            .unwrap_or_else(|| panic!("no `=` in `{line}`"));
        let content = content.trim().replace("\\0", "\0").replace("\\n", "\n");
        put(dir, path.trim(), &format!("{content}\n"));
    }
}

fn put(dir: &Path, path: &str, content: &str) {
    sysfs::each(path, content, &mut |path, content| {
        let path = at(dir, path);
        if fs::write(&path, content).is_err() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
        }
    });
}

fn remove(path: &Path) {
    if fs::remove_file(path).is_err() {
        fs::remove_dir_all(path).unwrap();
    }
}

fn at(dir: &Path, path: &str) -> PathBuf {
    dir.join(path.trim_start_matches('/'))
}

//! Nodes as directories, in the format of `tests/fixtures/doctor/README.md`.

use std::fs;
use std::path::{Path, PathBuf};

use stallscope::doctor::{Live, Node, Report, Root, audit};
use tempfile::TempDir;

use crate::sysfs;

/// Names of the nodes.
pub const NODES: [&str; 6] = ["altra", "kunpeng", "graviton", "epyc", "vm", "kind"];

/// Returns the text of a fixture file.
pub fn text(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/doctor")
}

/// Writes the files of a node into a temporary directory.
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

/// Reads the files of a node.
pub fn read(dir: &Path) -> Node {
    let root = Root::open(dir).unwrap();
    let live = Live::of_report(&root);
    Node::read(root, live)
}

/// Changes to a tree, which a test can undo: writing a tree takes longer than auditing it.
#[derive(Default)]
pub struct Changes(Vec<Change>);

enum Change {
    /// A written file, with its previous content.
    Written(PathBuf, Vec<u8>),
    /// A new file or directory.
    Made(PathBuf),
    /// A removed file or directory, with the directory that keeps it meanwhile.
    Taken(PathBuf, TempDir),
}

impl Changes {
    /// Undoes all changes.
    pub fn undo(self) {
        for change in self.0.into_iter().rev() {
            match change {
                Change::Written(path, content) => fs::write(path, content).unwrap(),
                Change::Made(path) if path.is_dir() => fs::remove_dir_all(path).unwrap(),
                Change::Made(path) => fs::remove_file(path).unwrap(),
                Change::Taken(path, aside) => fs::rename(aside.path().join("taken"), path).unwrap(),
            }
        }
    }

    fn put(&mut self, dir: &Path, path: &str, content: &str) {
        sysfs::each(path, content, &mut |path, content| {
            let path = at(dir, path);
            if let Ok(before) = fs::read(&path) {
                self.0.push(Change::Written(path.clone(), before));
            } else {
                let missing = path.ancestors().take_while(|each| !each.exists());
                self.0
                    .push(Change::Made(missing.last().unwrap().to_owned()));
                fs::create_dir_all(path.parent().unwrap()).unwrap();
            }
            fs::write(&path, content).unwrap();
        });
    }

    fn take(&mut self, dir: &Path, path: &str) {
        sysfs::each(path, "", &mut |path, _| {
            let path = at(dir, path);
            // The directory lies beside the tree, because a rename does not work across file systems.
            let aside = tempfile::tempdir_in(dir.parent().unwrap()).unwrap();
            fs::rename(&path, aside.path().join("taken")).unwrap();
            self.0.push(Change::Taken(path, aside));
        });
    }

    fn one_line(&mut self, dir: &Path, line: &str) {
        if line.is_empty() || line.starts_with('#') {
        } else if let Some(name) = line.strip_prefix("@include ") {
            self.0.extend(change(dir, &text(&format!("{name}.tree"))).0);
        } else if let Some(name) = line.strip_prefix("@topology ") {
            sysfs::write_into(name, &dir.join("sys"));
        } else if let Some(path) = line.strip_prefix("- ") {
            self.take(dir, path);
        } else {
            let (path, content) = line
                .split_once('=')
                .unwrap_or_else(|| panic!("no `=` in `{line}`"));
            let content = content.trim().replace("\\0", "\0").replace("\\n", "\n");
            self.put(dir, path.trim(), &format!("{content}\n"));
        }
    }
}

/// Writes the files that a text describes, and removes those it names for removal.
pub fn change(dir: &Path, text: &str) -> Changes {
    let mut changes = Changes::default();
    let mut block: Option<(String, String)> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("==") {
            if let Some((path, content)) = block.take() {
                changes.put(dir, &path, &content);
            }
            let path = rest.trim();
            block = (!path.is_empty()).then(|| (path.to_owned(), String::new()));
        } else if let Some((_, content)) = &mut block {
            content.push_str(line);
            content.push('\n');
        } else {
            changes.one_line(dir, line);
        }
    }
    assert!(block.is_none(), "a file of several lines ends with `==`");
    changes
}

fn at(dir: &Path, path: &str) -> PathBuf {
    dir.join(path.trim_start_matches('/'))
}

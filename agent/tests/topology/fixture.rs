//! Fixtures as folders, in the format of `tests/fixtures/topology/README.md`.

use std::fs;
use std::path::{Path, PathBuf};

use stallscope::host::topology::{CpuList, MAX_CPU};
use tempfile::TempDir;

/// Returns every fixture's name.
pub fn names() -> Vec<String> {
    let files = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = files
        .filter_map(|file| Some(file.strip_suffix(".sysfs")?.to_owned()))
        .collect();
    names.sort();
    names
}

/// Writes a fixture as the `/sys` of that host.
pub fn sys(name: &str) -> TempDir {
    let sys = tempfile::tempdir().unwrap();
    write_into(name, sys.path());
    sys
}

/// Writes a fixture's files below a directory that stands for `/sys`.
pub fn write_into(name: &str, sys: &Path) {
    let text = fs::read_to_string(folder().join(format!("{name}.sysfs"))).unwrap();
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (path, content) = line
            .split_once('=')
            .unwrap_or_else(|| panic!("{name}: no `=` in `{line}`"));
        each(path.trim(), content.trim(), &mut |path, content| {
            write_one(sys, path, content);
        });
    }
}

/// Returns the path of a file of such a folder.
pub fn file(sys: &TempDir, path: &str) -> PathBuf {
    sys.path().join("devices/system").join(path)
}

/// Replaces a file of such a folder.
pub fn write(sys: &TempDir, path: &str, content: &str) {
    write_one(sys.path(), path, content);
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/topology")
}

/// Calls `write` with each file that a path with at most one brace stands for.
pub fn each(path: &str, content: &str, write: &mut dyn FnMut(&str, &str)) {
    let Some((before, rest)) = path.split_once('{') else {
        return write(path, content);
    };
    let (brace, after) = rest.split_once('}').unwrap();
    for (index, group) in groups(brace).iter().enumerate() {
        let list: CpuList = group.iter().copied().collect();
        for n in group {
            let content = content
                .replace("{n}", &n.to_string())
                .replace("{group}", &list.to_string())
                .replace("{index}", &index.to_string());
            write(&format!("{before}{n}{after}"), &content);
        }
    }
}

/// Expands `LIST`, `LIST/SIZE` or `LIST/SIZE+OFFSET` into groups.
fn groups(brace: &str) -> Vec<Vec<u32>> {
    let (list, size) = brace.split_once('/').unwrap_or((brace, "1"));
    let (size, offset) = size
        .split_once('+')
        .map_or((size, None), |(size, offset)| (size, Some(offset)));
    let ids: Vec<u32> = CpuList::parse(list, MAX_CPU).unwrap().iter().collect();
    let offset: Option<u32> = offset.map(|offset| offset.parse().unwrap());
    let chunks = ids.chunks(size.parse().unwrap());
    chunks
        .map(|chunk| {
            let siblings = offset
                .into_iter()
                .flat_map(|offset| chunk.iter().map(move |id| id + offset));
            chunk.iter().copied().chain(siblings).collect()
        })
        .collect()
}

fn write_one(sys: &Path, path: &str, content: &str) {
    let path = sys.join("devices/system").join(path);
    // The kernel ends every file with a newline, even an empty list.
    let content = format!("{content}\n");
    if fs::write(&path, &content).is_err() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &content).unwrap();
    }
}

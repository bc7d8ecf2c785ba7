//! Contents of the topology files in sysfs, file by file, before the agent concludes anything from them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::cpu_list::{CpuList, excerpt};
use super::{Cpus, Error, MAX_CPU, MAX_NODE, Node};

/// Parsed contents of the files.
pub(super) struct Sysfs {
    pub cpus: Cpus,
    pub smt_active: Option<bool>,
    /// Folders of the online CPUs.
    pub by_cpu: BTreeMap<u32, Cpu>,
    /// NUMA nodes by number; `None` without a `node` folder.
    pub nodes: Option<Vec<Node>>,
}

/// Contents of `cpu*/topology` and `cpu*/cache` of one online CPU.
pub(super) struct Cpu {
    pub core: Option<CpuList>,
    /// `cluster_id` with `cluster_cpus_list`.
    pub cluster: Option<(u32, CpuList)>,
    pub die: Option<u32>,
    pub package: Option<u32>,
    /// The caches, or in one sentence the reason for which they could not be read.
    pub caches: Result<Caches, String>,
}

/// Caches of one CPU that could be its last level.
#[derive(Default)]
pub(super) struct Caches {
    /// Highest level of any cache, for the reason when no cache qualifies.
    pub highest: Option<u32>,
    /// Farthest data or unified cache of level 3 or above. A private L2 does not become the last-level cache because
    /// the host reports nothing beyond it: on Ampere Altra a system cache lies beyond that sysfs never shows.
    pub last: Option<Cache>,
}

/// Contents of one `cpu*/cache/index*`.
pub(super) struct Cache {
    pub level: u32,
    pub id: Option<u32>,
    pub shared: Option<CpuList>,
}

// Lowest level that can be a last-level cache.
const LLC_LEVEL: u32 = 3;

// Values besides -1 that the kernel prints for an unknown cluster: `BAD_APICID` on x86, and the same in 32 bits.
const UNKNOWN_CLUSTERS: [u32; 2] = [u16::MAX as u32, u32::MAX];

pub(super) fn read(sys: &Path) -> Result<Sysfs, Error> {
    let dir = sys.join("devices/system/cpu");
    let possible = required_list(&dir.join("possible"), MAX_CPU)?;
    // The kernel sizes its per-CPU areas by `possible`, so no other file may name a CPU beyond it.
    let Some(max) = possible.last() else {
        return Err(malformed(
            &dir.join("possible"),
            "at least one CPU",
            "it is empty".into(),
        ));
    };
    let present = required_list(&dir.join("present"), max)?;
    let online = required_list(&dir.join("online"), max)?;
    let offline = present.without(&online);

    let by_cpu = online
        .iter()
        .map(|cpu| Ok((cpu, read_cpu(&dir.join(format!("cpu{cpu}")), max)?)))
        .collect::<Result<_, Error>>()?;
    let smt_active = parsed(&dir.join("smt/active"), "0 or 1", |text| match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    })?;
    let nodes = read_nodes(&sys.join("devices/system/node"), max)?;
    Ok(Sysfs {
        cpus: Cpus {
            possible,
            present,
            online,
            offline,
        },
        smt_active,
        by_cpu,
        nodes,
    })
}

// A CPU that went offline after `online` was read has lost its files, so nothing is reported of it.
fn read_cpu(dir: &Path, max: u32) -> Result<Cpu, Error> {
    let topology = dir.join("topology");
    // Before 5.3 the file was called `thread_siblings_list`, which later kernels still have.
    let core = match list(&topology.join("core_cpus_list"), max)? {
        Some(cpus) => Some(cpus),
        None => list(&topology.join("thread_siblings_list"), max)?,
    };
    let cluster = match id(&topology.join("cluster_id"))? {
        Some(id) if !UNKNOWN_CLUSTERS.contains(&id) => {
            list(&topology.join("cluster_cpus_list"), max)?.map(|cpus| (id, cpus))
        }
        _ => None,
    };
    Ok(Cpu {
        core,
        cluster,
        die: id(&topology.join("die_id"))?,
        package: id(&topology.join("physical_package_id"))?,
        caches: read_caches(&dir.join("cache"), max).map_err(|error| sentence(&error)),
    })
}

fn read_caches(dir: &Path, max: u32) -> Result<Caches, Error> {
    let mut caches = Caches::default();
    for (_, index) in numbered(dir, "index")?.unwrap_or_default() {
        // The kernel leaves out files for which it has no value. Without a level, a cache says nothing.
        let Some(level) = number(&index.join("level"))? else {
            continue;
        };
        caches.highest = caches.highest.max(Some(level));
        let farther =
            level >= LLC_LEVEL && caches.last.as_ref().is_none_or(|last| level > last.level);
        if farther && holds_data(&index.join("type"))? {
            let shared = list(&index.join("shared_cpu_list"), max)?.filter(|cpus| !cpus.is_empty());
            caches.last = Some(Cache {
                level,
                id: number(&index.join("id"))?,
                shared,
            });
        }
    }
    Ok(caches)
}

fn holds_data(path: &Path) -> Result<bool, Error> {
    let known = parsed(path, "Data, Instruction or Unified", |text| match text {
        "Data" | "Unified" => Some(true),
        "Instruction" => Some(false),
        _ => None,
    });
    Ok(known?.unwrap_or(false))
}

fn read_nodes(dir: &Path, max_cpu: u32) -> Result<Option<Vec<Node>>, Error> {
    let Some(dirs) = numbered(dir, "node")? else {
        return Ok(None);
    };
    let mut nodes: Vec<Node> = Vec::with_capacity(dirs.len());
    for (&id, dir) in &dirs {
        if id > MAX_NODE {
            return Err(malformed(
                dir,
                &format!("no node above {MAX_NODE}"),
                "it exists".into(),
            ));
        }
        let path = dir.join("cpulist");
        let cpus = required_list(&path, max_cpu)?;
        for other in &nodes {
            if let Some(cpu) = cpus.iter().find(|cpu| other.cpus.contains(*cpu)) {
                let problem = format!("CPU {cpu} is also on node {}", other.id);
                return Err(malformed(&path, "CPUs of this node alone", problem));
            }
        }
        nodes.push(Node {
            id,
            cpus,
            memory_bytes: read_memory(&dir.join("meminfo"))?,
            distances: read_distances(&dir.join("distance"), &dirs)?,
        });
    }
    Ok(Some(nodes))
}

// Parses the line `Node 0 MemTotal:  6645964 kB`, among many other lines.
fn read_memory(path: &Path) -> Result<Option<u64>, Error> {
    parsed(path, "a line such as `Node 0 MemTotal: 1024 kB`", |text| {
        let line = text.lines().find(|line| line.contains("MemTotal:"))?;
        let kib: u64 = line
            .split_once("MemTotal:")?
            .1
            .trim()
            .strip_suffix("kB")?
            .trim_end()
            .parse()
            .ok()?;
        kib.checked_mul(1024)
    })
}

// A row has one number for each online node, in the order of their numbers: if numbers have gaps, column 1 may be node
// 8.
fn read_distances(path: &Path, dirs: &BTreeMap<u32, PathBuf>) -> Result<BTreeMap<u32, u32>, Error> {
    let expected = format!("{} distances, one for each online node", dirs.len());
    let row = parsed(path, &expected, |text| {
        let row: Vec<u32> = text
            .split_ascii_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        (row.len() == dirs.len()).then_some(row)
    })?;
    Ok(dirs.keys().copied().zip(row.unwrap_or_default()).collect())
}

/// Returns the entries of a folder named `<prefix><number>`, by number; `None` if there is no such folder.
fn numbered(dir: &Path, prefix: &str) -> Result<Option<BTreeMap<u32, PathBuf>>, Error> {
    let unreadable = |source| Error::Read {
        path: dir.to_path_buf(),
        source,
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if gone(&error) => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix(prefix))
            .and_then(|digits| digits.parse().ok());
        if let Some(number) = number {
            found.insert(number, entry.path());
        }
    }
    Ok(Some(found))
}

/// Reads a topology id; the kernel writes -1 for unknown.
fn id(path: &Path) -> Result<Option<u32>, Error> {
    let value = parsed(path, "an id, or -1 for unknown", |text| match text {
        "-1" => Some(None),
        text => text.parse().ok().map(Some),
    })?;
    Ok(value.flatten())
}

fn number(path: &Path) -> Result<Option<u32>, Error> {
    parsed(path, "a number", |text| text.parse().ok())
}

fn required_list(path: &Path, max: u32) -> Result<CpuList, Error> {
    list(path, max)?.ok_or_else(|| Error::Read {
        path: path.to_path_buf(),
        source: io::ErrorKind::NotFound.into(),
    })
}

fn list(path: &Path, max: u32) -> Result<Option<CpuList>, Error> {
    let Some(text) = contents(path)? else {
        return Ok(None);
    };
    CpuList::parse(&text, max)
        .map(Some)
        .map_err(|error| malformed(path, "a list of CPUs such as `0-3,8`", error.to_string()))
}

/// Applies `parse` to a file's trimmed text; `None` if there is no such file.
fn parsed<T>(
    path: &Path,
    expected: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Error> {
    let Some(text) = contents(path)? else {
        return Ok(None);
    };
    let text = text.trim();
    match parse(text) {
        Some(value) => Ok(Some(value)),
        None => Err(malformed(
            path,
            expected,
            format!("found `{}`", excerpt(text)),
        )),
    }
}

fn contents(path: &Path) -> Result<Option<String>, Error> {
    match limited(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if gone(&error) => Ok(None),
        Err(source) => Err(Error::Read {
            path: path.to_path_buf(),
            source,
        }),
    }
}

// The limit guards against a saved tree, which may hold anything. A file of sysfs is far shorter.
fn limited(path: &Path) -> io::Result<String> {
    const LIMIT: u64 = 1 << 20;
    let mut text = String::new();
    let read = File::open(path)?
        .take(LIMIT + 1)
        .read_to_string(&mut text)?;
    if read as u64 > LIMIT {
        let problem = format!("it is larger than {LIMIT} bytes");
        return Err(io::Error::other(problem));
    }
    Ok(text)
}

// Reading an open sysfs file whose device was removed fails with ENODEV.
fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

fn malformed(path: &Path, expected: &str, problem: String) -> Error {
    Error::Malformed {
        path: path.to_path_buf(),
        expected: expected.to_owned(),
        problem,
    }
}

fn sentence(error: &Error) -> String {
    match error {
        Error::Read { source, .. } => format!("{error}: {source}"),
        Error::Malformed { .. } => error.to_string(),
    }
}

//! Fuzz targets: each passes bytes to a parser of untrusted input. The parser may refuse them, but must neither panic,
//! hang nor take much memory.
//!
//! `cargo xtask fuzz` runs the targets under libFuzzer, with new inputs. `cargo test` replays the inputs of `corpus/`,
//! which holds one example of each form and every input that once broke something.

#![expect(
    clippy::missing_panics_doc,
    reason = "to panic is how a target says that something is wrong"
)]

mod node;

use std::time::{Duration, UNIX_EPOCH};

use stallscope::api::{self, Request, Timeline, Top};
use stallscope::attribution::pods::{self, PodIdentity, PodTrees};
use stallscope::attribution::{OwnerKind, attribute};
use stallscope::doctor::{Live, compare, compared_text};
use stallscope::explain;
use stallscope::host::btf::{Btf, Enumerator};
use stallscope::host::cgroup::{self, CgroupPath, Controller};
use stallscope::probe::Attach;
use stallscope::probes;
use stallscope::server::negotiate;

pub use node::node;

/// A target: its name, which is also the name of its folder in `corpus/`, and the function that takes an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 11] = [
    ("accept", accept),
    ("answers", answers),
    ("api", api),
    ("btf", btf),
    ("cgroups", cgroups),
    ("cri", cri),
    ("files", files),
    ("logs", logs),
    ("node", node),
    ("query", query),
    ("reports", reports),
];

/// Parses the `Accept` header of a scrape.
pub fn accept(data: &[u8]) {
    if let Ok(header) = str::from_utf8(data) {
        let _ = negotiate(header);
    }
}

/// Parses the answer that `stallscope top`, `explain` and `doctor` get from an agent, or from whatever else answers at
/// its address: JSON, or an exposition.
pub fn answers(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let mut live = Live::default();
    live.learn_metrics(text);
    if let Ok(report) = serde_json::from_str::<explain::Report>(text) {
        plain(&report.to_text());
    }
    let _ = serde_json::from_str::<Timeline>(text);
    if let Ok(top) = serde_json::from_str::<Top>(text) {
        for container in &top.containers {
            let _ = api::name(&container.labels);
        }
    }
    if let Ok(value) = serde_json::from_str(text) {
        live.learn_status(&value);
    }
}

/// Parses an answer of the Kubernetes API: a page of a list, a line of a watch, or an error.
pub fn api(data: &[u8]) {
    pods::api::fuzz(data);
}

/// Parses a kernel's type information (BTF), and looks up in it everything that the agent looks up.
pub fn btf(data: &[u8]) {
    let Ok(btf) = Btf::parse(data.to_vec()) else {
        return;
    };
    for controller in Controller::ALL {
        let _ = btf.layout(controller);
    }
    let _ = btf.enumerator(Enumerator::MAX_NR_ZONES);
    let _ = btf.has_quotas();
    let _ = btf.in_user_fault_bit();
    let _ = btf.page_node_shift();
    for hook in probes::attachments() {
        match hook {
            Attach::TpBtf(_, symbol) => drop(btf.tracepoint(symbol)),
            Attach::Fentry(_, symbol)
            | Attach::Fexit(_, symbol)
            | Attach::Kprobe(_, symbol)
            | Attach::Kretprobe(_, symbol) => drop(btf.function(symbol)),
            Attach::File(_) => {}
        }
    }
    let _ = btf.reduced(probes::attachments().filter_map(Attach::described));
}

/// Attributes the path of a cgroup, whose names anybody may choose, and checks the label by which it is shown.
pub fn cgroups(data: &[u8]) {
    let path = CgroupPath::new(data);
    let label = path.label().into_owned();
    assert!(!label.contains(char::is_control), "{label:?}");
    let depth = path.components().count();
    for trees in [PodTrees::Found, PodTrees::Nested] {
        for trusted in [0, depth / 2, depth] {
            let owner = attribute(&path, trusted, &trees);
            for text in [owner.group_key(), owner.short_name(), &owner.cgroup] {
                assert!(!text.contains(char::is_control), "{text:?}");
                assert!(!text.is_empty());
            }
            assert!(path.is_root() || label.starts_with(&owner.cgroup));
            let is_pod = matches!(owner.kind, OwnerKind::Pod(_));
            assert!(!is_pod || trusted > 0, "nobody but root makes a pod");
        }
    }
    let _ = PodIdentity::parse(&path);
}

/// Parses an answer of a container runtime.
pub fn cri(data: &[u8]) {
    pods::cri::fuzz(data);
}

/// Parses one of the kernel's files about cgroups: `mountinfo`, `cgroups`, `cpu.stat`, `cpu.max`.
pub fn files(data: &[u8]) {
    cgroup::fuzz(data);
}

/// Parses names of the kubelet's log directories.
pub fn logs(data: &[u8]) {
    if let Ok(listing) = str::from_utf8(data) {
        pods::files::fuzz(listing);
    }
}

/// Parses the query of a request for the history, at any time: the first eight bytes are the wall clock, in seconds
/// before or after 1970, and the rest is the query.
pub fn query(data: &[u8]) {
    let Some((clock, query)) = data.split_first_chunk() else {
        return;
    };
    let clock = i64::from_le_bytes(*clock);
    let moved = Duration::from_secs(clock.unsigned_abs());
    let system = if clock < 0 {
        UNIX_EPOCH.checked_sub(moved)
    } else {
        UNIX_EPOCH.checked_add(moved)
    };
    if let Some(system) = system
        && let Ok(request) = Request::parse(form_urlencoded::parse(query).into_owned())
    {
        api::fuzz(&request, system);
    }
}

/// Compares two reports of `stallscope doctor --json`, one per line.
pub fn reports(data: &[u8]) {
    let mut reports = data
        .split(|&byte| byte == b'\n')
        .map(serde_json::from_slice);
    if let (Some(Ok(first)), Some(Ok(second))) = (reports.next(), reports.next())
        && let Ok(differences) = compare(&first, &second)
    {
        plain(&compared_text(&differences));
    }
}

/// Asserts that a text for a terminal holds no control characters except newlines: a terminal obeys them.
fn plain(text: &str) {
    let controls = |c: char| c.is_control() && c != '\n';
    assert!(!text.contains(controls), "a terminal would obey {text:?}");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::TARGETS;

    fn names(folder: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(folder).expect("a folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        names
            .map(|name| name.into_string().expect("UTF-8"))
            .collect()
    }

    #[test]
    fn every_target_is_built_and_has_a_corpus() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let targets: BTreeSet<String> =
            TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names(&here.join("corpus")), targets);
        let programs: BTreeSet<String> = targets.iter().map(|name| format!("{name}.rs")).collect();
        assert_eq!(names(&here.join("fuzz_targets")), programs);
    }

    #[test]
    fn what_the_corpus_holds_is_read_or_refused() {
        for (name, target) in TARGETS {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("corpus")
                .join(name);
            let inputs = names(&folder);
            assert!(!inputs.is_empty(), "{name}");
            for input in inputs {
                println!("{name}/{input}");
                target(&fs::read(folder.join(input)).expect("an input"));
            }
        }
    }
}

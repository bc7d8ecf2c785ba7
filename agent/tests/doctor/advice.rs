//! Remedies of findings on nodes with malicious cgroup names: a remedy must not execute anything from a name.

use std::{collections::BTreeSet, fs, path::Path};

use stallscope::doctor::{Mend, Report};

use crate::{
    fixture::{NODES, audited, change, node, text},
    harmless::Harmless,
};

/// Malicious names. Each is the name of a cgroup that contains all others.
const NAMES: [&str; 6] = [
    "q; touch PWNED $(id)",
    "`touch PWNED` $(touch PWNED)",
    "a' > PWNED '",
    "b\" > PWNED \"",
    "-c\n> PWNED\n\x1b]0;title\x07\u{9b}2J",
    "* && touch PWNED #",
];

/// Moves all cgroups of a node into one of this name, or out of it again.
fn wrap(dir: &Path, name: &str, undo: bool) {
    let mount = dir.join("sys/fs/cgroup");
    let v2 = mount.join("cgroup.controllers").exists();
    let mounts = if v2 { vec![mount] } else { folders(&mount) };
    for mount in mounts {
        let outer = mount.join(name);
        if undo {
            for inner in folders(&outer) {
                fs::rename(&inner, mount.join(inner.file_name().unwrap())).unwrap();
            }
            fs::remove_dir_all(outer).unwrap();
        } else {
            let all = folders(&mount);
            fs::create_dir(&outer).unwrap();
            for inner in all {
                fs::rename(&inner, outer.join(inner.file_name().unwrap())).unwrap();
            }
        }
    }
}

fn folders(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.is_dir()).collect()
}

/// Returns every command of a report.
fn commands(report: &Report) -> impl Iterator<Item = String> {
    let mends = report.findings.iter().flat_map(|finding| &finding.mend);
    let commands = mends.filter_map(|mend| match mend {
        Mend::Command { run, keep } => Some([Some(run), keep.as_ref()]),
        Mend::Other { .. } => None,
    });
    commands.flatten().flatten().map(ToString::to_string)
}

/// Returns the changes of each case of the fixtures, which have every check with each severity (`cases.rs`).
fn cases() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for file in ["checks.cases", "bad.cases"] {
        for case in text(file).split("\n## ").skip(1) {
            let (head, changes) = case.split_once('\n').unwrap_or((case, ""));
            let words = head.split([' ', ':']);
            let node = words.into_iter().find(|word| NODES.contains(word)).unwrap();
            all.push((node.to_owned(), changes.to_owned()));
        }
    }
    all
}

#[test]
fn no_mend_runs_what_a_name_says() {
    let (shell, mut tried, mut wrong) = (Harmless::new(), BTreeSet::new(), Vec::new());
    let mut hostile = BTreeSet::new();
    let cases = cases();
    for name in NODES {
        let dir = node(name);
        let of_node = cases.iter().filter(|(node, _)| node == name);
        for (at, (_, changes)) in of_node.enumerate() {
            let changes = change(dir.path(), changes);
            let group = NAMES[at % NAMES.len()];
            wrap(dir.path(), group, false);
            let report = audited(dir.path());
            wrap(dir.path(), group, true);
            changes.undo();
            let shown = report.to_text(false);
            assert!(
                shown.chars().all(|c| c == '\n' || !c.is_control()),
                "{shown:?}"
            );
            for command in commands(&report) {
                if command.contains("PWNED") {
                    let check = report.findings.iter().find(|finding| {
                        let mends = finding.mend.iter();
                        mends.map(Mend::text).any(|text| text == command)
                    });
                    hostile.extend(check.map(|finding| finding.check));
                }
                if tried.insert(command.clone()) {
                    wrong.extend(shell.run(&command).err());
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // These checks have cgroup names in their commands: without them nothing would be tried. `limit-without-quota`
    // names only containers of pods, from the kubelet's own tree: nobody else names a cgroup there.
    let expected = [
        "cgroup-controllers",
        "cpu-memory-apart",
        "quota-below-one",
        "threads-over-quota",
    ];
    assert_eq!(hostile, BTreeSet::from(expected));
    assert!(tried.len() > 40, "{}", tried.len());
}

//! The page docs/expressions.md: every expression, and the conditions under which it has a result.

use std::{collections::BTreeSet, fmt::Write as _, fs};

use super::{
    asked::{Asked, everything, recorded},
    expression::names,
    needs::{LABELS, NEEDS, QUIET, needs, quiet},
    shipped::{read, root},
};

const PAGE: &str = "docs/expressions.md";
/// Environment variable that, set to anything, makes the test write the page.
const FIX: &str = "UPDATE_GOLDEN";

const HEAD: &str = "\
# Every expression

Made from the dashboards and rules by `UPDATE_GOLDEN=1 cargo test --test kernel_prometheus`; do not edit.

What panels, annotations and variables of the dashboards and the rules and alerts ask of Prometheus. The kernel test
`agent/tests/kernel_prometheus.rs` asks a Prometheus all of it, with the variables put in as Grafana does, while it
scrapes agents and stalls are caused in pods: throttling, neighbours, own threads, reclaim at a memory limit,
compaction, first touch, moves between CPUs, huge pages made by khugepaged. Each expression gives something, or is listed with what it needs, and
what is listed gives nothing where that is not so. Labels of legends, columns, links and texts are there.
";

/// Returns the whole page.
fn page() -> String {
    let mut page = HEAD.to_owned();
    let rules = recorded();
    let everything = everything();
    let mut file = "";
    let mut rest = everything.as_slice();
    while let Some(first) = rest.first() {
        let needed = where_given(first, &rules);
        let alike = |asked: &&Asked| {
            asked.file == first.file && asked.by == first.by && where_given(asked, &rules) == needed
        };
        let (rows, others) = rest.split_at(rest.iter().take_while(alike).count());
        if file != first.file {
            file = &first.file;
            let _ = write!(
                page,
                "\n## `{file}`\n\n| asked by | query | reads | gives something in the test |\n|---|---|---|---|\n"
            );
        }
        let _ = writeln!(
            page,
            "| {} | {} | {} | {needed} |",
            first.by.replace('|', "\\|"),
            letters(rows),
            series(rows)
        );
        rest = others;
    }
    page
}

fn letters(rows: &[Asked]) -> String {
    let letters: BTreeSet<&str> = rows.iter().map(|asked| asked.letter.as_str()).collect();
    letters.into_iter().collect::<Vec<_>>().join(" ")
}

fn series(rows: &[Asked]) -> String {
    let all = rows.iter().flat_map(|asked| names(&asked.expr).series);
    let all: BTreeSet<String> = all.map(|(name, _)| format!("`{name}`")).collect();
    all.into_iter().collect::<Vec<_>>().join(", ")
}

fn where_given(asked: &Asked, rules: &std::collections::BTreeMap<String, String>) -> String {
    if let Some(quiet) = quiet(&asked.place()) {
        return quiet.when.to_owned();
    }
    let needs = needs(&asked.expr, rules)
        .into_iter()
        .map(|need| format!("with {}", need.what));
    let needs: Vec<String> = needs.collect();
    if needs.is_empty() {
        "yes".to_owned()
    } else {
        needs.join(", ")
    }
}

#[test]
fn the_page_is_what_is_asked_and_listed() {
    let page = page();
    if std::env::var_os(FIX).is_some() {
        fs::write(root().join(PAGE), page).unwrap();
    } else {
        let kept = read(PAGE);
        assert!(
            kept == page,
            "{PAGE} is not what is asked; set {FIX}=1, run this again and commit it"
        );
    }
}

/// Removes all white space, which is only for readability.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect()
}

#[test]
fn every_entry_of_the_lists_is_about_something_that_is_asked() {
    let (everything, rules) = (everything(), recorded());
    for quiet in &QUIET {
        let asked = everything.iter().find(|asked| asked.place() == quiet.place);
        let asked = asked.unwrap_or_else(|| panic!("nothing is asked at {}", quiet.place));
        let part = squeezed(&asked.expr).contains(&squeezed(quiet.part));
        assert!(part, "{}: {} is no part of it", quiet.place, quiet.part);
    }
    for need in &NEEDS {
        let read = |asked: &Asked| {
            needs(&asked.expr, &rules)
                .iter()
                .any(|n| n.what == need.what)
        };
        assert!(
            everything.iter().any(read),
            "nothing asks for {:?}",
            need.series
        );
    }
    for need in &LABELS {
        let read = |asked: &Asked| {
            names(&asked.expr)
                .series
                .iter()
                .any(|(name, _)| *name == need.series)
        };
        assert!(
            everything.iter().any(read),
            "nothing asks for {}",
            need.series
        );
    }
}

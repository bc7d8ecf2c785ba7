//! The figures of `docs/cardinality.md` follow from the metric definitions.

use std::{fs, path::Path};

use stallscope::agent::{owner_families, series_bound};

const NODES: [u16; 4] = [1, 2, 4, 8];

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cardinality.md");
    fs::read_to_string(path).expect("the page is there")
}

/// Returns the rows of the page's tables that contain numbers.
fn rows(page: &str) -> Vec<Vec<String>> {
    let rows = page.lines().filter_map(|line| {
        let cells: Vec<String> = line
            .strip_prefix("| ")?
            .trim_end_matches(" |")
            .split(" | ")
            .map(str::to_owned)
            .collect();
        cells[0].parse::<u32>().is_ok().then_some(cells)
    });
    rows.collect()
}

/// Returns the number of lines about the host, by the page's formula.
fn host(nodes: u16) -> f64 {
    let nodes = f64::from(nodes);
    130.0 + 32.0 * nodes + nodes * nodes + nodes + 3.0 * (2.0 * nodes + 1.0)
}

#[test]
fn the_most_a_node_can_have_follows_from_the_bound() {
    let page = page();
    let rows = rows(&page);
    assert_eq!(rows.len(), 12, "nine rows by container, three by workload");
    for row in &rows {
        let number = |at: usize| row[at].parse::<f64>().expect("a number");
        let (owners, expected) = if row.len() == 7 {
            (number(2), number(0) * (number(1) + 1.0) + 20.0 + 3.0)
        } else {
            (number(1), number(0) + 4.0)
        };
        assert!((owners - expected).abs() < 0.5, "{row:?}");
        for (nodes, cell) in NODES.into_iter().zip(&row[row.len() - NODES.len()..]) {
            let (typical, most) = cell.split_once(" / ").expect("typical / at most");
            let [typical, most] = [typical, most].map(|n| n.parse::<f64>().expect("thousands"));
            let bound = (owners * series_bound(nodes) as f64 + host(nodes)) / 1e3;
            let rounding = if bound < 100.0 { 0.051 } else { 0.51 };
            assert!(
                (most - bound).abs() < rounding,
                "{row:?}: {most} of {bound}"
            );
            assert!(typical < most, "{row:?}");
        }
    }
}

#[test]
fn every_family_is_on_the_page_with_what_it_has() {
    let page = page();
    for family in owner_families(2) {
        let name = family.metric.name.trim_start_matches("stallscope_");
        // The page groups some names, such as `first_touch_faults_total`, `_pages_total` or `cpu_cfs_*_total`.
        let parts: Vec<&str> = name.split('_').collect();
        let short = format!("`_{}`", parts[parts.len() - 2..].join("_"));
        let group = format!("`{}_*_total`", parts[..2].join("_"));
        let there = page.lines().any(|line| {
            let pair = line.starts_with(&format!("| `{}_", parts[..2].join("_")));
            line.starts_with("| ")
                && (line.contains(&format!("`{name}`"))
                    || (pair && line.contains(&short))
                    || line.contains(&group))
        });
        assert!(there, "{name} is not on the page");
    }
}

//! The ranking as a table for pipes.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthStr as _;

use super::{
    figures::{causes_by_size, name, remote_share},
    text::safe,
};
use crate::api::Container;

const HEADER: [&str; 9] = [
    "LOST_S",
    "CPU_S",
    "CPU_LIMIT",
    "THREADS",
    "MIGRATIONS",
    "FAULTS",
    "REMOTE_%",
    "CAUSES",
    "NAME",
];

/// Columns that hold text.
const TEXT: [usize; 2] = [7, 8];

/// Returns a header and a line for each container; `-` means not measured. The name is last, because it alone has
/// spaces.
pub(super) fn table(containers: &[Container]) -> String {
    let mut lines = vec![HEADER.map(str::to_owned)];
    lines.extend(containers.iter().map(cells));
    let mut widths = [0; HEADER.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.width().max(*width);
        }
    }
    let mut out = String::new();
    for line in &lines {
        let mut text = String::new();
        for (at, (cell, width)) in line.iter().zip(widths).enumerate() {
            // Writing to a string cannot fail.
            let _ = if TEXT.contains(&at) {
                write!(text, "  {cell:<width$}")
            } else {
                write!(text, "  {cell:>width$}")
            };
        }
        out.push_str(text[2..].trim_end());
        out.push('\n');
    }
    out
}

fn cells(container: &Container) -> [String; HEADER.len()] {
    let count = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
    let share = remote_share(container).map(|share| share * 100.0);
    [
        format!("{:.3}", container.lost_seconds),
        format!("{:.3}", container.cpu_seconds),
        container
            .cpu_limit
            .map_or("-".to_owned(), |limit| format!("{limit:.2}")),
        count(container.threads),
        count(container.migrations),
        count(container.faults),
        share.map_or("-".to_owned(), |share| format!("{share:.1}")),
        causes(container),
        name(container),
    ]
}

fn causes(container: &Container) -> String {
    let causes = causes_by_size(container).into_iter();
    let texts: Vec<_> = causes
        .map(|(cause, seconds)| format!("{}={seconds:.3}", safe(cause)))
        .collect();
    if texts.is_empty() {
        "-".to_owned()
    } else {
        texts.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::top::fixture;

    #[test]
    fn a_line_each_with_stable_columns_and_no_control_characters() {
        let text = table(&fixture::busy().containers);
        fixture::assert_golden("once", &text);
        let columns = |line: &str| line.split_whitespace().count();
        let mut lines = text.lines();
        assert_eq!(lines.next().map(columns), Some(HEADER.len()));
        assert!(lines.all(|line| columns(line) >= HEADER.len()));
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
    }

    #[test]
    fn nothing_is_a_header() {
        assert_eq!(table(&[]), HEADER.join("  ") + "\n");
    }
}

//! Detail of one container: its figures, its timeline by cause, and why it lost time.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Modifier, Style},
    text::{Line, Text},
    widgets::Sparkline,
};

use super::palette::look;
use crate::{
    api::{self, Container, Timeline},
    commands::top::{
        app::App,
        figures::{remote_share, stretches},
        text::{bytes, clip, cpus, percent, safe, seconds},
    },
};

/// Number of cells before a graph, for its label and sum.
const LABEL: u16 = 24;

/// Draws the container, and limits scrolling to the end of the report.
pub(super) fn draw(frame: &mut Frame, app: &mut App, area: Rect) {
    let Some(detail) = &app.detail else { return };
    let figures = figures(app.looked_at());
    let mut figures = wrapped(&figures, usize::from(area.width));
    figures.truncate(3);
    let head = figures.len() as u16;
    let (series, text) = match &detail.answer {
        None => (Vec::new(), "No answer yet.".to_owned()),
        Some(Err(why)) => (Vec::new(), why.clone()),
        Some(Ok((timeline, report))) => (series(timeline), report.to_text()),
    };
    // At least half of the screen is for text.
    let graphs = (series.len() as u16).min(area.height.saturating_sub(head + 1) / 2);
    let scale = u16::from(graphs > 0);
    let rows = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(head),
        Constraint::Length(graphs),
        Constraint::Length(scale),
        Constraint::Min(0),
    ]);
    let [name_row, head_row, graph_rows, axis_row, words] = rows.areas(area);
    let name = clip(&safe(&api::name(&detail.labels)), usize::from(area.width));
    frame.render_widget(Line::styled(name, Modifier::REVERSED), name_row);
    frame.render_widget(figures.into_iter().collect::<Text>(), head_row);
    if let Some(Ok((timeline, _))) = &detail.answer {
        let most = most(&series);
        for (each, row) in series.iter().zip(graph_rows.rows()) {
            graph(frame, each, most, row, app.colour);
        }
        axis(frame, timeline, most, axis_row);
    }
    let lines = wrapped(&text, usize::from(words.width));
    let last = lines.len().saturating_sub(usize::from(words.height));
    let first = detail.scroll.min(last);
    let shown = lines.into_iter().skip(first).map(Line::raw);
    frame.render_widget(shown.collect::<Text>(), words);
    if let Some(detail) = &mut app.detail {
        detail.scroll = first;
    }
}

/// Formats the container's figures from the ranking.
fn figures(container: Option<&Container>) -> String {
    let Some(container) = container else {
        return "It neither lost time nor ran in this window.".to_owned();
    };
    let mut parts = vec![
        format!("lost {}", seconds(container.lost_seconds)),
        format!("on CPUs {}", seconds(container.cpu_seconds)),
    ];
    parts.extend(
        container
            .cpu_limit
            .map(|limit| format!("CPU limit {}", cpus(limit))),
    );
    parts.extend(
        container
            .threads
            .map(|threads| format!("{threads} threads")),
    );
    parts.extend(container.migrations.map(|moves| {
        let between = container.migrations_between_nodes;
        let between = between.map_or(String::new(), |n| format!(", {n} to another node"));
        format!("{moves} moves{between}")
    }));
    parts.extend(container.faults.map(|faults| {
        let remote = remote_share(container);
        let remote = remote.map_or(String::new(), |share| {
            format!(", {} remote", percent(share))
        });
        format!("{faults} page faults{remote}")
    }));
    if container.cpu_by_node.len() > 1 {
        let nodes = container.cpu_by_node.iter();
        let nodes = nodes.map(|(node, s)| format!("{} {}", safe(node), seconds(*s)));
        parts.push(format!(
            "CPU by node {}",
            nodes.collect::<Vec<_>>().join(" ")
        ));
    }
    if let Some(nodes) = &container.memory_by_node {
        let nodes = nodes
            .iter()
            .map(|(node, size)| format!("{} {}", safe(node), bytes(*size)));
        parts.push(format!(
            "memory by node {}",
            nodes.collect::<Vec<_>>().join(" ")
        ));
    }
    parts.join(" · ")
}

struct Series<'a> {
    cause: &'a str,
    values: &'a [Option<f64>],
    sum: f64,
}

/// Returns the causes in descending order of their sums, and CPU time last.
fn series(timeline: &Timeline) -> Vec<Series<'_>> {
    let sum = |values: &[Option<f64>]| values.iter().copied().flatten().sum();
    let causes = timeline.causes.iter().map(|(cause, values)| Series {
        cause,
        values,
        sum: sum(values),
    });
    let mut all: Vec<_> = causes.collect();
    all.sort_by(|a, b| b.sum.total_cmp(&a.sum).then(a.cause.cmp(b.cause)));
    all.push(Series {
        cause: "cpu",
        values: &timeline.cpu_seconds,
        sum: sum(&timeline.cpu_seconds),
    });
    all
}

/// Returns the highest value of all series: all graphs have one scale.
fn most(series: &[Series]) -> f64 {
    let values = series
        .iter()
        .flat_map(|each| each.values.iter().copied().flatten());
    values.fold(0.0, f64::max)
}

fn graph(frame: &mut Frame, series: &Series, most: f64, row: Rect, colour: bool) {
    let [label, graph] = beside(row);
    let text = format!("{:<15} {:>8}", safe(series.cause), seconds(series.sum));
    frame.render_widget(Line::raw(text), label);
    // A cell has eight steps of height; rounding up makes every value above 0 visible.
    #[expect(clippy::cast_sign_loss, reason = "a cast saturates")]
    let height = |value: f64| (value / most.max(f64::MIN_POSITIVE) * 8.0).ceil() as u64;
    let bars = stretches(series.values, usize::from(graph.width)).into_iter();
    let style = match series.cause {
        "cpu" => Style::new(),
        cause => look(cause).style(colour),
    };
    let line = Sparkline::default()
        .data(bars.map(|value| value.map(height)))
        .absent_value_symbol("·")
        .max(8)
        .style(style);
    frame.render_widget(line, graph);
}

/// Draws the axis: start and end of the graphs, and their scale.
fn axis(frame: &mut Frame, timeline: &Timeline, most: f64, row: Rect) {
    let dim = Style::new().add_modifier(Modifier::DIM);
    let highest = format!("up to {} a second", seconds(most / timeline.step_seconds));
    let length = timeline.steps as f64 * timeline.step_seconds;
    let start = format!("{length:.0} s ago, · is not recorded");
    let [label, graph] = beside(row);
    frame.render_widget(Line::styled(highest, dim), label);
    frame.render_widget(Line::styled("now", dim).right_aligned(), graph);
    frame.render_widget(Line::styled(start, dim), graph);
}

/// Splits a row into a label and a graph.
fn beside(row: Rect) -> [Rect; 2] {
    let columns = Layout::horizontal([Constraint::Length(LABEL), Constraint::Min(0)]);
    columns.spacing(1).areas(row)
}

/// Wraps a text into lines of at most `width` cells; continuation lines have the indent of their line.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let line = |line: &str| {
        let line = safe(line);
        let indent = " ".repeat(line.len() - line.trim_start_matches([' ', '-', '>']).len());
        let indent = if indent.len() * 2 > width {
            ""
        } else {
            &indent
        };
        let options = textwrap::Options::new(width.max(1)).subsequent_indent(indent);
        let lines = textwrap::wrap(&line, options).into_iter();
        lines.map(std::borrow::Cow::into_owned).collect::<Vec<_>>()
    };
    text.lines().flat_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_break_under_their_own_beginning() {
        let text = "a summary of some length\n\n    - evidence of some length\nx\x1b[2J";
        let expected = [
            "a summary of",
            "some length",
            "",
            "    - evidence",
            "      of some",
            "      length",
            r"x\x1b[2J",
        ];
        assert_eq!(wrapped(text, 14), expected);
        for width in 0..6 {
            assert!(wrapped(text, width).len() >= expected.len());
        }
    }
}

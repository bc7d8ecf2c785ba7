//! The ranking.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Modifier, Style},
    text::{Line, Span, Text},
    widgets::{Cell, Row, Table},
};

use super::palette::look;
use crate::{
    api::Container,
    commands::top::{
        app::App,
        figures::{causes_by_size, name, remote_share, split},
        sort::{Sort, causes},
        text::{clip, count, cpus, percent, safe, seconds},
    },
};

/// A column of the ranking.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Column {
    Name,
    Lost,
    Cpu,
    Split,
    Causes,
    Limit,
    Threads,
    Moves,
    Remote,
}

use Column::{Causes, Cpu, Limit, Lost, Moves, Name, Remote, Split, Threads};

/// Columns from left to right.
const ORDER: [Column; 9] = [
    Name, Lost, Cpu, Split, Causes, Limit, Threads, Moves, Remote,
];

/// Columns by importance: when the width is too small, the last ones are left out first.
const IMPORTANCE: [Column; 9] = [
    Name, Lost, Split, Causes, Cpu, Limit, Threads, Moves, Remote,
];

impl Column {
    const fn title(self) -> &'static str {
        match self {
            Name => "name",
            Lost => "lost",
            Cpu => "cpu",
            Split => "split",
            Causes => "causes",
            Limit => "limit",
            Threads => "threads",
            Moves => "moves",
            Remote => "remote",
        }
    }

    /// Returns the minimum width at which the column is useful.
    const fn least(self) -> u16 {
        match self {
            Name => 20,
            Lost | Cpu | Threads => 7,
            Split => 12,
            Causes => 28,
            Limit | Moves => 5,
            Remote => 11,
        }
    }

    const fn alignment(self) -> Alignment {
        match self {
            Name | Split | Causes => Alignment::Left,
            _ => Alignment::Right,
        }
    }

    /// Returns the column that shows the quantity sorted by.
    const fn of(sort: Sort) -> Self {
        match sort {
            Sort::Lost => Lost,
            Sort::Cpu => Cpu,
            Sort::Migrations => Moves,
            Sort::Remote => Remote,
            Sort::Cause(_) => Causes,
        }
    }
}

/// Returns the columns that fit, with their widths. The name takes the width it needs of the rest, the causes take what
/// remains.
fn columns(width: u16, longest: usize, sort: Sort) -> Vec<(Column, u16)> {
    let sorted = Column::of(sort);
    let mut order = IMPORTANCE.to_vec();
    order.retain(|column| *column != sorted);
    order.insert(1, sorted);
    // A short name with its time lost is more useful than a long name alone.
    let shortest = Name
        .least()
        .min(width.saturating_sub(Lost.least() + 1).max(8))
        .min(width);
    let mut left = width - shortest;
    let mut fitting = vec![Name];
    for column in order.into_iter().skip(1) {
        match left.checked_sub(column.least() + 1) {
            Some(rest) => {
                left = rest;
                fitting.push(column);
            }
            None if column == sorted => {}
            None => break,
        }
    }
    let causes = fitting.contains(&Causes);
    let wanted = u16::try_from(longest).unwrap_or(u16::MAX);
    let name = if causes {
        wanted.saturating_sub(shortest).min(left)
    } else {
        left
    };
    let widths = ORDER.into_iter().filter(|column| fitting.contains(column));
    widths
        .map(|column| match column {
            Name => (column, shortest + name),
            Causes => (column, column.least() + left - name),
            _ => (column, column.least()),
        })
        .collect()
}

/// Draws the ranking, with the legend of colours below.
pub(super) fn draw(frame: &mut Frame, app: &mut App, area: Rect) {
    let legend = legend(app);
    let height = u16::from(!legend.spans.is_empty() && area.height > 3);
    let rows = Layout::vertical([Constraint::Min(0), Constraint::Length(height)]);
    let [area, below] = rows.areas(area);
    frame.render_widget(legend, below);
    let shown = app.shown();
    if shown.is_empty() {
        frame.render_widget(Line::raw(nothing(app)), area);
        return;
    }
    let names: Vec<String> = shown.iter().map(|container| name(container)).collect();
    let longest = names.iter().map(|name| Span::raw(name).width()).max();
    let columns = columns(area.width, longest.unwrap_or(0), app.choice.sort);
    let most = shown.iter().map(|c| c.lost_seconds).fold(0.0, f64::max);
    let rows: Vec<Row> = shown
        .iter()
        .zip(&names)
        .map(|(container, name)| {
            let cells = columns.iter().map(|(column, width)| {
                let line = cell(*column, container, name, most, usize::from(*width), app);
                Cell::from(Text::from(line.alignment(column.alignment())))
            });
            Row::new(cells)
        })
        .collect();
    let header = columns.iter().map(|(column, _)| {
        let sorted = *column == Column::of(app.choice.sort);
        let title = if sorted && *column == Causes {
            app.choice.sort.name()
        } else {
            column.title()
        };
        let modifier = if sorted {
            Modifier::UNDERLINED
        } else {
            Modifier::empty()
        };
        Cell::from(Line::styled(title, modifier).alignment(column.alignment()))
    });
    let header = Row::new(header).style(Style::new().add_modifier(Modifier::BOLD));
    let widths = columns.iter().map(|(_, width)| Constraint::Length(*width));
    let table = Table::new(rows, widths)
        .header(header)
        .column_spacing(1)
        .row_highlight_style(Modifier::REVERSED);
    frame.render_stateful_widget(table, area, &mut app.table);
}

fn nothing(app: &App) -> String {
    match &app.top {
        None => "No answer yet.".to_owned(),
        Some(top) if top.containers.is_empty() => {
            "Nothing lost time or took CPU time in this window.".to_owned()
        }
        Some(top) => format!(
            "None of {} has `{}` in its name: / changes that, Esc shows all.",
            top.containers.len(),
            safe(&app.choice.filter)
        ),
    }
}

fn cell(
    column: Column,
    container: &Container,
    name: &str,
    most: f64,
    width: usize,
    app: &App,
) -> Line<'static> {
    let known = |text: Option<String>| Line::raw(text.unwrap_or_else(|| "-".to_owned()));
    match column {
        Name => Line::raw(clip(name, width)),
        Lost => Line::raw(seconds(container.lost_seconds)),
        Cpu => Line::raw(seconds(container.cpu_seconds)),
        Split => {
            let parts = split(container, most, width).into_iter();
            let cells = parts.map(|(cause, cells)| look(cause).cells(cells, app.colour));
            cells.collect()
        }
        Causes => biggest(container, width, app),
        Limit => known(container.cpu_limit.map(cpus)),
        Threads => known(container.threads.map(count)),
        Moves => known(container.migrations.map(count)),
        Remote => {
            let share = remote_share(container).map(percent);
            let all = container.remote_faults.map(count);
            known(all.map(|all| match share {
                Some(share) => format!("{all} {share:>5}"),
                None => all,
            }))
        }
    }
}

/// Returns as many causes as fit: the one sorted by first, then in descending order.
fn biggest(container: &Container, width: usize, app: &App) -> Line<'static> {
    let mut causes = causes_by_size(container);
    if let Sort::Cause(first) = app.choice.sort {
        // The sort is stable: the others keep their order.
        causes.sort_by_key(|(cause, _)| *cause != first);
    }
    let mut line = Line::default();
    for (cause, lost) in causes {
        let text = format!("{} {}", safe(cause), seconds(lost));
        let gap = if line.spans.is_empty() { "" } else { "  " };
        if line.width() + gap.len() + Span::raw(&text).width() > width && !line.spans.is_empty() {
            break;
        }
        line.push_span(gap);
        line.push_span(Span::styled(text, look(cause).style(app.colour)));
    }
    line
}

/// Returns the legend of the bars' colours or letters, in descending order of time lost.
fn legend(app: &App) -> Line<'static> {
    let shown = app.shown();
    let lost = |cause: &str| {
        shown
            .iter()
            .filter_map(|c| c.causes.get(cause))
            .sum::<f64>()
    };
    let mut causes: Vec<_> = causes().map(|cause| (cause, lost(cause))).collect();
    causes.retain(|(_, lost)| *lost > 0.0);
    causes.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut line = Line::default();
    for (cause, _) in causes {
        line.push_span(look(cause).cells(1, app.colour));
        line.push_span(format!(" {cause}  "));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(width: u16, sort: Sort) -> Vec<Column> {
        let columns = columns(width, 30, sort);
        let used: u16 = columns.iter().map(|(_, width)| width + 1).sum();
        assert!(used <= width.max(1) + 1, "{columns:?} in {width}");
        columns.into_iter().map(|(column, _)| column).collect()
    }

    #[test]
    fn columns_leave_in_the_order_of_their_importance() {
        assert_eq!(names(120, Sort::Lost), ORDER);
        assert_eq!(names(100, Sort::Lost), ORDER[..8]);
        assert_eq!(names(80, Sort::Lost), [Name, Lost, Cpu, Split, Causes]);
        assert_eq!(names(60, Sort::Lost), [Name, Lost, Split]);
        assert_eq!(names(40, Sort::Lost), [Name, Lost]);
        assert_eq!(names(16, Sort::Lost), [Name, Lost]);
        assert_eq!(names(15, Sort::Lost), [Name]);
        assert_eq!(names(0, Sort::Lost), [Name]);
    }

    #[test]
    fn what_is_sorted_by_stays() {
        assert_eq!(names(32, Sort::Remote), [Name, Remote]);
        assert_eq!(names(28, Sort::Cpu), [Name, Cpu]);
        assert_eq!(names(50, Sort::Cause("own")), [Name, Causes]);
        assert_eq!(names(60, Sort::Migrations), [Name, Lost, Split, Moves]);
        // If the sorted column has no room at all, the others stay.
        assert_eq!(names(40, Sort::Cause("own")), [Name, Lost]);
    }
}

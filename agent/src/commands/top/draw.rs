//! The screen: a title, a line of state, the ranking or one container, and the keys.

mod detail;
mod list;
mod palette;

use std::time::Instant;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph},
};

use super::{
    app::App,
    text::{bytes, safe, seconds},
};

/// Draws the whole screen.
pub(super) fn screen(frame: &mut Frame, app: &mut App, now: Instant) {
    let rows = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ]);
    let [title_row, state_row, main, keys_row] = rows.areas(frame.area());
    frame.render_widget(title(app), title_row);
    frame.render_widget(state(app, now), state_row);
    if app.detail.is_some() {
        detail::draw(frame, app, main);
    } else {
        list::draw(frame, app, main);
    }
    frame.render_widget(keys(app), keys_row);
    if app.help {
        help(frame);
    }
}

fn title(app: &App) -> Line<'static> {
    let mut parts = vec![format!("stallscope {}", safe(&app.agent))];
    if let Some(top) = &app.top {
        let recorded = if top.recorded_seconds < top.window_seconds {
            format!(" ({:.0} s recorded)", top.recorded_seconds)
        } else {
            String::new()
        };
        let window = format!("last {:.0} s{recorded}", top.window_seconds);
        let (shown, all) = (app.shown().len(), top.containers.len());
        let number = if shown == all {
            all.to_string()
        } else {
            format!("{shown} of {all}")
        };
        parts.extend([window, number]);
    }
    parts.push(format!("by {}", app.choice.sort.name()));
    if !app.choice.filter.is_empty() {
        parts.push(format!("/{}", safe(&app.choice.filter)));
    }
    Line::styled(parts.join(" · "), Modifier::BOLD)
}

/// Returns the reason why the agent does not answer, else the sums over its answer.
fn state(app: &App, now: Instant) -> Line<'static> {
    if let Some(why) = &app.failure {
        let age = app.answered.map(|at| now.saturating_duration_since(at));
        let age = age.map_or(String::new(), |age| {
            format!("Figures are {} s old: ", age.as_secs())
        });
        let style = if app.colour {
            Style::new().fg(Color::Red)
        } else {
            Style::new()
        };
        return Line::styled(age + &safe(why), style.add_modifier(Modifier::REVERSED));
    }
    let Some(top) = &app.top else {
        return Line::default();
    };
    let sum = |of: fn(&crate::api::Container) -> f64| top.containers.iter().map(of).sum();
    let (lost, cpu): (f64, f64) = (sum(|c| c.lost_seconds), sum(|c| c.cpu_seconds));
    let (agent, memory) = (
        seconds(top.agent.cpu_seconds),
        bytes(top.agent.resident_bytes),
    );
    let mut parts = vec![format!(
        "lost {}, on CPUs {}; the agent {agent}, {memory}",
        seconds(lost),
        seconds(cpu)
    )];
    let ran = top.daemons.iter().filter(|daemon| daemon.cpu_seconds > 0.0);
    parts.extend(ran.map(|daemon| {
        let name = format!("{}{}", daemon.daemon, daemon.node);
        format!("{} {}", safe(&name), seconds(daemon.cpu_seconds))
    }));
    Line::raw(parts.join("; "))
}

fn keys(app: &App) -> Line<'static> {
    if app.typing.is_some() {
        let text = format!("names with: {}", safe(&app.choice.filter));
        let cursor = Span::styled(" ", Modifier::REVERSED);
        return Line::from(vec![text.into(), cursor, "  Enter keep  Esc undo".into()]);
    }
    let text = if app.detail.is_some() {
        "q quit  ← back  ? help  w window  ↑↓ scroll"
    } else {
        "q quit  Enter why  ? help  s sort  / filter  w window  ↑↓ select"
    };
    Line::styled(text, Modifier::DIM)
}

const HELP: &str = "\
↑ ↓  j k      select, scroll
PgUp PgDn     ten lines
Home End      first, last
Enter  →      why this one lost time
Esc  ←        back; on the list: no filter
s  S          sort by the next, the last
/             show names that contain a text
w  W          next window, last window
q             quit

lost    kept from running while ready to
cpu     time on CPUs
split   lost time by cause, to scale
limit   CPUs' worth of quota
moves   tasks moved to another CPU
remote  page faults on another NUMA node
-       not measured, or there is none";

fn help(frame: &mut Frame) {
    let lines = HELP.lines().count() as u16;
    let area = centred(frame.area(), 48, lines + 2);
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(" Keys ");
    frame.render_widget(Paragraph::new(HELP).block(block), area);
}

fn centred(area: Rect, width: u16, height: u16) -> Rect {
    area.centered(Constraint::Max(width), Constraint::Max(height))
}

#[cfg(test)]
mod tests;

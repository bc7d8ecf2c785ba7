//! Tests of whole screens against golden files.

use std::{fmt::Write as _, time::Duration};

use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Buffer,
    crossterm::event::{KeyCode, KeyEvent},
};

use super::*;
use crate::{
    api::Top,
    commands::top::{
        app::{Choice, Wish},
        feed::Answer,
        fixture,
        sort::Sort,
    },
};

fn app(top: Option<Top>, colour: bool) -> App {
    let choice = Choice {
        sort: Sort::Lost,
        filter: String::new(),
        window: "60s".to_owned(),
    };
    let mut app = App::new("127.0.0.1:9750".to_owned(), choice, colour);
    if let Some(top) = top {
        answer(&mut app, Ok(top), Instant::now());
    }
    app
}

fn answer(app: &mut App, top: Result<Top, String>, now: Instant) {
    let question = app.question();
    let detail = question.labels.as_ref().map(|_| Ok(fixture::detail()));
    app.take(
        Answer {
            question,
            top,
            detail,
        },
        now,
    );
}

fn press(app: &mut App, codes: &[KeyCode]) -> Vec<Wish> {
    let press = |code: &KeyCode| app.key(KeyEvent::from(*code));
    codes.iter().map(press).collect()
}

fn draw(app: &mut App, (width, height): (u16, u16), now: Instant) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal
        .draw(|frame| screen(frame, app, now))
        .expect("it draws");
    terminal.backend().buffer().clone()
}

/// Returns the text on the screen, line by line.
fn words(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let mut out = String::new();
    for row in buffer.content.chunks(width) {
        let mut skip = 0;
        let mut line = String::new();
        for cell in row {
            // A wide character covers the cell after it.
            if skip == 0 {
                line.push_str(cell.symbol());
            }
            skip = Span::raw(cell.symbol()).width().max(skip).saturating_sub(1);
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// Returns the colours and modifiers that differ from the default, by line and column.
fn styles(buffer: &Buffer) -> String {
    let mut out = String::new();
    let mut last = None;
    for (at, cell) in buffer.content.iter().enumerate() {
        let style = (cell.fg, cell.modifier);
        let column = at % usize::from(buffer.area.width);
        if last != Some(style) || column == 0 {
            if style != (Color::Reset, Modifier::empty()) {
                let line = at / usize::from(buffer.area.width);
                let _ = writeln!(out, "{line}:{column} {:?} {:?}", cell.fg, cell.modifier);
            }
            last = Some(style);
        }
    }
    out
}

fn golden(name: &str, app: &mut App, size: (u16, u16)) {
    let buffer = draw(app, size, Instant::now());
    fixture::assert_golden(name, &words(&buffer));
}

#[test]
fn a_busy_node() {
    let mut app = app(Some(fixture::busy()), true);
    let buffer = draw(&mut app, (120, 14), Instant::now());
    fixture::assert_golden("busy", &(words(&buffer) + &styles(&buffer)));
    golden("busy-80", &mut app, (80, 24));
    press(
        &mut app,
        &[KeyCode::Char('s'), KeyCode::Char('s'), KeyCode::Char('s')],
    );
    golden("busy-80-remote", &mut app, (80, 24));
}

#[test]
fn without_colours_causes_are_letters() {
    let mut app = app(Some(fixture::busy()), false);
    answer(&mut app, Err("no agent answers".to_owned()), Instant::now());
    let buffer = draw(&mut app, (100, 14), Instant::now());
    fixture::assert_golden("no-colour", &words(&buffer));
    assert!(buffer.content.iter().all(|cell| cell.fg == Color::Reset));
    assert!(buffer.content.iter().all(|cell| cell.bg == Color::Reset));
}

#[test]
fn narrow_screens_keep_what_matters() {
    let mut app = app(Some(fixture::busy()), true);
    golden("narrow", &mut app, (44, 12));
    // The cut falls between two wide characters of the sixth name.
    golden("narrowest", &mut app, (17, 9));
}

#[test]
fn a_node_at_rest() {
    let mut top = fixture::busy();
    top.containers.clear();
    top.daemons.clear();
    (top.window_seconds, top.recorded_seconds) = (60.0, 7.0);
    golden("idle", &mut app(Some(top), true), (80, 8));
    golden("no-answer", &mut app(None, true), (80, 8));
}

#[test]
fn a_filter_that_nothing_has() {
    let mut app = app(Some(fixture::busy()), true);
    press(
        &mut app,
        &[KeyCode::Char('/'), KeyCode::Char('z'), KeyCode::Char('q')],
    );
    golden("filter", &mut app, (80, 8));
}

#[test]
fn an_agent_that_is_gone_leaves_its_last_figures() {
    let start = Instant::now();
    let mut app = app(None, true);
    answer(&mut app, Ok(fixture::busy()), start);
    let gone = "no agent answers at 127.0.0.1:9750: Connection refused (os error 111)";
    answer(
        &mut app,
        Err(gone.to_owned()),
        start + Duration::from_secs(4),
    );
    let buffer = draw(&mut app, (80, 10), start + Duration::from_secs(14));
    fixture::assert_golden("gone", &words(&buffer));
    answer(
        &mut app,
        Ok(fixture::busy()),
        start + Duration::from_secs(16),
    );
    let back = words(&draw(&mut app, (80, 10), start + Duration::from_secs(16)));
    assert!(!back.contains("no agent answers"), "{back}");
}

#[test]
fn one_container() {
    let mut app = app(Some(fixture::busy()), true);
    assert_eq!(press(&mut app, &[KeyCode::Enter]), [Wish::Ask]);
    golden("detail-waiting", &mut app, (80, 10));
    answer(&mut app, Ok(fixture::busy()), Instant::now());
    golden("detail", &mut app, (80, 24));
    golden("detail-narrow", &mut app, (40, 20));
    press(&mut app, &[KeyCode::End]);
    golden("detail-end", &mut app, (80, 14));
    // Home scrolls back to the start, and Up stays there.
    press(&mut app, &[KeyCode::Home, KeyCode::Up]);
    let top = words(&draw(&mut app, (80, 14), Instant::now()));
    assert!(top.contains("shop/cart-0 server lost 12.7 s"), "{top}");
}

#[test]
fn the_keys() {
    let mut app = app(Some(fixture::busy()), true);
    press(&mut app, &[KeyCode::Char('?')]);
    golden("help", &mut app, (80, 24));
}

#[test]
fn no_size_is_too_small_and_no_figure_too_strange() {
    let mut top = fixture::busy();
    for (at, value) in [f64::MAX, -1.0, f64::MIN_POSITIVE].into_iter().enumerate() {
        top.containers[at].lost_seconds = value;
        top.containers[at].causes.insert("own".to_owned(), value);
        top.containers[at].cpu_limit = Some(value);
        top.containers[at].migrations = Some(u64::MAX);
        top.containers[at].remote_faults = Some(u64::MAX);
    }
    let (mut timeline, report) = fixture::detail();
    timeline
        .causes
        .insert("host".to_owned(), vec![Some(f64::MAX), None, Some(-1.0)]);
    timeline.cpu_seconds.clear();
    for keys in [&[][..], &[KeyCode::Char('?')], &[KeyCode::Enter]] {
        let mut app = app(Some(top.clone()), true);
        press(&mut app, keys);
        for width in [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 25, 41, 60, 200] {
            for height in [0, 1, 2, 3, 4, 5, 7, 12] {
                if let Some(detail) = &mut app.detail {
                    detail.answer = Some(Ok((timeline.clone(), report.clone())));
                }
                draw(&mut app, (width, height), Instant::now());
            }
        }
    }
}

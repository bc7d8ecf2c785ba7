//! Tests of keys and answers, without a terminal.

use super::*;
use crate::{api, commands::top::fixture};

fn app() -> App {
    let choice = Choice {
        sort: Sort::Lost,
        filter: String::new(),
        window: "60s".to_owned(),
    };
    let mut app = App::new("here".to_owned(), choice, true);
    answer(&mut app, Ok(fixture::busy()));
    app
}

fn answer(app: &mut App, top: Result<Top, String>) {
    let question = app.question();
    let detail = question.labels.as_ref().map(|_| Ok(fixture::detail()));
    let answer = Answer {
        question,
        top,
        detail,
    };
    app.take(answer, Instant::now());
}

fn press(app: &mut App, code: KeyCode) -> Wish {
    app.key(KeyEvent::from(code))
}

fn type_in(app: &mut App, text: &str) {
    for c in text.chars() {
        assert_eq!(press(app, KeyCode::Char(c)), Wish::Draw);
    }
}

/// Returns the name of the selected container.
fn selected(app: &App) -> String {
    let line = app.table.selected().expect("a line");
    api::name(&app.shown()[line].labels)
}

fn names(app: &App) -> Vec<String> {
    app.shown()
        .iter()
        .map(|each| api::name(&each.labels))
        .collect()
}

#[test]
fn the_selection_stays_with_its_container() {
    let mut app = app();
    assert_eq!(selected(&app), "shop/cart-0 server");
    // The user has selected nothing yet, so the first line is selected, whichever container it shows.
    let mut other = fixture::busy();
    other.containers[0].lost_seconds = 0.0;
    answer(&mut app, Ok(other.clone()));
    assert_eq!(app.table.selected(), Some(0));
    assert!(selected(&app).starts_with("analytics"));
    press(&mut app, KeyCode::Down);
    let chosen = selected(&app);
    press(&mut app, KeyCode::Char('s'));
    assert_eq!(app.choice.sort, Sort::Cpu);
    assert_eq!(selected(&app), chosen);
    // When the selected container is gone, its line stays selected.
    let line = app.table.selected();
    other
        .containers
        .retain(|each| api::name(&each.labels) != chosen);
    answer(&mut app, Ok(other));
    assert_eq!(app.table.selected(), line);
    answer(&mut app, Ok(fixture::busy()));
    assert_eq!(selected(&app), chosen);
}

#[test]
fn moving_ends_at_both_ends() {
    let mut app = app();
    let last = app.shown().len() - 1;
    for (code, line) in [
        (KeyCode::Up, 0),
        (KeyCode::Char('j'), 1),
        (KeyCode::Char('k'), 0),
        (KeyCode::PageDown, last),
        (KeyCode::Down, last),
        (KeyCode::Home, 0),
        (KeyCode::Char('G'), last),
        (KeyCode::PageUp, 0),
    ] {
        assert_eq!(press(&mut app, code), Wish::Draw);
        assert_eq!(app.table.selected(), Some(line), "{code:?}");
    }
}

#[test]
fn an_empty_list_has_no_selection_and_opens_nothing() {
    let mut app = app();
    let mut none = fixture::busy();
    none.containers.clear();
    answer(&mut app, Ok(none));
    for code in [
        KeyCode::Down,
        KeyCode::End,
        KeyCode::Enter,
        KeyCode::Char('s'),
    ] {
        assert_eq!(press(&mut app, code), Wish::Draw);
        assert_eq!(app.table.selected(), None);
        assert!(app.detail.is_none());
    }
}

#[test]
fn a_filter_is_seen_while_it_is_typed_and_can_be_undone() {
    let mut app = app();
    type_in(&mut app, "/SHOP");
    assert_eq!(
        names(&app),
        ["shop/cart-0 server", "shop/search-7c9d5b6f7-x2x9k"]
    );
    // While the user types a filter, keys are letters.
    type_in(&mut app, "q?");
    assert!(names(&app).is_empty());
    press(&mut app, KeyCode::Backspace);
    press(&mut app, KeyCode::Backspace);
    assert_eq!(press(&mut app, KeyCode::Enter), Wish::Draw);
    assert_eq!(names(&app).len(), 2);
    type_in(&mut app, "/x");
    press(&mut app, KeyCode::Esc);
    assert_eq!(app.choice.filter, "SHOP");
    press(&mut app, KeyCode::Esc);
    assert_eq!(names(&app).len(), fixture::busy().containers.len());
}

#[test]
fn control_keys_end_and_clear_even_while_typing() {
    let mut app = app();
    type_in(&mut app, "/abc");
    app.key(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL));
    assert_eq!(app.choice.filter, "");
    let end = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(app.key(end), Wish::Quit);
}

#[test]
fn another_window_is_asked_for_and_answers_of_the_last_are_too_late() {
    let mut app = app();
    let late = app.question();
    assert_eq!(press(&mut app, KeyCode::Char('w')), Wish::Ask);
    assert_eq!(app.choice.window, "5m");
    let mut top = fixture::busy();
    top.containers.clear();
    let answer_late = Answer {
        question: late,
        top: Ok(top),
        detail: None,
    };
    app.take(answer_late, Instant::now());
    assert!(!app.shown().is_empty());
    press(&mut app, KeyCode::Char('W'));
    press(&mut app, KeyCode::Char('W'));
    assert_eq!(app.choice.window, "10s");
    press(&mut app, KeyCode::Char('W'));
    assert_eq!(app.choice.window, "1h");
    app.choice.window = "90s".to_owned();
    press(&mut app, KeyCode::Char('w'));
    assert_eq!(app.choice.window, "60s");
}

#[test]
fn a_refusal_is_shown_beside_the_last_figures() {
    let mut app = app();
    answer(&mut app, Err("longer than what is kept".to_owned()));
    assert_eq!(app.failure.as_deref(), Some("longer than what is kept"));
    assert!(!app.shown().is_empty());
    answer(&mut app, Ok(fixture::busy()));
    assert_eq!(app.failure, None);
}

#[test]
fn one_container_is_opened_asked_for_scrolled_and_left() {
    for (open, back) in [
        (KeyCode::Enter, KeyCode::Esc),
        (KeyCode::Right, KeyCode::Left),
    ] {
        let mut app = app();
        press(&mut app, KeyCode::Down);
        assert_eq!(press(&mut app, open), Wish::Ask);
        let labels = app.question().labels.expect("it is asked for");
        assert_eq!(labels, app.looked_at().expect("it is there").labels);
        answer(&mut app, Ok(fixture::busy()));
        press(&mut app, KeyCode::Down);
        let detail = app.detail.as_ref().expect("it is open");
        assert!(matches!(detail.answer, Some(Ok(_))));
        assert_eq!(detail.scroll, 1);
        // Known details stay when the agent is gone.
        answer(&mut app, Err("gone".to_owned()));
        let known = app
            .detail
            .as_ref()
            .and_then(|detail| detail.answer.as_ref());
        assert!(matches!(known, Some(Ok(_))));
        assert_eq!(press(&mut app, back), Wish::Draw);
        assert!(app.detail.is_none());
        assert_eq!(app.question().labels, None);
    }
}

#[test]
fn an_answer_about_another_container_is_not_taken_for_this_one() {
    let mut app = app();
    press(&mut app, KeyCode::Enter);
    let first = app.question();
    press(&mut app, KeyCode::Esc);
    press(&mut app, KeyCode::Down);
    press(&mut app, KeyCode::Enter);
    let late = Answer {
        question: first,
        top: Ok(fixture::busy()),
        detail: Some(Ok(fixture::detail())),
    };
    app.take(late, Instant::now());
    assert!(app.detail.expect("it is open").answer.is_none());
}

#[test]
fn any_key_leaves_the_help_and_q_ends_from_everywhere_else() {
    let mut app = app();
    press(&mut app, KeyCode::Char('?'));
    assert_eq!(press(&mut app, KeyCode::Char('q')), Wish::Draw);
    assert!(!app.help);
    press(&mut app, KeyCode::Enter);
    assert_eq!(press(&mut app, KeyCode::Char('q')), Wish::Quit);
    press(&mut app, KeyCode::Esc);
    assert_eq!(press(&mut app, KeyCode::Char('q')), Wish::Quit);
}

//! State of the screen, and its changes by keys and answers. Does no drawing and no network I/O.

use std::time::Instant;

use ratatui::{
    crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    widgets::TableState,
};

use super::{
    feed::{Answer, Question},
    filtered,
    sort::Sort,
};
use crate::{
    api::{Container, Labels, Timeline, Top},
    explain::Report,
};

/// Windows that the `w` key goes through.
const WINDOWS: [&str; 5] = ["10s", "60s", "5m", "15m", "1h"];

/// Number of lines that a page key moves by.
const PAGE: usize = 10;

/// Selection and order of the ranking.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    /// Sort order.
    pub sort: Sort,
    /// Text that names have to contain.
    pub filter: String,
    /// Length of the window, in the agent's syntax.
    pub window: String,
}

/// The state of the screen.
#[derive(Debug)]
pub(super) struct App {
    /// The agent's address.
    pub agent: String,
    /// Selection and order of the ranking.
    pub choice: Choice,
    /// True if colours are used.
    pub colour: bool,
    /// The agent's last answer, with the containers in the order shown.
    pub top: Option<Top>,
    /// Time of that answer.
    pub answered: Option<Instant>,
    /// Reason why the agent does not answer.
    pub failure: Option<String>,
    /// The selected container, once the user has selected one.
    selected: Option<Labels>,
    /// The selected line, and the first one shown.
    pub table: TableState,
    /// The filter as it was before the user began to type.
    pub typing: Option<String>,
    /// True while the help on keys is shown.
    pub help: bool,
    /// The container shown in detail.
    pub detail: Option<Detail>,
}

/// A container shown in detail.
#[derive(Debug)]
pub(super) struct Detail {
    /// Its labels.
    pub labels: Labels,
    /// Its timeline and explanation, or the reason why there is none.
    pub answer: Option<Result<(Timeline, Report), String>>,
    /// Number of report lines scrolled past.
    pub scroll: usize,
}

/// Action that a key asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wish {
    /// Draw the screen again.
    Draw,
    /// Ask the agent at once, because the question has changed.
    Ask,
    /// End the program.
    Quit,
}

impl App {
    /// Makes a screen without an answer.
    pub(super) fn new(agent: String, choice: Choice, colour: bool) -> Self {
        Self {
            agent,
            choice,
            colour,
            top: None,
            answered: None,
            failure: None,
            selected: None,
            table: TableState::default(),
            typing: None,
            help: false,
            detail: None,
        }
    }

    /// Returns the question to ask the agent.
    pub(super) fn question(&self) -> Question {
        Question {
            window: self.choice.window.clone(),
            labels: self.detail.as_ref().map(|detail| detail.labels.clone()),
        }
    }

    /// Applies an answer. An answer to an outdated question changes nothing.
    pub(super) fn take(&mut self, answer: Answer, now: Instant) {
        let Answer {
            question,
            top,
            detail,
        } = answer;
        if question.window != self.choice.window {
            return;
        }
        match top {
            Ok(top) => {
                self.top = Some(top);
                self.answered = Some(now);
                self.failure = None;
                self.arrange();
            }
            Err(why) => self.failure = Some(why),
        }
        let looked_at = self.detail.as_mut();
        let same = looked_at.filter(|detail| Some(&detail.labels) == question.labels.as_ref());
        // Without an answer to the ranking, the old detail stays.
        if let (Some(shown), Some(answer)) = (same, detail) {
            shown.answer = Some(answer);
        }
    }

    /// Sorts the containers, and keeps the selected one selected.
    fn arrange(&mut self) {
        if let Some(top) = &mut self.top {
            self.choice.sort.sort(&mut top.containers);
        }
        let shown = self.shown();
        let last = shown.len().checked_sub(1);
        let selected = self.selected.as_ref();
        let there = selected.and_then(|labels| shown.iter().position(|c| c.labels == *labels));
        let line = match (there, &self.selected) {
            (Some(line), _) => Some(line),
            // The selected container is gone for a moment: the line stays.
            (None, Some(_)) => self.table.selected(),
            (None, None) => Some(0),
        };
        let line = last.map(|last| line.unwrap_or(0).min(last));
        self.table.select(line);
    }

    /// Returns the containers on the list, in order.
    pub(super) fn shown(&self) -> Vec<&Container> {
        let all = self.top.as_ref().map(|top| &top.containers[..]);
        filtered(all.unwrap_or_default(), &self.choice.filter).collect()
    }

    /// Returns the figures of the container shown in detail.
    pub(super) fn looked_at(&self) -> Option<&Container> {
        let labels = &self.detail.as_ref()?.labels;
        let all = &self.top.as_ref()?.containers;
        all.iter().find(|container| container.labels == *labels)
    }

    /// Handles a key.
    pub(super) fn key(&mut self, key: KeyEvent) -> Wish {
        if key.kind == KeyEventKind::Release {
            return Wish::Draw;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && key.code == KeyCode::Char('c') {
            return Wish::Quit;
        }
        if self.typing.is_some() {
            return self.typed(key.code, control);
        }
        if self.help {
            self.help = false;
            return Wish::Draw;
        }
        match key.code {
            KeyCode::Char('q') => Wish::Quit,
            KeyCode::Char('?') => {
                self.help = true;
                Wish::Draw
            }
            KeyCode::Char('w') => self.next_window(true),
            KeyCode::Char('W') => self.next_window(false),
            code if self.detail.is_some() => self.detail_key(code),
            code => self.list_key(code),
        }
    }

    /// Handles a key while the user types the filter.
    fn typed(&mut self, code: KeyCode, control: bool) -> Wish {
        match code {
            KeyCode::Enter => self.typing = None,
            KeyCode::Esc => self.choice.filter = self.typing.take().unwrap_or_default(),
            KeyCode::Backspace => {
                self.choice.filter.pop();
            }
            KeyCode::Char('u') if control => self.choice.filter.clear(),
            KeyCode::Char(c) if !control => self.choice.filter.push(c),
            _ => {}
        }
        self.arrange();
        Wish::Draw
    }

    fn next_window(&mut self, forward: bool) -> Wish {
        let here = WINDOWS.iter().position(|each| *each == self.choice.window);
        let next = match (here, forward) {
            // A window from the command line: continue with the default one.
            (None, _) => 1,
            (Some(here), true) => (here + 1) % WINDOWS.len(),
            (Some(here), false) => (here + WINDOWS.len() - 1) % WINDOWS.len(),
        };
        WINDOWS[next].clone_into(&mut self.choice.window);
        Wish::Ask
    }

    fn list_key(&mut self, code: KeyCode) -> Wish {
        match code {
            KeyCode::Char('s') => self.next_sort(true),
            KeyCode::Char('S') => self.next_sort(false),
            KeyCode::Char('/') => self.typing = Some(self.choice.filter.clone()),
            KeyCode::Esc => {
                self.choice.filter.clear();
                self.arrange();
            }
            KeyCode::Enter | KeyCode::Right | KeyCode::Char('l') => return self.open(),
            _ => {
                let here = self.table.selected().unwrap_or(0);
                let Some(line) = moved(here, code) else {
                    return Wish::Draw;
                };
                let shown = self.shown();
                let line = line.min(shown.len().saturating_sub(1));
                self.selected = shown.get(line).map(|container| container.labels.clone());
                self.arrange();
            }
        }
        Wish::Draw
    }

    fn next_sort(&mut self, forward: bool) {
        self.choice.sort = self.choice.sort.next(self.top.as_ref(), forward);
        self.arrange();
    }

    fn open(&mut self) -> Wish {
        let shown = self.shown();
        let line = self.table.selected().and_then(|line| shown.get(line));
        let Some(labels) = line.map(|container| container.labels.clone()) else {
            return Wish::Draw;
        };
        self.selected = Some(labels.clone());
        self.detail = Some(Detail {
            labels,
            answer: None,
            scroll: 0,
        });
        Wish::Ask
    }

    fn detail_key(&mut self, code: KeyCode) -> Wish {
        match code {
            KeyCode::Esc | KeyCode::Left | KeyCode::Char('h') | KeyCode::Backspace => {
                self.detail = None;
            }
            _ => {
                if let Some(detail) = &mut self.detail {
                    // Drawing limits it to the end of the text, which is known only then.
                    detail.scroll = moved(detail.scroll, code).unwrap_or(detail.scroll);
                }
            }
        }
        Wish::Draw
    }
}

/// Returns the line that a key moves to; none for other keys.
fn moved(line: usize, code: KeyCode) -> Option<usize> {
    match code {
        KeyCode::Down | KeyCode::Char('j') => Some(line.saturating_add(1)),
        KeyCode::Up | KeyCode::Char('k') => Some(line.saturating_sub(1)),
        KeyCode::PageDown | KeyCode::Char(' ') => Some(line.saturating_add(PAGE)),
        KeyCode::PageUp => Some(line.saturating_sub(PAGE)),
        KeyCode::Home | KeyCode::Char('g') => Some(0),
        KeyCode::End | KeyCode::Char('G') => Some(usize::MAX),
        _ => None,
    }
}

#[cfg(test)]
mod tests;

//! What is on the screen, and what keys and answers make of it. Draws nothing and asks nobody.

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

/// Windows that a key goes through.
const WINDOWS: [&str; 5] = ["10s", "60s", "5m", "15m", "1h"];

/// Lines that a page key moves by.
const PAGE: usize = 10;

/// What is to be shown of the ranking.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    /// By what it is sorted.
    pub sort: Sort,
    /// What names have to contain.
    pub filter: String,
    /// Length of the window, as the agent takes it.
    pub window: String,
}

/// The state of the screen.
#[derive(Debug)]
pub(super) struct App {
    /// Where the agent is.
    pub agent: String,
    /// What is shown.
    pub choice: Choice,
    /// Whether there are colours.
    pub colour: bool,
    /// The agent's last answer, with the containers in the order shown.
    pub top: Option<Top>,
    /// When it came.
    pub answered: Option<Instant>,
    /// Why the agent does not answer.
    pub failure: Option<String>,
    /// The selected container, once somebody selected one.
    selected: Option<Labels>,
    /// The line selected, and the first one shown.
    pub table: TableState,
    /// The filter before it is being typed.
    pub typing: Option<String>,
    /// Whether the keys are explained.
    pub help: bool,
    /// The container that is looked at.
    pub detail: Option<Detail>,
}

/// One container, looked at.
#[derive(Debug)]
pub(super) struct Detail {
    /// Its labels.
    pub labels: Labels,
    /// Its timeline and why it lost time, or why that is not known.
    pub answer: Option<Result<(Timeline, Report), String>>,
    /// Lines of the report scrolled past.
    pub scroll: usize,
}

/// What is to be done after a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wish {
    /// Show what is there.
    Draw,
    /// Ask the agent at once, because something else is wanted.
    Ask,
    /// End.
    Quit,
}

impl App {
    /// A screen without an answer yet.
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

    /// What to ask the agent.
    pub(super) fn question(&self) -> Question {
        Question {
            window: self.choice.window.clone(),
            labels: self.detail.as_ref().map(|detail| detail.labels.clone()),
        }
    }

    /// Takes an answer. What answers an earlier question than that of this moment changes nothing.
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
        // Whoever does not answer at all says nothing new of one container.
        if let (Some(shown), Some(answer)) = (same, detail) {
            shown.answer = Some(answer);
        }
    }

    /// Sorts what is shown, and keeps the selected container selected.
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
            // Gone for a moment: the place stays.
            (None, Some(_)) => self.table.selected(),
            (None, None) => Some(0),
        };
        let line = last.map(|last| line.unwrap_or(0).min(last));
        self.table.select(line);
    }

    /// The containers on the list, in order.
    pub(super) fn shown(&self) -> Vec<&Container> {
        let all = self.top.as_ref().map(|top| &top.containers[..]);
        filtered(all.unwrap_or_default(), &self.choice.filter).collect()
    }

    /// What is known of the container looked at.
    pub(super) fn looked_at(&self) -> Option<&Container> {
        let labels = &self.detail.as_ref()?.labels;
        let all = &self.top.as_ref()?.containers;
        all.iter().find(|container| container.labels == *labels)
    }

    /// Takes a key.
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

    /// A key while the filter is being typed.
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
            // One of the command line's: back to the usual one.
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
                    // The end is where the text ends, which is known when it is drawn.
                    detail.scroll = moved(detail.scroll, code).unwrap_or(detail.scroll);
                }
            }
        }
        Wish::Draw
    }
}

/// Where a key leads from a line; none for keys that lead nowhere.
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

//! The terminal session: handles keys, signals and answers, and draws the screen.

use std::{
    process::ExitCode,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event},
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
    low_level::emulate_default_handler,
};

use super::{
    app::{App, Wish},
    draw,
    feed::{self, Answer, Question},
};

/// Longest time between two draws: the screen shows the age of its figures.
const STILL: Duration = Duration::from_secs(1);

/// An event of the session.
enum News {
    /// An event of the terminal, or an error if the terminal is gone.
    Terminal(std::io::Result<Event>),
    /// The agent's answer.
    Answer(Box<Answer>),
    /// A signal to end the process.
    Signal(i32),
}

impl From<Answer> for News {
    fn from(answer: Answer) -> Self {
        Self::Answer(Box::new(answer))
    }
}

/// Restores the terminal when dropped. After a panic it does nothing, because the panic hook has restored it already.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        // A second restore would move the cursor back over the panic's message.
        if !std::thread::panicking() {
            ratatui::restore();
        }
    }
}

/// Shows the screen until the user quits or a signal arrives.
pub(super) fn run(app: App, interval: Duration) -> anyhow::Result<ExitCode> {
    let (sender, news) = mpsc::channel();
    watch_signals(sender.clone())?;
    let restore = Restore;
    let terminal = ratatui::try_init()
        .context("cannot draw on this terminal: print a table with --once instead")?;
    watch_keys(sender.clone());
    let questions = feed::start(app.agent.clone(), sender);
    let session = Session {
        app,
        interval,
        news,
        questions,
        asked: None,
        due: Instant::now(),
    };
    let end = session.run(terminal);
    drop(restore);
    match end? {
        End::Quit => Ok(ExitCode::SUCCESS),
        End::Signal(signal) => {
            // The parent process sees the signal in the exit status.
            emulate_default_handler(signal).context("cannot end by a signal")?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn watch_signals(sender: Sender<News>) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("cannot wait for signals")?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if sender.send(News::Signal(signal)).is_err() {
                break;
            }
        }
    });
    Ok(())
}

fn watch_keys(sender: Sender<News>) {
    std::thread::spawn(move || {
        loop {
            let event = event::read();
            let gone = event.is_err();
            if sender.send(News::Terminal(event)).is_err() || gone {
                break;
            }
        }
    });
}

/// Reason why the session ends.
enum End {
    Quit,
    Signal(i32),
}

struct Session {
    app: App,
    interval: Duration,
    news: Receiver<News>,
    questions: Sender<Question>,
    /// The question that is under way.
    asked: Option<Question>,
    /// Time to ask the next question.
    due: Instant,
}

impl Session {
    fn run(mut self, mut terminal: DefaultTerminal) -> anyhow::Result<End> {
        loop {
            let now = Instant::now();
            if self.asked.is_none() && now >= self.due {
                self.ask(now)?;
            }
            terminal
                .draw(|frame| draw::screen(frame, &mut self.app, Instant::now()))
                .context("cannot draw on this terminal")?;
            let wait = match self.asked {
                None => self
                    .due
                    .saturating_duration_since(Instant::now())
                    .min(STILL),
                Some(_) => STILL,
            };
            match self.news.recv_timeout(wait) {
                Ok(news) => {
                    if let Some(end) = self.hear(news)? {
                        return Ok(end);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => anyhow::bail!("nothing happens any more"),
            }
        }
    }

    fn ask(&mut self, now: Instant) -> anyhow::Result<()> {
        let question = self.app.question();
        self.asked = Some(question.clone());
        self.due = now + self.interval;
        let sent = self.questions.send(question);
        sent.map_err(|_| anyhow::anyhow!("nobody asks the agent any more"))
    }

    fn hear(&mut self, news: News) -> anyhow::Result<Option<End>> {
        match news {
            News::Signal(signal) => return Ok(Some(End::Signal(signal))),
            News::Answer(answer) => {
                self.asked = None;
                // The user has changed the question meanwhile.
                if answer.question != self.app.question() {
                    self.due = Instant::now();
                }
                self.app.take(*answer, Instant::now());
            }
            News::Terminal(event) => {
                let event = event.context("cannot read from this terminal")?;
                if let Event::Key(key) = event {
                    match self.app.key(key) {
                        Wish::Quit => return Ok(Some(End::Quit)),
                        Wish::Ask => self.due = Instant::now(),
                        Wish::Draw => {}
                    }
                }
            }
        }
        Ok(None)
    }
}

//! Asks the agent on a thread of its own, so that a slow answer delays no key.

use std::sync::mpsc::{self, Receiver, Sender};

use anyhow::Context as _;
use serde::de::DeserializeOwned;

use crate::{
    api::{Labels, Timeline, Top},
    commands::client,
    explain::Report,
};

/// A question to the agent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Question {
    /// Length of the window, in the agent's syntax.
    pub window: String,
    /// The container to show in detail.
    pub labels: Option<Labels>,
}

/// Answer to a question.
#[derive(Debug)]
pub(super) struct Answer {
    /// The question.
    pub question: Question,
    /// The ranking, or the reason why there is none.
    pub top: Result<Top, String>,
    /// The container's timeline and explanation, or the reason why there is none.
    pub detail: Option<Result<(Timeline, Report), String>>,
}

/// Starts a thread that answers each question in turn. It ends when either channel is closed.
pub(super) fn start<T: From<Answer> + Send + 'static>(
    agent: String,
    answers: Sender<T>,
) -> Sender<Question> {
    let (questions, asked): (_, Receiver<Question>) = mpsc::channel();
    std::thread::spawn(move || {
        for question in asked {
            if answers.send(ask(&agent, question).into()).is_err() {
                break;
            }
        }
    });
    questions
}

fn ask(agent: &str, question: Question) -> Answer {
    let top = top(agent, &question.window).map_err(|error| format!("{error:#}"));
    let detail = question.labels.as_ref().filter(|_| top.is_ok());
    let detail = detail.map(|labels| {
        let detail = detail_of(agent, &question.window, labels);
        detail.map_err(|error| format!("{error:#}"))
    });
    Answer {
        question,
        top,
        detail,
    }
}

/// Gets the ranking of a window.
///
/// # Errors
/// When no agent answers, with the remedy, or when the agent refuses, with its reason.
pub(super) fn top(agent: &str, window: &str) -> anyhow::Result<Top> {
    let path = client::path("/api/v1/top", &[("window", window)]);
    get(agent, &path).map_err(|error| {
        // An I/O error is the network's, not the agent's.
        if error
            .chain()
            .any(<dyn std::error::Error>::is::<std::io::Error>)
        {
            anyhow::anyhow!(
                "{error:#}; start one with `stallscope run`, or say with --agent where it is"
            )
        } else {
            error
        }
    })
}

fn detail_of(agent: &str, window: &str, labels: &Labels) -> anyhow::Result<(Timeline, Report)> {
    let mut query = vec![("window", window)];
    query.extend(
        labels
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    );
    let timeline = get(agent, &client::path("/api/v1/timeline", &query))?;
    let report = get(agent, &client::path("/api/v1/explain", &query))?;
    Ok((timeline, report))
}

fn get<T: DeserializeOwned>(agent: &str, path: &str) -> anyhow::Result<T> {
    let answer = client::get(agent, path)?;
    serde_json::from_value(answer)
        .with_context(|| format!("the agent at {agent} is of another version"))
}

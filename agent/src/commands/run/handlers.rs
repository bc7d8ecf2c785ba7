//! The server's handlers: they ask the agent's thread, and threads that read files.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::Value;

use crate::{
    agent::{
        Agent,
        actor::{Handle, NoAnswer},
    },
    api::{Refusal, Request},
    host::{
        deadline::{Reader, Reads},
        topology::Topology,
    },
    server::{Answer, Answers, Handlers},
};

/// Timeout of the agent's thread for a scrape: less than Prometheus' default, so that the reason reaches its log.
const SCRAPE: Duration = Duration::from_secs(7);

/// Timeout of the agent's thread for an answer from the history.
const RECORDED: Duration = Duration::from_secs(4);

/// Timeout of reading the files of cgroups and node for one answer.
const FILES: Duration = Duration::from_secs(5);

pub(super) fn handlers(agent: &Handle<Agent>, topology: &Topology, reads: &Reads) -> Handlers {
    let files = reads.reader("facts", FILES);
    let (health, readiness, status) = (agent.clone(), agent.clone(), agent.clone());
    let collect = agent.clone();
    Handlers {
        topology: serde_json::to_value(topology).unwrap_or_default(),
        answers: Answers {
            top: top(agent.clone(), files.clone()),
            timeline: timeline(agent.clone()),
            explain: explain(agent.clone(), files),
        },
        collect: Arc::new(move |format| {
            let scrape = collect.ask("answering /metrics", SCRAPE, move |agent| {
                agent.collect(format)
            });
            scrape.map_err(refusal)?
        }),
        health: Arc::new(move || health.health()),
        ready: Arc::new(move || readiness.ready()),
        status: Arc::new(move || status.status()),
    }
}

fn top(agent: Handle<Agent>, files: Reader) -> Answer {
    Arc::new(move |request| {
        let ranking = ask(&agent, "answering /api/v1/top", request, Agent::rank)?;
        let unread = ranking.unread.clone();
        // A ranking is useful without the facts in files; an explanation is not.
        json(&match files.ask(unread.first(), move || unread.read()) {
            Ok(facts) => ranking.with(facts),
            Err(late) => ranking.without(&late),
        })
    })
}

fn timeline(agent: Handle<Agent>) -> Answer {
    Arc::new(move |request| {
        let what = "answering /api/v1/timeline";
        json(&ask(&agent, what, request, Agent::timeline)?)
    })
}

fn explain(agent: Handle<Agent>, files: Reader) -> Answer {
    Arc::new(move |request| {
        let what = "answering /api/v1/explain";
        let recorded = ask(&agent, what, request, Agent::recorded)?;
        let report = files.ask(recorded.first(), move || recorded.read());
        json(&report.map_err(|late| Refusal::late(late.to_string()))?)
    })
}

fn ask<T: Send + 'static>(
    agent: &Handle<Agent>,
    what: &'static str,
    request: &Request,
    answer: fn(&Agent, &Request) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let request = request.clone();
    let answer = agent.ask(what, RECORDED, move |agent| answer(agent, &request));
    answer.map_err(refusal)?
}

fn refusal(why: NoAnswer) -> Refusal {
    match why {
        NoAnswer::Late(why) => Refusal::late(why),
        NoAnswer::Failed(why) => Refusal::failed(why),
    }
}

fn json(answer: &impl Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(answer).map_err(|error| Refusal::failed(error.to_string()))
}

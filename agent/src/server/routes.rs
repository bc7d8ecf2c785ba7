//! Routes: the paths, and their handlers.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;

use super::accept::negotiate;
use super::budget::{Budget, Kind as Answers, RETRY_AFTER};
use super::hosts::guard;
use super::metrics::Own;
use super::page;
use super::peers::Peers;
use super::queries::{Question, busy};
use super::scrape::Scrapes;
use super::{Config, Handlers};

/// Every path with its purpose, for the list on the page, the hint on unknown paths and the `path` label.
const PATHS: [(&str, &str); 9] = [
    ("/", "the live page, for browsers"),
    ("/metrics", "the measurements, for Prometheus"),
    (
        "/api/v1/status",
        "the agent's state as JSON: what it measures, and what it cannot measure here and why",
    ),
    (
        "/api/v1/topology",
        "packages, dies, NUMA nodes and CPUs as JSON",
    ),
    (
        "/api/v1/top",
        "who lost how much time, to what, as JSON; ?window=60s&at=-5m",
    ),
    (
        "/api/v1/timeline",
        "the same of one container, second by second; ?cgroup=…&window=10m",
    ),
    (
        "/api/v1/explain",
        "why, and what to change, as JSON; ?cgroup=… or ?namespace=…&pod=… or ?worst=1",
    ),
    (
        "/healthz",
        "200 while the agent looks at the host, else 503 and the reason",
    ),
    (
        "/readyz",
        "200 once the agent measures, else 503 and the reason",
    ),
];

/// Returns whether a path is answered however busy the server is, and whatever name it is asked under.
pub(super) fn is_health(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

pub(super) fn router(handlers: Handlers, config: &Config, own: Own, peers: Arc<Peers>) -> Router {
    let budget = Arc::new(Budget::new(config.limits, peers, &own));
    let scrapes = Arc::new(Scrapes::new(
        handlers.clone(),
        config.limits,
        own.clone(),
        &budget,
    ));
    let Handlers {
        health,
        ready,
        status,
        topology,
        answers,
        ..
    } = handlers;
    // One question at a time: each reads the whole history, and there may be as many as clients.
    let (history, patience) = (Answers::new(&budget), config.limits.question_time);
    let ask = |answer| {
        let question = Question::new(answer, history.beside(), patience);
        get(async move |query| question.ask(query).await)
    };
    let report = Answers::new(&budget);
    let topology = text(&topology);
    let hosts = Arc::new(config.hosts.clone());
    page::router(&links())
        .route("/metrics", get(metrics).with_state(scrapes))
        .route(
            "/api/v1/status",
            get(async move || match report.place().await {
                Ok(place) => match place.keep(text(&status())).await {
                    Ok(text) => json(StatusCode::OK, text),
                    Err(full) => busy(full),
                },
                Err(full) => busy(full),
            }),
        )
        .route("/api/v1/top", ask(answers.top))
        .route("/api/v1/timeline", ask(answers.timeline))
        .route("/api/v1/explain", ask(answers.explain))
        .route(
            "/api/v1/topology",
            get(async move || json(StatusCode::OK, topology)),
        )
        .route(
            "/healthz",
            get(async move || judged(health(), "ok", "not well")),
        )
        .route(
            "/readyz",
            get(async move || judged(ready(), "ready", "not ready")),
        )
        .fallback(not_found)
        .method_not_allowed_fallback(async || {
            (
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and HEAD are served\n",
            )
        })
        .layer(middleware::from_fn_with_state(hosts, guard))
        .layer(middleware::from_fn_with_state(own, count))
}

/// Answers a scrape, uncompressed whatever `Accept-Encoding` says.
///
/// Prometheus always offers gzip. For a scrape of 40,000 lines (13 MB) deflating at the fastest level took 23 ms of
/// CPU, rendering 2 to 4: too much on the very machine whose time this agent accounts for.
async fn metrics(State(scrapes): State<Arc<Scrapes>>, headers: HeaderMap) -> Response {
    let accept: Vec<_> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let format = negotiate(&accept.join(","));
    match scrapes.scrape(format).await {
        Ok(text) => (
            [
                (header::CONTENT_TYPE, format.content_type()),
                (header::VARY, "accept"),
            ],
            text,
        )
            .into_response(),
        Err(refusal) => {
            let retry = [(header::RETRY_AFTER, RETRY_AFTER)];
            let retry = (refusal.status == StatusCode::SERVICE_UNAVAILABLE).then_some(retry);
            (refusal.status, retry, format!("{}\n", refusal.reason)).into_response()
        }
    }
}

fn judged(state: Result<(), String>, good: &str, bad: &str) -> (StatusCode, String) {
    match state {
        Ok(()) => (StatusCode::OK, format!("{good}\n")),
        Err(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{bad}: {reason}\n"),
        ),
    }
}

pub(super) fn json(status: StatusCode, text: Bytes) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (status, kind, text).into_response()
}

/// Formats JSON as the server answers it.
pub(super) fn text(value: &serde_json::Value) -> Bytes {
    format!("{value:#}\n").into()
}

/// Returns the list of paths for the foot of the page.
fn links() -> String {
    lines(|path, what| format!("<dt><a href=\"{path}\">{path}</a><dd>{what}\n"))
}

async fn not_found(uri: Uri) -> (StatusCode, String) {
    let paths = lines(|path, what| format!("  {path:<18}{what}\n"));
    (
        StatusCode::NOT_FOUND,
        format!("nothing is served at {}; there is\n{paths}", uri.path()),
    )
}

fn lines(line: impl Fn(&str, &str) -> String) -> String {
    PATHS.map(|(path, what)| line(path, what)).concat()
}

/// Returns the value of the label `path` for a request's path.
fn counted_as(asked: &str) -> &'static str {
    let mut paths = PATHS.iter().map(|(path, _)| *path);
    let known = paths.find(|path| *path == asked);
    known.unwrap_or(if page::is_file(asked) {
        page::FILES_PATH
    } else {
        "other"
    })
}

async fn count(State(own): State<Own>, request: Request, next: Next) -> Response {
    // Clients choose the path, so only known paths may become label values.
    let path = counted_as(request.uri().path());
    let response = next.run(request).await;
    own.requests
        .with_label_values(&[path, response.status().as_str()])
        .inc();
    response
}

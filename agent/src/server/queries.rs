//! Questions about the history: from a query to its answer, or to the reason why there is none.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::RawQuery;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json as value;
use tokio::time::timeout;

use super::Answer;
use super::budget::{Full, Kind as Answers, RETRY_AFTER};
use super::routes::{json, text};
use crate::api::{Kind, Refusal, Request};

/// Handler of one kind of question; questions take turns.
#[derive(Clone)]
pub(super) struct Question {
    answer: Answer,
    answers: Answers,
    patience: Duration,
}

impl Question {
    pub(super) fn new(answer: Answer, answers: Answers, patience: Duration) -> Self {
        Self {
            answer,
            answers,
            patience,
        }
    }

    pub(super) async fn ask(&self, RawQuery(query): RawQuery) -> Response {
        let query = query.unwrap_or_default();
        let pairs = form_urlencoded::parse(query.as_bytes()).into_owned();
        let request = match Request::parse(pairs) {
            Ok(request) => request,
            Err(refusal) => return refused(&refusal),
        };
        let answer = Arc::clone(&self.answer);
        let place = match timeout(self.patience, self.answers.place()).await {
            Ok(Ok(place)) => place,
            Ok(Err(full)) => return busy(full),
            Err(_) => {
                let reason = format!(
                    "no answer within {:?}: another question is still being answered",
                    self.patience
                );
                return refused(&Refusal::late(reason));
            }
        };
        // Runs off the runtime's only thread, so that health is answered meanwhile. If the client leaves, the work
        // keeps the place.
        let work = move || {
            let text = answer(&request).map(|answer| text(&answer));
            (place, text)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok((place, Ok(text))) => match place.keep(text).await {
                Ok(text) => json(StatusCode::OK, text),
                Err(full) => busy(full),
            },
            Ok((_, Err(refusal))) => refused(&refusal),
            Err(error) => json(
                StatusCode::INTERNAL_SERVER_ERROR,
                text(&value!({ "error": format!("the answer failed: {error}") })),
            ),
        }
    }
}

/// Responds that there is no room for the answer.
pub(super) fn busy(full: Full) -> Response {
    let error = text(&value!({ "error": full.to_string() }));
    let retry = [(header::RETRY_AFTER, RETRY_AFTER)];
    (retry, json(StatusCode::SERVICE_UNAVAILABLE, error)).into_response()
}

fn refused(refusal: &Refusal) -> Response {
    let status = match refusal.kind {
        Kind::Bad => StatusCode::BAD_REQUEST,
        Kind::Missing => StatusCode::NOT_FOUND,
        Kind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        Kind::Late => StatusCode::SERVICE_UNAVAILABLE,
    };
    json(status, text(&value!({ "error": refusal.error })))
}

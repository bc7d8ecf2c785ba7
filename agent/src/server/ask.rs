//! Questions about the history: from a query to an answer or the reason why there is none.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::RawQuery;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json as value;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Answer;
use super::routes::json;
use crate::api::{Kind, Refusal, Request};

/// Asks one thing, when it is its turn.
#[derive(Clone)]
pub(super) struct Question {
    answer: Answer,
    turn: Arc<Semaphore>,
    patience: Duration,
}

impl Question {
    pub(super) fn new(answer: Answer, turn: &Arc<Semaphore>, patience: Duration) -> Self {
        Self {
            answer,
            patience,
            turn: Arc::clone(turn),
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
        let turn = Arc::clone(&self.turn).acquire_owned();
        let Ok(Ok(turn)) = timeout(self.patience, turn).await else {
            let reason = format!(
                "no answer within {:?}: another question is still being answered",
                self.patience
            );
            return refused(&Refusal::late(reason));
        };
        let work = move || {
            // Though the client may leave meanwhile.
            let _turn = turn;
            answer(&request)
        };
        // Off the runtime's only thread: health must be answered meanwhile.
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(answer)) => json(StatusCode::OK, &answer),
            Ok(Err(refusal)) => refused(&refusal),
            Err(error) => json(
                StatusCode::INTERNAL_SERVER_ERROR,
                &value!({ "error": format!("the answer failed: {error}") }),
            ),
        }
    }
}

fn refused(refusal: &Refusal) -> Response {
    let status = match refusal.kind {
        Kind::Bad => StatusCode::BAD_REQUEST,
        Kind::Missing => StatusCode::NOT_FOUND,
        Kind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        Kind::Late => StatusCode::SERVICE_UNAVAILABLE,
    };
    json(status, &value!({ "error": refusal.error }))
}

//! What can go wrong between the agent and the API, in the few words the metric has for it.

use std::{error::Error, fmt::Write as _, io, time::Duration};

use hyper::{HeaderMap, StatusCode, header::RETRY_AFTER};

use super::wire::Status;

/// The length of what is quoted from elsewhere, in characters at most.
const QUOTED: usize = 200;

/// Why the pods cannot be read now.
#[derive(Debug)]
pub(super) struct Failure {
    /// One of the words below.
    pub reason: &'static str,
    /// What happened where, and what to do.
    pub text: String,
    /// The least to wait before the next attempt.
    pub pause: Duration,
}

/// No connection, or one that broke.
pub(super) const UNREACHABLE: &str = "unreachable";
/// The server is not the one it should be.
pub(super) const TLS: &str = "tls";
/// 401.
pub(super) const UNAUTHORIZED: &str = "unauthorized";
/// 403.
pub(super) const FORBIDDEN: &str = "forbidden";
/// 410: what was to be continued is gone.
pub(super) const EXPIRED: &str = "expired";
/// 429 and 503.
pub(super) const OVERLOADED: &str = "overloaded";
/// Other 5xx.
pub(super) const SERVER_ERROR: &str = "server_error";
/// Anything else that makes no sense.
pub(super) const BAD_ANSWER: &str = "bad_answer";
/// Too slow.
pub(super) const TIMEOUT: &str = "timeout";
/// The kubeconfig or the service account's files.
pub(super) const CONFIG: &str = "config";

impl Failure {
    pub(super) fn new(reason: &'static str, text: impl Into<String>) -> Self {
        Self {
            reason,
            text: text.into(),
            pause: Duration::ZERO,
        }
    }

    /// An answer, or a part of one, that is not what was asked for.
    pub(super) fn bad_answer(address: &str, what: impl std::fmt::Display) -> Self {
        let text = format!(
            "the Kubernetes API at {address} answered something else than pods: {what}; check that the address is an \
             API server's"
        );
        Self::new(BAD_ANSWER, text)
    }

    pub(super) fn timeout(address: &str, what: &str, patience: Duration) -> Self {
        let text = format!(
            "the Kubernetes API at {address} did not {what} within {} s; check its load and the network between",
            patience.as_secs_f64()
        );
        Self::new(TIMEOUT, text)
    }

    /// What the client says instead of an answer.
    pub(super) fn client(address: &str, error: &kube::Error) -> Self {
        match error {
            kube::Error::Auth(error) => {
                let text = format!(
                    "cannot use the credentials for the Kubernetes API at {address}: {}; check the kubeconfig",
                    chain(error)
                );
                Self::new(CONFIG, text)
            }
            kube::Error::Service(error) => Self::transport(address, &**error),
            error => Self::transport(address, error),
        }
    }

    /// No answer at all, or the end of the connection in the middle of one.
    pub(super) fn transport(address: &str, error: &(dyn Error + 'static)) -> Self {
        let what = chain(error);
        if any(error, &|error| error.is::<rustls::Error>()) {
            let text = format!(
                "the Kubernetes API at {address} does not prove who it is: {what}; check the address, and that the CA \
                 certificate is this cluster's"
            );
            return Self::new(TLS, text);
        }
        let timed_out = |error: &(dyn Error + 'static)| {
            let io = error.downcast_ref::<io::Error>();
            io.is_some_and(|io| io.kind() == io::ErrorKind::TimedOut)
        };
        let reason = if any(error, &timed_out) {
            TIMEOUT
        } else {
            UNREACHABLE
        };
        let text = format!(
            "cannot reach the Kubernetes API at {address}: {what}; check the address and the network between"
        );
        Self::new(reason, text)
    }

    /// What a status that is not 200 means.
    pub(super) fn status(
        address: &str,
        code: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Self {
        let said = serde_json::from_slice::<Status>(body).unwrap_or_default();
        let after = headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let mut failure = Self::said(address, code.as_u16(), &said);
        failure.pause = Duration::from_secs(after.unwrap_or(0));
        failure
    }

    /// What an error in a watch, or the body of an answer, means.
    pub(super) fn said(address: &str, code: u16, said: &Status) -> Self {
        let message = quoted(said.message.as_deref().unwrap_or_default());
        let (reason, hint) = match code {
            401 => (
                UNAUTHORIZED,
                "the token is not, or no longer, accepted and is read anew each time: check the service account, or \
                 the kubeconfig's user",
            ),
            403 => (
                FORBIDDEN,
                "grant the agent's service account the verbs list and watch on pods, by a ClusterRole and a \
                 ClusterRoleBinding",
            ),
            410 => (EXPIRED, "all pods are listed anew"),
            429 | 503 => (OVERLOADED, "it is asked again later"),
            500..=599 => (SERVER_ERROR, "see the API server's log"),
            _ => (BAD_ANSWER, "check that the address is an API server's"),
        };
        let text = format!("the Kubernetes API at {address} answered {code} {message}; {hint}");
        Self::new(reason, text)
    }
}

/// The start of a text from elsewhere, in quotes.
pub(super) fn quoted(text: &str) -> String {
    let start: String = text.chars().take(QUOTED).collect();
    let more = if start.len() < text.len() { "…" } else { "" };
    format!("{start:?}{more}")
}

/// An error and its causes.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let said = error.to_string();
        // Many errors repeat their cause.
        if !text.contains(&said) {
            let separator = if text.is_empty() { "" } else { ": " };
            // Writing to a string cannot fail.
            let _ = write!(text, "{separator}{said}");
        }
        next = error.source();
    }
    text.chars().take(2 * QUOTED).collect()
}

/// Whether an error or one of its causes is such. What is inside an I/O error is none of its sources.
fn any(error: &(dyn Error + 'static), is: &dyn Fn(&(dyn Error + 'static)) -> bool) -> bool {
    if is(error) {
        return true;
    }
    let io = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    io.is_some_and(|inner| any(inner, is)) || error.source().is_some_and(|source| any(source, is))
}

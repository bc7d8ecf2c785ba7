//! Failures between the agent and the API, with the reasons that the metric has as label values.

use std::{error::Error, fmt::Write as _, io, time::Duration};

use hyper::{HeaderMap, StatusCode, header::RETRY_AFTER};

use super::wire::Status;

/// Maximum length of quoted text, in characters.
const QUOTED: usize = 200;

/// A failure to read the pods.
#[derive(Debug)]
pub(super) struct Failure {
    /// One of the reasons below.
    pub reason: &'static str,
    /// Description of the failure, with the address and the remedy.
    pub text: String,
    /// Minimum pause before the next attempt.
    pub pause: Duration,
}

/// The connection failed or broke.
pub(super) const UNREACHABLE: &str = "unreachable";
/// TLS failed: the server's certificate is not valid for it.
pub(super) const TLS: &str = "tls";
/// Status 401.
pub(super) const UNAUTHORIZED: &str = "unauthorized";
/// Status 403.
pub(super) const FORBIDDEN: &str = "forbidden";
/// Status 410: the version or page to continue from is gone.
pub(super) const EXPIRED: &str = "expired";
/// Status 429 or 503.
pub(super) const OVERLOADED: &str = "overloaded";
/// Any other status 5xx.
pub(super) const SERVER_ERROR: &str = "server_error";
/// Any other unusable answer.
pub(super) const BAD_ANSWER: &str = "bad_answer";
/// The server or the connection was too slow.
pub(super) const TIMEOUT: &str = "timeout";
/// The kubeconfig or the service account's files are unusable.
pub(super) const CONFIG: &str = "config";

impl Failure {
    pub(super) fn new(reason: &'static str, text: impl Into<String>) -> Self {
        Self {
            reason,
            text: text.into(),
            pause: Duration::ZERO,
        }
    }

    /// An answer, or a part of one, is not what was asked for.
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

    /// Converts an error of the client library.
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

    /// Converts an error of the connection: no answer at all, or an answer cut off in the middle.
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

    /// Converts a status other than 200.
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

    /// Converts an error object, from a watch or from the body of an answer.
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

/// Returns the start of a foreign text, in quotes.
pub(super) fn quoted(text: &str) -> String {
    let start: String = text.chars().take(QUOTED).collect();
    let more = if start.len() < text.len() { "…" } else { "" };
    format!("{start:?}{more}")
}

/// Returns an error's text and those of its causes.
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

/// Returns whether an error or one of its causes matches. Looks into I/O errors too: `source` skips the inner error.
fn any(error: &(dyn Error + 'static), is: &dyn Fn(&(dyn Error + 'static)) -> bool) -> bool {
    if is(error) {
        return true;
    }
    let io = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    io.is_some_and(|inner| any(inner, is)) || error.source().is_some_and(|source| any(source, is))
}

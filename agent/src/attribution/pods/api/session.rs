//! One connection to the API: a list, if one is needed, and the watch that continues from it.

use std::time::Duration;

use hyper::{Request, Response, StatusCode};
use kube::api::{ListParams, WatchParams};
use kube::client::Body;
use kube::core::Request as Resource;
use tokio::time::timeout;

use super::body::Reader;
use super::bounded_feed::Teller;
use super::connect::{Connection, connect};
use super::convert::{self, read};
use super::failure::{BAD_ANSWER, EXPIRED, Failure, SERVER_ERROR, TIMEOUT, quoted};
use super::wire::{Bookmark, Event, Page, Status};
use super::{Config, MAX_PODS};
use crate::attribution::pods::feed::Closed;
use crate::attribution::pods::{Pod, PodUid};

/// Maximum size of a list, in bytes: a node's pods take a few hundred kilobytes, a few megabytes on the largest.
const MAX_LIST: usize = 64 << 20;
/// Maximum size of a line of a watch, in bytes: the API server stores objects of up to 1.5 MiB, which are longer as
/// JSON.
const MAX_LINE: usize = 8 << 20;
/// Maximum size of an error's body that is read, in bytes, and the timeout of reading it.
const MAX_ERROR: usize = 64 << 10;
const ERROR_PATIENCE: Duration = Duration::from_secs(2);

/// Pods in a page, and the maximum number of pages. A server that ignores `limit` sends one page.
const PAGE: u32 = 250;
const MAX_PAGES: usize = 4 * MAX_PODS / PAGE as usize;

/// Longest watch to ask for, in seconds, before the random part; the library allows 294 s at most.
const MAX_WATCH: u64 = 240;
/// Maximum time to wait for a silent watch beyond the length asked for.
const MARGIN: Duration = Duration::from_secs(15);

/// Next request to make.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Position {
    /// List all pods from the API server's cache, which puts no load on the storage behind it.
    Start,
    /// List all pods from the storage, in pages.
    Paged,
    /// Watch for changes after this version.
    At(String),
}

/// Reason why a session ended early.
pub(super) enum Stop {
    /// The agent has dropped its end of the feed.
    Closed,
    /// The pods cannot be read now.
    Failed(Failure),
}

impl From<Closed> for Stop {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Lists if need be, then watches until the watch ends in its own time.
pub(super) async fn run(
    config: &Config,
    teller: &mut Teller,
    position: &mut Position,
) -> Result<(), Stop> {
    let session = Session {
        config,
        connection: connect(config).await?,
    };
    if !matches!(position, Position::At(_)) {
        let listed = session.list(teller, *position == Position::Paged).await;
        let version = listed.inspect_err(|stop| {
            if let Stop::Failed(failure) = stop
                && matches!(failure.reason, BAD_ANSWER | EXPIRED | TIMEOUT)
            {
                *position = Position::Paged;
            }
        })?;
        *position = Position::At(version);
    }
    let watched = session.watch(teller, position).await;
    if let Err(Stop::Failed(failure)) = &watched {
        match failure.reason {
            EXPIRED => *position = Position::Paged,
            // The server may be unable to handle this version.
            BAD_ANSWER | SERVER_ERROR | TIMEOUT => *position = Position::Start,
            _ => {}
        }
    }
    watched
}

struct Session<'a> {
    config: &'a Config,
    connection: Connection,
}

impl Session<'_> {
    /// Passes on all pods and returns the version to watch from.
    async fn list(&self, teller: &mut Teller, paged: bool) -> Result<String, Stop> {
        let mut pods = Vec::new();
        let mut params = ListParams::default().fields(&self.selector());
        if paged {
            params = params.limit(PAGE);
        } else {
            params = params.at("0");
        }
        for _ in 0..MAX_PAGES {
            let (version, rest) = self.page(&params, teller, &mut pods).await?;
            let is_full = pods.len() >= MAX_PODS;
            if is_full && rest.is_some() || pods.len() > MAX_PODS {
                pods.truncate(MAX_PODS);
                teller.too_many()?;
            }
            if let Some(rest) = rest.filter(|_| !is_full) {
                params = params.limit(PAGE).continue_token(&rest);
                continue;
            }
            let Some(version) = version else {
                let what = "a list without metadata.resourceVersion";
                return Err(self.bad_answer(what).into());
            };
            teller.all(pods)?;
            teller.up()?;
            return Ok(version);
        }
        let what = format!("a list of more than {MAX_PAGES} pages");
        Err(self.bad_answer(what).into())
    }

    /// Adds a page's pods to `pods`. Returns the list's version, and the token for the next page.
    async fn page(
        &self,
        params: &ListParams,
        teller: &mut Teller,
        pods: &mut Vec<(PodUid, Pod)>,
    ) -> Result<(Option<String>, Option<String>), Stop> {
        let request = Resource::new("/api/v1/pods").list(params);
        let response = self.ask(request).await?;
        let reader = Reader::new(&self.connection.address, response.into_body());
        let body = reader.whole(MAX_LIST, self.config.timing.answer).await?;
        let page: Page = serde_json::from_slice(&body)
            .map_err(|error| self.bad_answer(quoted(&error.to_string())))?;
        for item in page.items.iter().flatten() {
            let mut reading = read(item.get(), &self.config.labels);
            teller.doubts(&mut reading)?;
            pods.extend(reading.pod);
            if pods.len() > MAX_PODS {
                break;
            }
        }
        let metadata = page.metadata;
        let rest = metadata.rest.filter(|rest| !rest.is_empty());
        Ok((metadata.resource_version.and_then(convert::version), rest))
    }

    /// Passes on changes, and advances `position`.
    async fn watch(&self, teller: &mut Teller, position: &mut Position) -> Result<(), Stop> {
        let Position::At(version) = position else {
            return Ok(());
        };
        let length = self.length();
        let params = WatchParams::default()
            .fields(&self.selector())
            .timeout(u32::try_from(length.as_secs()).unwrap_or(1).max(1));
        let request = Resource::new("/api/v1/pods").watch(&params, version);
        let response = self.ask(request).await?;
        teller.up()?;

        let mut reader = Reader::new(&self.connection.address, response.into_body());
        let patience = self.config.timing.answer;
        let idle = length + patience.min(MARGIN);
        let mut moved = false;
        while let Some(line) = reader.line(MAX_LINE, idle, patience).await? {
            if line.is_empty() {
                continue;
            }
            if let Some(next) = self.event(&line, teller).await? {
                *version = next;
                moved = true;
            }
        }
        if !moved {
            // Bookmarks come about once a minute: without any, the server may not know this version at all.
            *position = Position::Start;
        }
        Ok(())
    }

    /// Passes on one change. Returns the version it leads to.
    async fn event(&self, line: &[u8], teller: &mut Teller) -> Result<Option<String>, Stop> {
        let event: Event = serde_json::from_slice(line)
            .map_err(|error| self.bad_answer(quoted(&error.to_string())))?;
        let object = event.object.get();
        match &*event.kind {
            kind @ ("ADDED" | "MODIFIED" | "DELETED") => {
                let reading = read(object, &self.config.labels);
                let version = reading.version.clone();
                if kind == "DELETED" {
                    teller.ended(reading).await?;
                } else {
                    teller.put(reading).await?;
                }
                Ok(version)
            }
            "BOOKMARK" => {
                let bookmark: Bookmark = serde_json::from_str(object).unwrap_or_default();
                teller.up()?;
                Ok(bookmark
                    .metadata
                    .resource_version
                    .and_then(convert::version))
            }
            "ERROR" => {
                let said: Status = serde_json::from_str(object).unwrap_or_default();
                let code = said.code.unwrap_or(500);
                Err(Failure::said(&self.connection.address, code, &said).into())
            }
            other => {
                let what = format!("a change of type {}", quoted(other));
                Err(self.bad_answer(what).into())
            }
        }
    }

    /// Sends a request, and returns the answer if its status is 200.
    async fn ask(
        &self,
        request: Result<Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Response<Body>, Failure> {
        let address = &self.connection.address;
        let request = request.map_err(|error| self.bad_answer(error))?;
        let patience = self.config.timing.answer;
        let sent = self.connection.client.send(request.map(Body::from));
        let Ok(answered) = timeout(patience, sent).await else {
            return Err(Failure::timeout(address, "begin an answer", patience));
        };
        let response = answered.map_err(|error| Failure::client(address, &error))?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        let body = Reader::new(address, body)
            .some(MAX_ERROR, ERROR_PATIENCE)
            .await;
        Err(Failure::status(address, head.status, &head.headers, &body))
    }

    fn bad_answer(&self, what: impl std::fmt::Display) -> Failure {
        Failure::bad_answer(&self.connection.address, what)
    }

    fn selector(&self) -> String {
        format!("spec.nodeName={}", self.config.node)
    }

    /// Returns the length of the next watch, with a random part so that the watches of a cluster's nodes do not all end
    /// at once.
    fn length(&self) -> Duration {
        let most = Duration::from_secs(MAX_WATCH);
        let length = self.config.timing.watch.min(most);
        length.mul_f64(1.0 + 0.2 * fastrand::f64())
    }
}

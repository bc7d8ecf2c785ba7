//! A client's connection, bounded in time and memory.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::Limits;
use super::peers::{Guest, Refused};
use super::routes::is_health;
use super::stall_timeout::Patient;

/// Answers a client's requests until it leaves, breaks a limit, is evicted, or the server stops.
pub(super) async fn run(
    stream: TcpStream,
    guest: Guest,
    router: Router,
    limits: Limits,
    mut stop: watch::Receiver<()>,
) {
    // The answer to a scrape is written in one go, so `TCP_NODELAY` costs nothing and saves a delay.
    let _ = stream.set_nodelay(true);
    let guest = Arc::new(guest);
    let io = TokioIo::new(Patient::new(
        stream,
        limits.stall_time,
        limits.answer_time,
        Arc::clone(&guest),
    ));
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        let turn = guest.begin(is_health(request.uri().path()));
        let answer = turn.map(|turn| (turn, router.call(request)));
        async move {
            match answer {
                Ok((turn, answer)) => answer.await.map(|answer| {
                    // The turn lasts until hyper has taken the last frame of the body.
                    answer.map(|body| {
                        Body::new(body.map_frame(move |frame| {
                            let _ = &turn;
                            frame
                        }))
                    })
                }),
                Err(refused) => Ok::<_, Infallible>(refusal(refused, limits)),
            }
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_header_size(limits.head_bytes)
        .max_buf_size(limits.head_bytes.max(8192))
        .serve_connection(io, service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        biased;
        () = guest.evicted() => {
            tracing::debug!("closed a connection to make room");
            return;
        }
        result = &mut connection => result,
        _ = stop.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Responds that there is no room for the request.
fn refusal(refused: Refused, limits: Limits) -> Response<Body> {
    let reason = match refused {
        Refused::Peer => format!(
            "{} requests of this address are being answered, as many as may be; ask again\n",
            limits.requests_by_peer
        ),
        Refused::Full => format!(
            "{} requests are being answered, as many as may be; ask again\n",
            limits.requests
        ),
        Refused::Closed => "this connection was closed to make room; ask again\n".to_owned(),
    };
    let headers = [(header::RETRY_AFTER, "1"), (header::CONNECTION, "close")];
    (StatusCode::SERVICE_UNAVAILABLE, headers, reason).into_response()
}

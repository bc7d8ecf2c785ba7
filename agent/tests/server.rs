//! The server over real sockets: its answers, and its behaviour with slow, hostile or many clients.

// Clippy counts only the test functions themselves as tests, not the code they share.
#![allow(clippy::unwrap_used)]

#[path = "server/binding.rs"]
mod binding;
#[path = "server/client.rs"]
#[allow(dead_code, reason = "a part is for other tests")]
mod client;
#[path = "server/hostile.rs"]
mod hostile;
#[path = "server/names.rs"]
mod names;
#[path = "server/stopping.rs"]
mod stopping;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use client::{Client, LONG, Server, answers, handlers};
use serde_json::json;
use stallscope::api::Refusal;
use stallscope::exposition::lint_all;
use stallscope::server::{Config, Handlers, Limits, METRICS, bind, serve};

/// Paths on the overview, in order, that are served under this host's names only.
const NAMED: [&str; 7] = [
    "/",
    "/metrics",
    "/api/v1/status",
    "/api/v1/topology",
    "/api/v1/top",
    "/api/v1/timeline",
    "/api/v1/explain",
];
/// Those after them, which are served under any name.
const UNNAMED: [&str; 2] = ["/healthz", "/readyz"];

fn small() -> Server {
    Server::start(
        Limits::default(),
        handlers(|format| Ok(Bytes::from(format!("# {format:?}\n")))),
    )
}

#[tokio::test]
async fn metrics_come_in_the_format_asked_for() {
    let server = small();
    let mut client = Client::connect(&server).await;
    for (accept, body, content_type) in [
        ("", "# Text\n", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.4\r\naccept-encoding: gzip\r\n",
            "# OpenMetrics\n",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        (
            "accept: text/plain;q=0.1\r\naccept: application/openmetrics-text;q=0.2\r\n",
            "# OpenMetrics\n",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    ] {
        let answer = client.request("GET", "/metrics", accept).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, body));
        assert_eq!(answer.header("content-type"), Some(content_type));
        assert_eq!(answer.header("vary"), Some("accept"));
        assert_eq!(answer.header("content-encoding"), None);
    }
}

#[tokio::test]
async fn every_path_on_the_overview_is_served() {
    let server = small();
    let mut client = Client::connect(&server).await;
    let page = client.get("/").await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (200, Some("text/html; charset=utf-8"))
    );
    assert!(
        !page.body.contains("//"),
        "nothing is loaded from elsewhere"
    );
    let links: Vec<_> = page
        .body
        .split("<a href=\"")
        .skip(1)
        .map(|link| link.split_once('"').unwrap().0.to_owned())
        .collect();
    assert_eq!(links, [&NAMED[..], &UNNAMED].concat());
    for link in &links {
        assert_eq!(client.get(link).await.status, 200, "{link}");
        assert_eq!(
            client
                .get(&format!("{link}?query=is&not=looked#at"))
                .await
                .status,
            200,
            "{link}"
        );
        let [get, head] = [
            client.get(link).await,
            client.request("HEAD", link, "").await,
        ];
        assert_eq!(head.status, 200, "{link}");
        assert_eq!(
            head.header("content-length"),
            get.header("content-length"),
            "{link}"
        );
    }
    let status = client.get("/api/v1/status").await;
    assert_eq!(status.header("content-type"), Some("application/json"));
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&status.body).unwrap()["version"],
        "test"
    );

    let missing = client.get("/metrics/").await;
    assert_eq!(missing.status, 404);
    assert!(
        links
            .iter()
            .all(|link| missing.body.contains(&format!("  {link} "))),
        "{}",
        missing.body
    );
}

#[tokio::test]
async fn other_methods_are_refused() {
    let server = small();
    let mut client = Client::connect(&server).await;
    for path in ["/", "/metrics", "/api/v1/status"] {
        for method in ["POST", "DELETE", "OPTIONS", "BREW"] {
            let answer = client.request(method, path, "").await;
            assert_eq!(
                (answer.status, answer.header("allow")),
                (405, Some("GET,HEAD")),
                "{method} {path}"
            );
        }
    }
}

#[tokio::test]
async fn readiness_has_a_reason() {
    let ready = Arc::new(Mutex::new(Err("probes are being attached".to_owned())));
    let asked = Arc::clone(&ready);
    let handlers = Handlers {
        ready: Arc::new(move || asked.lock().unwrap().clone()),
        ..handlers(|_| Ok(Bytes::new()))
    };
    let server = Server::start(Limits::default(), handlers);
    let mut client = Client::connect(&server).await;
    let answer = client.get("/readyz").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (503, "not ready: probes are being attached\n")
    );
    assert_eq!(client.get("/healthz").await.status, 200);
    *ready.lock().unwrap() = Ok(());
    assert_eq!(client.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn questions_that_cannot_be_answered_say_why_as_json() {
    let handlers = Handlers {
        answers: answers(|request| match &request.labels[..] {
            [(name, value)] if name == "cgroup" && value == "/a b&c" => Ok(json!({"is": "it"})),
            [] => Err(Refusal::bad("nothing is chosen")),
            _ => Err(Refusal::missing("no <b>such</b> \"thing\"")),
        }),
        ..handlers(|_| Ok(Bytes::new()))
    };
    let server = Server::start(Limits::default(), handlers);
    let mut client = Client::connect(&server).await;
    for (query, status, body) in [
        ("?cgroup=%2Fa+b%26c", 200, json!({"is": "it"})),
        ("", 400, json!({"error": "nothing is chosen"})),
        ("?pod=x", 404, json!({"error": "no <b>such</b> \"thing\""})),
        (
            "?at=1&at=2",
            400,
            json!({"error": "`at` is given twice: give it once"}),
        ),
        (
            "?%ff=%fe&=&&=",
            400,
            json!({"error": "`` is given twice: give it once"}),
        ),
    ] {
        for path in ["top", "timeline", "explain"] {
            let answer = client.get(&format!("/api/v1/{path}{query}")).await;
            assert_eq!(answer.status, status, "{path}{query}: {}", answer.body);
            assert_eq!(answer.header("content-type"), Some("application/json"));
            let found: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            assert_eq!(found, body, "{path}{query}");
        }
    }
}

#[tokio::test]
async fn a_failed_collect_is_an_answer() {
    let calls = AtomicUsize::new(0);
    let server = Server::start(
        Limits::default(),
        handlers(move |_| match calls.fetch_add(1, Ordering::Relaxed) {
            0 => Err(anyhow::anyhow!("no such map").context("cannot read the snapshot")),
            1 => panic!("out of range"),
            _ => Ok(Bytes::from_static(b"fine\n")),
        }),
    );
    let mut client = Client::connect(&server).await;
    let failed = client.get("/metrics").await;
    assert_eq!(failed.status, 500);
    assert_eq!(
        failed.body,
        "collect failed: cannot read the snapshot: no such map\n"
    );
    let panicked = client.get("/metrics").await;
    assert_eq!(panicked.status, 500);
    assert!(panicked.body.contains("out of range"), "{}", panicked.body);
    assert_eq!(client.get("/metrics").await.body, "fine\n");
}

#[tokio::test]
async fn scrapes_at_the_same_time_share_a_collect() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let server = Server::start(
        Limits::default(),
        handlers(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            held.lock().unwrap().recv_timeout(LONG)?;
            Ok(Bytes::from_static(b"shared\n"))
        }),
    );
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect(&server).await;
        client
            .send("GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await;
        clients.push(client);
    }
    // The server answers health requests while the collect runs, and after it has read all requests above.
    for client in [
        &mut Client::connect(&server).await,
        &mut Client::connect(&server).await,
    ] {
        assert_eq!(client.get("/healthz").await.status, 200);
    }
    release.send(()).unwrap();
    for mut client in clients {
        assert_eq!(client.answer(true).await.body, "shared\n");
    }
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    release.send(()).unwrap();
    assert_eq!(
        Client::connect(&server).await.get("/metrics").await.status,
        200
    );
    assert_eq!(
        calls.load(Ordering::Relaxed),
        2,
        "what is done is not served again"
    );
}

#[tokio::test]
async fn a_collect_that_hangs_is_reported_and_not_repeated() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let limits = Limits {
        scrape_time: Duration::from_millis(100),
        ..Limits::default()
    };
    let server = Server::start(
        limits,
        handlers(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            held.lock().unwrap().recv_timeout(LONG)?;
            Ok(Bytes::new())
        }),
    );
    let mut client = Client::connect(&server).await;
    for _ in 0..3 {
        let answer = client.get("/metrics").await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (503, "no scrape within 100ms: a collect still runs\n")
        );
    }
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    release.send(()).unwrap();
}

#[tokio::test]
async fn requests_are_counted_under_bounded_labels() {
    let server = small();
    let mut client = Client::connect(&server).await;
    for path in [
        "/metrics",
        "/metrics?a",
        "/secret-1",
        "/secret-2",
        "/healthz",
    ] {
        client.get(path).await;
    }
    client.request("POST", "/metrics", "").await;
    let counted = server.counted();
    for line in [
        "stallscope_http_requests_total{code=\"200\",path=\"/metrics\"} 2",
        "stallscope_http_requests_total{code=\"405\",path=\"/metrics\"} 1",
        "stallscope_http_requests_total{code=\"404\",path=\"other\"} 2",
        "stallscope_http_requests_total{code=\"200\",path=\"/healthz\"} 1",
        "stallscope_collect_duration_seconds_count 2",
        "stallscope_scrape_size_bytes 7",
        "stallscope_http_connections_refused_total{reason=\"all\"} 0",
        "stallscope_http_connections_evicted_total{reason=\"slow\"} 0",
    ] {
        assert!(
            counted.lines().any(|counted| counted == line),
            "{line} in\n{counted}"
        );
    }
    assert!(!counted.contains("secret"));
}

#[tokio::test]
async fn a_second_server_on_the_same_registry_is_an_error() {
    let registry = prometheus::Registry::new();
    let once = || {
        serve(
            Config::default(),
            bind("127.0.0.1:0").unwrap(),
            handlers(|_| Ok(Bytes::new())),
            &registry,
            async {},
        )
    };
    once().await.unwrap();
    assert!(format!("{:#}", once().await.unwrap_err()).contains("own metrics"));
}

#[test]
fn own_definitions_are_sound() {
    assert_eq!(lint_all(&METRICS), Vec::<String>::new());
}

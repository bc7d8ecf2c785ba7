//! Many clients at once, idle, slow and in floods: the server still answers health requests, and its memory is bounded.
//!
//! `kernel_peers.rs` runs the same attacks on the agent itself.

// Clippy counts only the test functions themselves as tests, not the code they share.
#![allow(clippy::unwrap_used)]

#[path = "server/client.rs"]
#[allow(dead_code, reason = "made for the tests of the server")]
mod client;
#[path = "server/need.rs"]
mod need;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use client::{Client, LONG, Server, answers, handlers};
use need::{SOURCES, health_is_answered};
use serde_json::json;
use stallscope::server::{Handlers, Limits};
use tokio::sync::{Mutex, MutexGuard};

/// Size of a large answer, in bytes: more than the kernel's own buffers hold.
const LARGE: usize = 8 << 20;

/// Serializes the tests, because they share the process' memory and descriptors.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    let guard = ALONE.lock().await;
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    guard
}

fn server(limits: Limits) -> Server {
    let handlers = Handlers {
        answers: answers(|_| Ok(json!({ "timeline": "x".repeat(LARGE) }))),
        ..handlers(|_| Ok(Bytes::from(vec![b'#'; LARGE])))
    };
    Server::start(limits, handlers)
}

#[tokio::test]
async fn idle_sockets_lock_nobody_out() {
    let _alone = alone().await;
    for count in [64_u64, 500] {
        let server = server(Limits::default());
        let mut idle = Vec::new();
        for index in 0..count {
            let mut client = Client::connect(&server).await;
            // Some clients send nothing, some part of a request, and some have already been answered.
            match index % 3 {
                0 => {}
                1 => client.send("GET /metrics HT").await,
                _ => _ = client.get("/api/v1/status").await,
            }
            idle.push(client);
        }
        health_is_answered(server.address).await;
        for source in SOURCES {
            let answer = Client::from(source, server.address)
                .await
                .get("/metrics")
                .await;
            assert_eq!((answer.status, answer.body.len()), (200, LARGE));
        }
        // The server evicted the clients that waited longest. Those that came last are still there.
        let evicted = server.sum("stallscope_http_connections_evicted_total{reason=\"waiting\"}");
        assert!(evicted >= count - 64, "{evicted} of {count}");
        assert_eq!(server.sum("stallscope_http_connections_refused_total"), 0);
        idle.first_mut().unwrap().closed().await;
    }
}

#[tokio::test]
async fn slow_readers_lock_nobody_out_of_health() {
    let _alone = alone().await;
    // The second case has no limit by peer, as if the requests came from everywhere.
    for (requests_by_peer, most, refused) in [(24, 24, "peer"), (1000, 96, "all")] {
        let limits = Limits {
            requests_by_peer,
            stall_time: LONG * 10,
            slow_time: LONG * 10,
            unread_bytes: LARGE * 200,
            ..Limits::default()
        };
        let server = server(limits);
        let mut slow = Vec::new();
        for path in ["/metrics", "/api/v1/timeline"].repeat(most / 2) {
            let mut client = Client::narrow(&server).await;
            client
                .send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"))
                .await;
            slow.push(client);
        }
        // The server refuses the next request once it is answering all of these.
        let mut answer = Client::connect(&server).await.get("/").await;
        while answer.status == 200 {
            answer = Client::connect(&server).await.get("/").await;
        }
        assert_eq!(answer.status, 503, "{answer:?}");
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert!(
            answer.body.contains("as many as may be; ask again"),
            "{answer:?}"
        );
        health_is_answered(server.address).await;
        let refusals = format!("stallscope_http_connections_refused_total{{reason=\"{refused}\"}}");
        assert!(server.sum(&refusals) >= 1);
        drop(slow);
        // Clients that have left take no room.
        while Client::connect(&server).await.get("/").await.status != 200 {}
    }
}

#[tokio::test]
async fn a_flood_of_connections_locks_nobody_out() {
    let _alone = alone().await;
    let server = server(Limits::default());
    let address = server.address;
    let over = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&over);
    let flood = std::thread::spawn(move || {
        let mut open = std::collections::VecDeque::new();
        let mut count = 0;
        while !ended.load(Ordering::Relaxed) {
            open.extend(std::net::TcpStream::connect(address));
            count += 1;
            if open.len() > 300 {
                open.pop_front();
            }
        }
        count
    });
    health_is_answered(server.address).await;
    let answer = Client::from(SOURCES[1], server.address)
        .await
        .get("/metrics")
        .await;
    assert_eq!((answer.status, answer.body.len()), (200, LARGE));
    over.store(true, Ordering::Relaxed);
    let count = flood.join().unwrap();
    eprintln!("{count} connections were made meanwhile");
}

/// Returns the peak memory of this process in bytes since [`forget_peak`].
fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<usize>().unwrap() * 1024
}

/// Resets the peak memory of this process (proc(5), `clear_refs`).
fn forget_peak() {
    fs::write("/proc/self/clear_refs", "5").unwrap();
}

#[tokio::test]
async fn answers_that_nobody_reads_stay_within_the_budget() {
    let _alone = alone().await;
    let limits = Limits {
        requests_by_peer: 96,
        stall_time: LONG * 10,
        // The server closes no client in favour of others here.
        slow_time: LONG * 10,
        room_time: Duration::from_millis(20),
        ..Limits::default()
    };
    let server = server(limits);
    // Each answer is requested once before, so that the process has allocated the memory it keeps.
    let mut client = Client::connect(&server).await;
    for path in ["/metrics", "/api/v1/timeline", "/page/main.js"] {
        assert_eq!(client.get(path).await.status, 200);
    }
    drop(client);
    while server.sum("stallscope_http_unread_bytes") > 0 {
        tokio::task::yield_now().await;
    }
    forget_peak();
    let before = peak();
    let answered = |server: &Server| {
        server.sum("stallscope_http_requests_total{code=\"200\",path=\"/api/v1/timeline\"}")
            + server.sum("stallscope_http_requests_total{code=\"200\",path=\"/metrics\"}")
            + server.sum("stallscope_http_requests_total{code=\"503\"")
    };
    let first = answered(&server);
    let mut slow = Vec::new();
    for path in ["/api/v1/timeline", "/api/v1/timeline", "/metrics"].repeat(20) {
        let mut client = Client::narrow(&server).await;
        client
            .send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"))
            .await;
        slow.push(client);
    }
    while answered(&server) < first + 60 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let unread = server.sum("stallscope_http_unread_bytes");
        assert!(unread <= limits.unread_bytes as u64, "{unread}");
    }
    let grown = peak() - before;
    eprintln!("60 answers of {LARGE} bytes that nobody reads: {grown} bytes more in memory");
    // Besides the budget there is one answer of each kind in the making: a scrape, an answer as a tree, and one as a
    // growing text.
    let most = limits.unread_bytes + 6 * LARGE;
    assert!(grown < most, "{grown} bytes, expected at most {most}");
    // Scrapes at the same time share their memory. Of the others the server answers as many as fit.
    let refused = server.sum("stallscope_http_requests_total{code=\"503\"");
    assert!(refused >= 36, "{refused}");
    let unread = server.sum("stallscope_http_unread_bytes");
    assert!(unread >= limits.unread_bytes as u64 / 2, "{unread}");
    // The server frees all of it with the clients.
    drop(slow);
    while server.sum("stallscope_http_unread_bytes") > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn who_is_slow_leaves_when_others_need_the_room() {
    let _alone = alone().await;
    let limits = Limits {
        unread_bytes: LARGE + LARGE / 2,
        slow_time: Duration::from_millis(50),
        stall_time: LONG * 10,
        room_time: LONG,
        ..Limits::default()
    };
    let server = server(limits);
    for path in ["/metrics", "/api/v1/timeline", "/metrics"] {
        let mut slow = Client::narrow(&server).await;
        slow.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"))
            .await;
        // Once the answer has begun, it takes its room.
        slow.0.readable().await.unwrap();
        let answer = Client::from(SOURCES[1], server.address)
            .await
            .get("/api/v1/top")
            .await;
        assert_eq!(answer.status, 200);
        assert!(answer.body.len() > LARGE);
        slow.closed().await;
    }
    assert_eq!(
        server.sum("stallscope_http_connections_evicted_total{reason=\"slow\"}"),
        3
    );
}

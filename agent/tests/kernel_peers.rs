//! Attacks on the port of a real agent: those that `peers.rs` runs against the server alone.

// Clippy counts only the test functions themselves as tests, not the code they share.
#![allow(clippy::unwrap_used)]

#[path = "server/client.rs"]
#[allow(dead_code, reason = "made for the tests of the server")]
mod client;
#[path = "server/need.rs"]
mod need;
mod serving;

use std::process::Command;

use client::{Client, sum};
use need::{SOURCES, health_is_answered};
use serving::Serving;

/// Limit of answers that clients have yet to read and the agent keeps for them, in bytes (docs/api.md).
const BUDGET: u64 = 32 << 20;

#[tokio::test]
#[ignore = "needs root and BPF: attaches the probes"]
async fn whoever_reaches_the_port_locks_nobody_out() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let agent = Serving::start(["--doctor", "off"]);
    let address = agent.address.parse().unwrap();
    let resident = |scrape: &str| sum(scrape, "process_resident_memory_bytes ");
    let (_, before) = agent.get("/metrics");

    for count in [64_u64, 500] {
        let mut idle = Vec::new();
        for _ in 0..count {
            idle.push(Client::from(SOURCES[0], address).await);
        }
        health_is_answered(address).await;
        let answer = Client::from(SOURCES[1], address)
            .await
            .get("/metrics")
            .await;
        assert_eq!(answer.status, 200);
        let evicted = "stallscope_http_connections_evicted_total{reason=\"waiting\"}";
        assert!(sum(&answer.body, evicted) >= count - 64);
    }

    // The client sends as many requests as fit into a head's buffer: each connection has more answers to come than it
    // takes.
    let mut slow = Vec::new();
    for path in ["/metrics", "/api/v1/top", "/api/v1/status"].repeat(20) {
        let mut client = Client::narrow_at(address).await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        client.send(request.repeat(200)).await;
        slow.push(client);
    }
    health_is_answered(address).await;
    let scrape = loop {
        let answer = Client::from(SOURCES[1], address)
            .await
            .get("/metrics")
            .await;
        if answer.status == 200 {
            break answer.body;
        }
        // The client has the same peer address as the slow ones, and must wait until the agent closes them.
        assert_eq!(answer.status, 503, "{answer:?}");
    };
    let unread = sum(&scrape, "stallscope_http_unread_bytes ");
    assert!(unread <= BUDGET, "{unread}");
    let grown = resident(&scrape).saturating_sub(resident(&before));
    eprintln!("beside 60 slow readers: {unread} bytes unread, {grown} more in memory");
    assert!(grown < 2 * BUDGET, "{grown}");
}

#[test]
#[ignore = "needs root and BPF: attaches the probes"]
fn names_of_others_are_refused_unless_they_are_asked_for() {
    let agent = Serving::start([
        "--doctor",
        "off",
        "--allowed-host",
        "stallscope.example.com",
    ]);
    for (name, status) in [("evil.example", 421), ("stallscope.example.com", 200)] {
        for path in ["/metrics", "/api/v1/status"] {
            let (found, _) = serving::http::get_as(&agent.address, name, path).unwrap();
            assert_eq!(found, status, "{path} as {name}");
        }
    }
    // The agent's own commands connect to the address, whatever name users give it.
    let (_, port) = agent.address.rsplit_once(':').unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_stallscope"))
        .args(["status", "--agent", &format!("localhost:{port}")])
        .output()
        .unwrap();
    assert!(status.status.success(), "{status:?}");
}

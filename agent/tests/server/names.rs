//! Host names that the server answers to, and origins that it accepts.

use bytes::Bytes;
use stallscope::server::{AllowedHost, Config, Hosts};

use super::client::{Answer, Client, Server, handlers};
use super::{NAMED, UNNAMED};

fn allowing(names: &[&str]) -> Server {
    let names = names.iter().map(|name| name.parse().unwrap());
    let config = Config {
        hosts: Hosts::new(names),
        ..Config::default()
    };
    Server::with(config, handlers(|_| Ok(Bytes::from_static(b"measured\n"))))
}

async fn ask(server: &Server, request: &str) -> Answer {
    let mut client = Client::connect(server).await;
    client.send(request).await;
    client.answer(true).await
}

async fn asked_as(server: &Server, host: &str, path: &str) -> u16 {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    ask(server, &request).await.status
}

/// Returns paths that are served under this host's names only, and the status of each.
fn paths() -> impl Iterator<Item = (&'static str, u16)> {
    let served = NAMED.into_iter().chain(["/page/main.js"]);
    served.map(|path| (path, 200)).chain([("/nothing", 404)])
}

#[tokio::test]
async fn names_of_others_are_refused() {
    let server = allowing(&[]);
    for name in [
        "evil.example",
        "evil.example:9750",
        "EVIL.example.",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil-localhost",
        "localhost.localdomain",
        "stallscope.monitoring.svc.cluster.local",
        "0x7f.1",
        "0177.0.0.1",
        "2130706433",
        "127.1",
    ] {
        for (path, _) in paths() {
            assert_eq!(asked_as(&server, name, path).await, 421, "{path} as {name}");
        }
        for path in UNNAMED {
            assert_eq!(asked_as(&server, name, path).await, 200, "{path} as {name}");
        }
    }
    let counted = server.counted();
    assert!(
        counted.contains("stallscope_http_requests_total{code=\"421\",path=\"/metrics\"} 12\n"),
        "{counted}"
    );
}

#[tokio::test]
async fn a_refused_name_comes_with_what_to_do() {
    let server = allowing(&[]);
    let mut client = Client::connect(&server).await;
    let reason = "evil.example is not known as a name of this host: ask for its address, or start the agent with \
        --allowed-host evil.example";
    client
        .send("GET /metrics HTTP/1.1\r\nHost: Evil.example.:80\r\n\r\n")
        .await;
    assert_eq!(client.answer(true).await.body, format!("{reason}\n"));
    client
        .send("GET /api/v1/top HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        .await;
    let answer = client.answer(true).await;
    let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(json, serde_json::json!({ "error": reason }));
}

#[tokio::test]
async fn addresses_and_names_of_this_host_are_answered() {
    let server = allowing(&[]);
    let machine = rustix::system::uname();
    let machine = machine.nodename().to_str().unwrap();
    for name in [
        "127.0.0.1",
        "127.0.0.1:9750",
        "127.0.0.1.",
        "192.0.2.7:80",
        "[::1]",
        "[::1]:9750",
        "[2001:DB8::a]:1",
        "[fe80::1%eth0]:9750",
        "localhost",
        "LocalHost:9750",
        "localhost.",
        "localhost.:1",
        "localhost:",
        machine,
        &machine.to_uppercase(),
        &format!("{machine}.:9750"),
    ] {
        for (path, status) in paths() {
            let answered = asked_as(&server, name, path).await;
            assert_eq!(answered, status, "{path} as {name}");
        }
    }
}

#[tokio::test]
async fn names_are_answered_that_were_asked_for() {
    let server = allowing(&["Stallscope.example.com.", "*.svc", "node_1"]);
    for (name, status) in [
        ("stallscope.example.com", 200),
        ("stallscope.example.com:443", 200),
        ("a.stallscope.example.com", 421),
        ("example.com", 421),
        ("stallscope.monitoring.svc:9750", 200),
        ("svc", 421),
        ("evilsvc", 421),
        ("a.svc.evil.example", 421),
        ("NODE_1", 200),
    ] {
        assert_eq!(asked_as(&server, name, "/metrics").await, status, "{name}");
    }
    let server = allowing(&["*"]);
    assert_eq!(asked_as(&server, "evil.example", "/metrics").await, 200);
    assert_eq!(asked_as(&server, "$(id)", "/metrics").await, 400);
}

#[tokio::test]
async fn a_host_that_is_none_is_refused() {
    let server = allowing(&[]);
    for host in [
        "",
        "$(touch${IFS}x)",
        "a;b",
        "local host",
        "user@localhost",
        "localhost:x",
        "localhost:65536",
        "localhost:80:80",
        "http://localhost",
        "localhost/",
        "[::1",
        "::1",
        "[::1]x",
        "[127.0.0.1]",
        "[localhost]",
        "l\u{f6}calhost",
        &"a".repeat(300),
    ] {
        let status = asked_as(&server, host, "/metrics").await;
        assert_eq!(status, 400, "{host:?}");
    }
    for request in [
        // HTTP/1.1 requests must name the host exactly once.
        "GET /metrics HTTP/1.1\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\r\n",
    ] {
        assert_eq!(ask(&server, request).await.status, 400, "{request}");
    }
}

#[tokio::test]
async fn the_target_can_name_the_host_as_well() {
    let server = allowing(&[]);
    for (request, status) in [
        ("GET /metrics HTTP/1.0\r\n\r\n", 200),
        ("GET /metrics HTTP/1.0\r\nhost: evil.example\r\n\r\n", 421),
        (
            "GET http://evil.example/metrics HTTP/1.1\r\nhost: localhost\r\n\r\n",
            421,
        ),
        (
            "GET http://localhost/metrics HTTP/1.1\r\nhost: evil.example\r\n\r\n",
            421,
        ),
        ("GET http://evil.example/metrics HTTP/1.0\r\n\r\n", 421),
        (
            "GET http://localhost:1/metrics HTTP/1.1\r\nhost: localhost\r\n\r\n",
            200,
        ),
    ] {
        assert_eq!(ask(&server, request).await.status, status, "{request}");
    }
}

#[tokio::test]
async fn pages_of_others_are_refused() {
    let server = allowing(&["stallscope.example.com"]);
    for (host, origin, status) in [
        ("localhost:9750", "http://localhost:9750", 200),
        ("localhost:9750", "http://LOCALHOST:9750", 200),
        ("127.0.0.1", "http://127.0.0.1", 200),
        ("127.0.0.1:80", "http://127.0.0.1", 200),
        ("[::1]:9750", "http://[::1]:9750", 200),
        // A proxy in front uses https.
        (
            "stallscope.example.com",
            "https://stallscope.example.com",
            200,
        ),
        ("localhost:9750", "http://localhost:3000", 403),
        ("localhost:9750", "http://localhost", 403),
        ("localhost:9750", "http://127.0.0.1:9750", 403),
        ("localhost:9750", "https://evil.example", 403),
        ("stallscope.example.com", "https://evil.example", 403),
        ("localhost:9750", "null", 403),
        ("localhost:9750", "", 403),
        ("localhost:9750", "localhost:9750", 403),
        ("localhost:9750", "chrome-extension://localhost:9750", 403),
        ("localhost:9750", "http://localhost:9750/", 403),
    ] {
        for path in ["/metrics", "/api/v1/top", "/"] {
            let request =
                format!("GET {path} HTTP/1.1\r\nhost: {host}\r\norigin: {origin}\r\n\r\n");
            let answer = ask(&server, &request).await;
            assert_eq!(answer.status, status, "{path} of {host} for {origin}");
            assert!(!answer.head.contains("access-control"), "{}", answer.head);
            assert_eq!(
                answer.header("cross-origin-resource-policy"),
                Some("same-origin")
            );
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        }
    }
    let twice = "GET /metrics HTTP/1.1\r\nhost: localhost\r\norigin: http://localhost\r\norigin: http://a\r\n\r\n";
    assert_eq!(ask(&server, twice).await.status, 403);
    let none = "GET /metrics HTTP/1.0\r\norigin: http://localhost\r\n\r\n";
    assert_eq!(ask(&server, none).await.status, 403);
}

#[test]
fn names_that_cannot_be_are_refused_on_the_command_line() {
    for (given, expected) in [
        ("localhost:9750", "without a port"),
        ("127.0.0.1", "addresses are always answered"),
        ("[::1]", "addresses are always answered"),
        ("https://a.example", "such as stallscope.example.com"),
        ("", "such as stallscope.example.com"),
        ("*.", "such as stallscope.example.com"),
        ("a.*.example", "such as stallscope.example.com"),
        ("*.example.com:80", "such as stallscope.example.com"),
    ] {
        let error = given.parse::<AllowedHost>().unwrap_err();
        assert!(error.contains(expected), "{given}: {error}");
    }
}

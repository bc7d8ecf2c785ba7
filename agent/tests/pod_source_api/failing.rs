//! Failing answers, and the pauses before the client asks again.

use std::time::{Duration, Instant};

use stallscope::attribution::pods::api::{Config, Timing};

use super::heard::{Heard, config};
use super::server::{Answer, Part, Server, pod};

/// Time to count requests: two hundred per second would mean no pause at all.
const WATCHED_FOR: Duration = Duration::from_millis(1500);

fn kubeconfig(server: &Server, directory: &tempfile::TempDir) -> Config {
    let (file, token) = (
        directory.path().join("kubeconfig"),
        directory.path().join("token"),
    );
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: \"{}\"}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         users: [{{name: u, user: {{tokenFile: \"{}\"}}}}]\n",
        server.url(),
        token.display()
    );
    std::fs::write(&file, text).unwrap();
    Config {
        address: None,
        kubeconfig: Some(file),
        ..config("")
    }
}

#[tokio::test]
async fn a_token_that_is_refused_is_read_anew() {
    let server = Server::start(Answer::list("7", "", &[]));
    server.next([
        Answer::status(401, "Unauthorized"),
        Answer::status(401, "Unauthorized"),
    ]);
    let directory = tempfile::tempdir().unwrap();
    let config = kubeconfig(&server, &directory);
    std::fs::write(directory.path().join("token"), "old").unwrap();
    let mut heard = Heard::start(config);
    heard.until("down unauthorized").await;
    std::fs::write(directory.path().join("token"), "new").unwrap();
    heard.until("all").await;
    let sent: Vec<_> = server
        .asked()
        .into_iter()
        .filter_map(|asked| asked.authorization)
        .collect();
    assert_eq!(sent[0], "Bearer old");
    assert_eq!(sent.last().unwrap(), "Bearer new");
}

#[tokio::test]
async fn credentials_that_are_missing_are_waited_for() {
    let server = Server::start(Answer::list("7", "", &[]));
    let directory = tempfile::tempdir().unwrap();
    let config = kubeconfig(&server, &directory);
    let mut heard = Heard::start(config);
    heard.until("down config").await;
    let token = directory.path().join("token");
    let named = token.display().to_string();
    assert!(heard.text().contains(&named), "{}", heard.text());
    for nonsense in [&b""[..], b"\n", b"two words", b"a\nb", b"\xff", &[0; 100]] {
        std::fs::write(&token, nonsense).unwrap();
        heard.skip();
        heard.until("down config").await;
        assert!(heard.text().contains(&named), "{}", heard.text());
    }
    assert!(server.asked().is_empty());
    std::fs::write(&token, "late").unwrap();
    heard.until("all").await;
}

#[tokio::test]
async fn what_is_not_allowed_is_named() {
    let server = Server::start(Answer::status(
        403,
        "pods is forbidden: User \"x\" cannot list",
    ));
    let mut heard = Heard::of(&server);
    heard.until("down forbidden").await;
    for part in [
        "cannot list",
        "list and watch on pods",
        "ClusterRole",
        &server.url(),
    ] {
        assert!(heard.text().contains(part), "{part} in {}", heard.text());
    }
    // The permission is granted later.
    server.lists(Answer::list("7", "", &[pod("a", 1, "1")]));
    heard.until("all shop/a").await;
    heard.until("up").await;
}

#[tokio::test]
async fn failures_are_asked_for_ever_more_rarely() {
    for (answer, reason) in [
        (Answer::status(500, "etcd is down"), "server_error"),
        (
            Answer::status(503, "apiserver is shutting down"),
            "overloaded",
        ),
        (Answer::status(404, "not found"), "bad_answer"),
        (Answer::parts([Part::Cut]), "unreachable"),
    ] {
        let server = Server::start(answer);
        let mut heard = Heard::of(&server);
        heard.until(&format!("down {reason}")).await;
        tokio::time::sleep(WATCHED_FOR).await;
        let asked = server.asked().len();
        assert!((3..40).contains(&asked), "{reason}: {asked} requests");
    }
}

#[tokio::test]
async fn watches_that_end_at_once_are_asked_for_ever_more_rarely() {
    let server = Server::start(Answer::list("7", "", &[]));
    server.watches(Answer::ended(&[]));
    let mut heard = Heard::of(&server);
    heard.until("up").await;
    tokio::time::sleep(WATCHED_FOR).await;
    let asked = server.asked().len();
    assert!((6..80).contains(&asked), "{asked} requests");
    assert!(heard.texts.is_empty(), "{:?}", heard.texts);
}

#[tokio::test]
async fn a_server_that_asks_for_patience_gets_it() {
    let server = Server::start(Answer::list("7", "", &[]));
    let busy = Answer {
        headers: vec![("retry-after", "1".to_owned())],
        ..Answer::status(429, "too many requests")
    };
    server.next([busy]);
    let mut config = config(&server.url());
    config.timing.longest_pause = Duration::from_secs(5);
    let start = Instant::now();
    let mut heard = Heard::start(config);
    heard.until("down overloaded").await;
    heard.until("all").await;
    assert!(
        start.elapsed() >= Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_name_that_nobody_has_is_unreachable() {
    let mut heard = Heard::start(config("http://nobody.invalid:6443"));
    heard.until("down unreachable").await;
    assert!(heard.text().contains("nobody.invalid"), "{}", heard.text());
}

/// Returns a configuration with timeouts of a fraction of a second.
fn impatient(server: &Server) -> Config {
    let timing = config("").timing;
    Config {
        timing: Timing {
            answer: Duration::from_millis(300),
            watch: Duration::from_secs(1),
            ..timing
        },
        ..config(&server.url())
    }
}

#[tokio::test]
async fn a_server_that_is_too_slow_is_given_up() {
    let stalled = [
        // These answers send nothing after the head, half a list, or a byte now and then for ever.
        Answer::parts([Part::Stall]),
        Answer::parts([Part::Text("{\"items\": [".to_owned()), Part::Stall]),
        Answer::parts([Part::Repeat(" ".into(), Duration::from_millis(20))]),
    ];
    for answer in stalled {
        let server = Server::start(Answer::list("7", "", &[]));
        server.next([answer]);
        let mut heard = Heard::start(impatient(&server));
        heard.until("down timeout").await;
        heard.until("all").await;
    }
}

#[tokio::test]
async fn a_line_that_stalls_is_given_up_and_silence_is_not() {
    let server = Server::start(Answer::list("7", "", &[]));
    let half = Part::Text("{\"type\": \"ADDED\", ".to_owned());
    server.next([
        Answer::list("7", "", &[]),
        Answer::parts([half, Part::Stall]),
    ]);
    let mut heard = Heard::start(impatient(&server));
    heard.until("down timeout").await;
    heard.until("all").await;
    let troubles = heard.texts.len();
    // The pause is longer than an answer may take, and shorter than a watch.
    tokio::time::sleep(Duration::from_millis(700)).await;
    heard.count("up");
    assert_eq!(heard.texts.len(), troubles, "{:?}", heard.texts);
    // The client also gives up a watch that should have ended long ago.
    heard.until("down timeout").await;
}

#[tokio::test]
async fn connections_may_break_at_any_point() {
    let server = Server::start(Answer::list("7", "", &[pod("a", 1, "1")]));
    let raw: [&'static [u8]; 8] = [
        b"",
        b"HT",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"items\": [",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"ite",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ];
    server.raw(raw);
    let mut heard = Heard::of(&server);
    for _ in raw {
        heard.until("down unreachable").await;
    }
    heard.until("all shop/a").await;
    heard.until("up").await;
}

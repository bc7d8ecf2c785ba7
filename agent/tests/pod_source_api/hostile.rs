//! Endless and false answers.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use stallscope::attribution::pods::{Directory, api};

use super::heard::Heard;
use super::server::{Answer, Part, Server, at, change, pod, uid};

const MIB: u64 = 1 << 20;

/// Returns an endless text, in pieces that cost the server no memory.
fn flood(text: &'static str) -> Answer {
    let piece = text.repeat(256 * 1024 / text.len());
    Answer::parts([Part::Repeat(Bytes::from(piece), Duration::ZERO)])
}

#[tokio::test]
async fn a_line_without_end_is_not_read_to_it() {
    let server = Server::start(Answer::list("7", "", &[]));
    server.next([Answer::list("7", "", &[]), flood("x")]);
    let mut heard = Heard::of(&server);
    heard.until("down bad_answer").await;
    assert!(
        heard.text().contains("bytes in one piece"),
        "{}",
        heard.text()
    );
    heard.until("up").await;
    // The bytes sent beyond the bound were in the sockets' buffers.
    assert!(
        (8 * MIB..24 * MIB).contains(&server.sent()),
        "{} bytes",
        server.sent()
    );
}

#[tokio::test]
async fn a_list_without_end_is_not_read_to_it() {
    let server = Server::start(Answer::list("7", "", &[]));
    server.next([flood("[{\"metadata\":")]);
    let mut heard = Heard::of(&server);
    heard.until("down bad_answer").await;
    heard.until("all").await;
    assert!(
        (64 * MIB..80 * MIB).contains(&server.sent()),
        "{} bytes",
        server.sent()
    );
}

#[tokio::test]
async fn an_error_without_end_is_not_read_to_it() {
    let server = Server::start(Answer::list("7", "", &[]));
    let endless = Answer {
        status: 500,
        ..flood("oops ")
    };
    server.next([endless]);
    let mut heard = Heard::of(&server);
    heard.until("down server_error").await;
    assert!(heard.text().len() < 1000, "{} bytes", heard.text().len());
    heard.until("all").await;
    assert!(server.sent() < 16 * MIB, "{} bytes", server.sent());
}

#[tokio::test]
async fn answers_that_are_no_lists_are_refused() {
    let deep = "[".repeat(1 << 20);
    let answers = [
        "",
        "null",
        "3",
        "[]",
        "{}",
        "<html>",
        "{\"items\": 3}",
        "{\"items\": [}",
        "\u{0}",
        &deep,
        "{\"metadata\": {\"resourceVersion\": \"\"}}",
        "{\"metadata\": {\"resourceVersion\": 7}}",
        "{\"metadata\": {\"resourceVersion\": \"7\\n8\"}, \"items\": []}",
    ];
    let server = Server::start(Answer::list("7", "", &[]));
    server.next(answers.map(Answer::text));
    let mut heard = Heard::of(&server);
    for _ in answers {
        heard.until("down bad_answer").await;
        assert!(heard.text().len() < 1000, "{} bytes", heard.text().len());
    }
    heard.until("all").await;
    heard.until("up").await;
}

#[tokio::test]
async fn an_empty_list_may_be_null() {
    let server = Server::start(Answer::text(
        r#"{"metadata":{"resourceVersion":"7"},"items":null}"#,
    ));
    let mut heard = Heard::of(&server);
    heard.until("all").await;
    heard.until("up").await;
}

fn with_uid(name: &str, uid: &Value) -> Value {
    let mut pod = pod(name, 1, "5");
    pod["metadata"]["uid"] = uid.clone();
    pod
}

#[tokio::test]
async fn pods_that_make_no_sense_are_doubted_and_the_others_named() {
    let list = [
        with_uid("none", &json!("no uid")),
        with_uid("null", &Value::Null),
        with_uid("number", &json!(12)),
        json!("a text"),
        json!({"metadata": {"namespace": "shop", "name": "x".repeat(1 << 20), "uid": uid(3)}}),
        pod("good", 4, "6"),
    ];
    let server = Server::start(Answer::list("7", "", &list));
    server.watches(Answer::changes(&[
        ("ADDED", with_uid("later", &json!("no uid"))),
        ("MODIFIED", json!([])),
        ("MODIFIED", pod("good", 4, "8")),
    ]));
    let mut heard = Heard::of(&server);
    heard.until("all shop/good").await;
    heard.until("put shop/good server").await;
    assert_eq!(heard.count("doubt bad_uid"), 3);
    assert_eq!(heard.count("doubt bad_pod"), 4);
    assert!(heard.texts.iter().all(|text| text.len() < 2000));
}

#[tokio::test]
async fn a_uid_that_two_pods_claim_stays_with_the_first() {
    let (first, liar) = (pod("first", 1, "5"), pod("liar", 1, "6"));
    let server = Server::start(Answer::list("7", "", &[first.clone(), liar.clone()]));
    server.watches(Answer::changes(&[
        ("DELETED", liar),
        ("BOOKMARK", at("8")),
        ("DELETED", first),
    ]));
    let mut heard = Heard::of(&server);
    heard.until("all shop/first shop/liar").await;
    heard.until("ended shop/first").await;
    assert_eq!(heard.count("ended shop/liar"), 0);
    let mut directory = Directory::default();
    let mut put =
        |index: usize| directory.put(heard.pods[index].0.clone(), heard.pods[index].1.clone());
    assert!(put(0).is_ok() && put(1).is_err());
}

#[tokio::test]
async fn pods_are_bounded_in_number() {
    let pods: Vec<Value> = (0..5000).map(|i| pod(&format!("p{i}"), i, "5")).collect();
    let server = Server::start(Answer::list("7", "", &pods));
    server.watches(Answer::changes(&[
        ("ADDED", pod("extra", 9000, "8")),
        ("MODIFIED", pod("p7", 7, "9")),
        ("DELETED", pod("p8", 8, "10")),
        ("ADDED", pod("room", 9001, "11")),
    ]));
    let mut heard = Heard::of(&server);
    heard.until("doubt too_many_pods").await;
    heard.until("doubt too_many_pods").await;
    heard.until("put shop/p7 server").await;
    heard.until("ended shop/p8").await;
    heard.until("put shop/room server").await;
    assert_eq!(heard.count("put shop/extra server"), 0);
    // These are all pods of the list, and three of the watch.
    assert_eq!(heard.pods.len(), api::MAX_PODS + 3);
}

#[tokio::test]
async fn changes_come_no_faster_than_they_are_taken_in() {
    let server = Server::start(Answer::list("7", "", &[]));
    let mut parts: Vec<Part> = (0..5000)
        .map(|_| change("MODIFIED", &pod("a", 1, "8")))
        .collect();
    parts.push(change("MODIFIED", &pod("last", 2, "9")));
    parts.push(Part::Stall);
    server.watches(Answer::parts(parts));
    let start = Instant::now();
    let mut heard = Heard::of(&server);
    heard.until("put shop/last server").await;
    assert!(
        start.elapsed() > Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    let count = heard.count("put shop/a server");
    assert_eq!(count, 5000, "{:?}", heard.texts);
}

#[tokio::test]
async fn doubts_are_bounded_in_number() {
    let bad: Vec<Value> = (0..1000)
        .map(|i| with_uid(&format!("p{i}"), &json!("x")))
        .collect();
    let server = Server::start(Answer::list("7", "", &bad));
    let mut heard = Heard::of(&server);
    heard.until("all").await;
    let doubts = heard.count("doubt bad_uid");
    assert!((1..100).contains(&doubts), "{doubts}");
}

//! Changes, and the continuation of a watch after its end.

use serde_json::json;

use super::heard::Heard;
use super::server::{Answer, Part, Server, at, change, pod, uid};

#[tokio::test]
async fn changes_are_passed_on_as_they_come() {
    let server = Server::start(Answer::list("7", "", &[]));
    let mut waiting = pod("cart-0", 1, "8");
    waiting["status"] = json!({"containerStatuses": [{"name": "server", "containerID": ""}]});
    server.next([
        Answer::list("7", "", &[]),
        Answer::changes(&[
            ("ADDED", waiting),
            ("MODIFIED", pod("cart-0", 1, "9")),
            ("BOOKMARK", at("10")),
            ("DELETED", pod("cart-0", 1, "11")),
        ]),
    ]);
    let mut heard = Heard::of(&server);
    heard.until("all").await;
    heard.until("put shop/cart-0").await;
    heard.until("put shop/cart-0 server").await;
    heard.until("up").await;
    heard.until("ended shop/cart-0").await;
    assert_eq!(heard.pods.last().unwrap().0.as_str(), uid(1));
    assert!(heard.texts.is_empty(), "{:?}", heard.texts);
}

/// Returns the version at which the watch continues after one with this `answer`.
async fn next_after(answer: Answer, trouble: Option<&str>) -> String {
    let server = Server::start(Answer::list("50", "", &[]));
    server.next([Answer::list("7", "", &[]), answer]);
    let mut heard = Heard::of(&server);
    if let Some(trouble) = trouble {
        heard.until(trouble).await;
    }
    while server.watched().len() < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    server.watched()[1]
        .has("resourceVersion")
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn a_watch_that_ends_in_its_own_time_is_gone_on_with() {
    let bookmark = Answer::ended(&[("ADDED", pod("a", 1, "8")), ("BOOKMARK", at("12"))]);
    assert_eq!(next_after(bookmark, None).await, "12");
    assert_eq!(
        next_after(Answer::ended(&[("ADDED", pod("a", 1, "8"))]), None).await,
        "8"
    );
    // An empty watch may mean that the server does not know the version.
    assert_eq!(next_after(Answer::ended(&[]), None).await, "50");
}

#[tokio::test]
async fn a_watch_that_breaks_is_gone_on_with_after_the_last_whole_change() {
    let line = change("ADDED", &pod("a", 1, "8"));
    let Part::Text(next) = change("ADDED", &pod("b", 2, "9")) else {
        unreachable!()
    };
    let half = Part::Text(next[..next.len() / 2].to_owned());
    let cut = Answer::parts([line.clone(), Part::Cut]);
    assert_eq!(next_after(cut, Some("down unreachable")).await, "8");
    let cut = Answer::parts([line, half, Part::Cut]);
    assert_eq!(next_after(cut, Some("down unreachable")).await, "8");
}

#[tokio::test]
async fn what_the_server_cannot_go_on_with_is_listed_anew() {
    let gone = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"});
    for (answer, trouble) in [
        (Answer::status(410, "gone"), "down expired"),
        (
            Answer::changes(&[("ADDED", pod("a", 1, "8")), ("ERROR", gone)]),
            "down expired",
        ),
        (
            Answer::changes(&[("ERROR", json!({"code": 500}))]),
            "down server_error",
        ),
        (Answer::changes(&[("ERROR", json!(3))]), "down server_error"),
        (
            Answer::status(504, "Too large resource version"),
            "down server_error",
        ),
        (
            Answer::text("{\"type\": \"ADDED\", \"obj"),
            "down bad_answer",
        ),
        (Answer::text("<html>\n"), "down bad_answer"),
        (Answer::changes(&[("RENAMED", at("9"))]), "down bad_answer"),
    ] {
        assert_eq!(next_after(answer, Some(trouble)).await, "50", "{trouble}");
    }
}

#[tokio::test]
async fn empty_lines_and_objects_without_a_version_do_no_harm() {
    let mut bare = pod("a", 1, "8");
    bare["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("resourceVersion");
    let answer = Answer::parts([
        Part::Text("\n\n".to_owned()),
        change("ADDED", &bare),
        change("BOOKMARK", &json!({})),
        change("BOOKMARK", &at("9")),
    ]);
    assert_eq!(next_after(answer, None).await, "9");
}

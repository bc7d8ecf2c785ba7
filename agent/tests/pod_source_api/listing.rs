//! Requests of lists, and how the client reads the answers.

use std::time::Duration;

use serde_json::json;

use super::heard::{Heard, config};
use super::server::{Answer, Part, Server, at, pod};

#[tokio::test]
async fn this_nodes_pods_are_listed_from_the_cache_and_then_watched() {
    let server = Server::start(Answer::list(
        "7",
        "",
        &[pod("cart-0", 1, "5"), pod("cart-1", 2, "6")],
    ));
    let mut heard = Heard::of(&server);
    heard.until("all shop/cart-0 shop/cart-1").await;
    heard.until("up").await;
    heard.until("up").await;
    assert_eq!(heard.pods[0].1.labels["app"], "cart");
    assert_eq!(
        heard.pods[0].1.containers,
        [(format!("{:064x}", 1), "server".to_owned())]
    );

    let [list, watch] = &server.asked()[..] else {
        panic!("{:?}", server.asked());
    };
    assert_eq!(
        (list.path.as_str(), watch.path.as_str()),
        ("/api/v1/pods", "/api/v1/pods")
    );
    assert_eq!(list.has("fieldSelector"), Some("spec.nodeName=node-1"));
    assert_eq!(
        (list.has("resourceVersion"), list.has("limit")),
        (Some("0"), None)
    );
    assert_eq!(watch.has("fieldSelector"), Some("spec.nodeName=node-1"));
    assert_eq!(
        (watch.has("watch"), watch.has("resourceVersion")),
        (Some("true"), Some("7"))
    );
    assert_eq!(watch.has("allowWatchBookmarks"), Some("true"));
    let seconds: u32 = watch.has("timeoutSeconds").unwrap().parse().unwrap();
    assert!((10..=12).contains(&seconds), "{seconds}");
    assert_eq!(list.authorization, None);
}

#[tokio::test]
async fn after_an_expiry_pages_of_what_is_stored_are_listed() {
    let server = Server::start(Answer::list("7", "", &[]));
    server.next([
        Answer::list("7", "", &[pod("old", 9, "7")]),
        Answer::changes(&[(
            "ERROR",
            json!({"kind": "Status", "code": 410, "message": "too old"}),
        )]),
        Answer::list("20", "token-2", &[pod("a", 1, "1")]),
        Answer::list("20", "token-3", &[pod("b", 2, "2")]),
        Answer::list("20", "", &[pod("c", 3, "3")]),
    ]);
    let mut heard = Heard::of(&server);
    heard.until("all shop/old").await;
    heard.until("down expired").await;
    assert!(heard.text().contains("410 \"too old\""), "{}", heard.text());
    heard.until("all shop/a shop/b shop/c").await;
    heard.until("up").await;
    heard.until("up").await;
    let pages: Vec<_> = server.listed()[1..]
        .iter()
        .map(|page| {
            (
                page.has("limit").map(str::to_owned),
                page.has("continue").map(str::to_owned),
                page.has("resourceVersion").map(str::to_owned),
            )
        })
        .collect();
    let limit = Some("250".to_owned());
    assert_eq!(
        pages,
        [
            (limit.clone(), None, None),
            (limit.clone(), Some("token-2".to_owned()), None),
            (limit, Some("token-3".to_owned()), None),
        ]
    );
    assert_eq!(
        server.watched().last().unwrap().has("resourceVersion"),
        Some("20")
    );
}

#[tokio::test]
async fn a_page_that_expires_begins_the_list_anew() {
    let server = Server::start(Answer::list("30", "", &[pod("b", 2, "2")]));
    server.next([
        Answer::list("20", "token-2", &[pod("a", 1, "1")]),
        Answer::status(410, "the continue token is too old"),
    ]);
    let mut heard = Heard::of(&server);
    heard.until("down expired").await;
    heard.until("all shop/b").await;
    // Half a list counts as none.
    assert_eq!(heard.count("all shop/a"), 0);
}

#[tokio::test]
async fn a_list_without_end_is_given_up() {
    let server = Server::start(Answer::list("20", "again", &[]));
    let mut heard = Heard::of(&server);
    heard.until("down bad_answer").await;
    assert!(heard.text().contains("pages"), "{}", heard.text());
    let pages = server.listed().len();
    assert!((60..200).contains(&pages), "{pages}");
}

#[tokio::test]
async fn a_server_that_is_down_at_the_start_and_restarts_later_is_found() {
    let closed = Server::start(Answer::list("1", "", &[])).stop().await;
    let mut heard = Heard::start(config(&format!("http://{closed}")));
    heard.until("down unreachable").await;
    assert!(
        heard.text().contains(&closed.to_string()),
        "{}",
        heard.text()
    );
    heard.until("down unreachable").await;

    let server = Server::start_at(closed, None, Answer::list("7", "", &[pod("a", 1, "1")]));
    server.watches(Answer::changes(&[("BOOKMARK", at("9"))]));
    heard.until("all shop/a").await;
    // The client gets the list, the watch, and its bookmark.
    for _ in 0..3 {
        heard.until("up").await;
    }

    let address = server.stop().await;
    heard.until("down unreachable").await;
    let server = Server::start_at(address, None, Answer::list("9", "", &[]));
    server.watches(Answer::changes(&[("DELETED", pod("a", 1, "10"))]));
    // It goes on from the bookmark, without a list.
    heard.until("ended shop/a").await;
    assert_eq!(server.asked().len(), 1);
    assert_eq!(server.asked()[0].has("resourceVersion"), Some("9"));
}

#[tokio::test]
async fn the_thread_ends_with_the_agent() {
    let server = Server::start(Answer::list("1", "", &[]));
    server.watches(Answer::parts([Part::Repeat(
        format!("{}\n", json!({"type": "BOOKMARK", "object": at("2")})).into(),
        Duration::from_millis(20),
    )]));
    let mut heard = Heard::of(&server);
    heard.until("up").await;
    drop(heard);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (sent, asked) = (server.sent(), server.asked().len());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((server.sent(), server.asked().len()), (sent, asked));
}

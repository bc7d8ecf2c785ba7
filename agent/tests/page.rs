//! Files of the live page over a real socket. Tests in a browser cover the page's behaviour: see `agent/tests/page/`
//! and `cargo xtask test page`.

// Clippy counts only the test functions themselves as tests, not the code they share.
#![allow(clippy::unwrap_used)]

#[path = "server/client.rs"]
#[allow(dead_code, reason = "made for the tests of the server")]
mod client;

use bytes::Bytes;
use client::{Answer, Client, Server, handlers};
use stallscope::server::Limits;

fn server() -> Server {
    Server::start(Limits::default(), handlers(|_| Ok(Bytes::new())))
}

/// Returns the files that a text refers to.
fn files(text: &str) -> Vec<String> {
    let quoted = text.split('"').skip(1).step_by(2);
    let named = quoted.filter_map(|word| word.strip_prefix("page/").or(word.strip_prefix("./")));
    named.map(|name| format!("/page/{name}")).collect()
}

/// Returns the page and all files that it leads to, with their paths.
async fn everything(client: &mut Client) -> Vec<(String, Answer)> {
    let mut found: Vec<(String, Answer)> = Vec::new();
    let mut next = vec!["/".to_owned()];
    while let Some(path) = next.pop() {
        if found.iter().any(|(known, _)| *known == path) {
            continue;
        }
        let answer = client.get(&path).await;
        assert_eq!(answer.status, 200, "{path}");
        next.extend(files(&answer.body));
        found.push((path, answer));
    }
    found
}

#[tokio::test]
async fn the_page_is_whole_and_allowed_nothing_else() {
    let server = server();
    let mut client = Client::connect(&server).await;
    let all = everything(&mut client).await;
    assert!(all.len() > 15, "{} files", all.len());
    for (path, answer) in &all {
        let kind = match path.rsplit_once('.').map(|(_, extension)| extension) {
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(answer.header("content-type"), Some(kind), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(
            !policy.contains('*') && !policy.contains("http"),
            "{policy}"
        );
    }
}

#[tokio::test]
async fn nothing_comes_from_elsewhere_and_nothing_is_made_from_text() {
    let server = server();
    let mut client = Client::connect(&server).await;
    for (path, answer) in everything(&mut client).await {
        // The name of a format is not an address that a browser fetches.
        let text = answer.body.replace("http://www.w3.org/2000/svg", "");
        for forbidden in [
            "http:",
            "https:",
            "@import",
            "url(//",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "DOMParser",
            "eval(",
            "style=\"",
            "onclick",
        ] {
            assert!(!text.contains(forbidden), "{path} has {forbidden}");
        }
    }
}

#[tokio::test]
async fn what_a_browser_has_is_not_sent_again() {
    let server = server();
    let mut client = Client::connect(&server).await;
    let mut tags = Vec::new();
    for (path, answer) in everything(&mut client).await {
        let tag = answer.header("etag").unwrap().to_owned();
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
        // An answer of this kind has no body, and so no length.
        client
            .send(format!(
                "GET {path} HTTP/1.1\r\nhost: localhost\r\nif-none-match: {tag}\r\n\r\n"
            ))
            .await;
        let again = client.answer(false).await;
        assert_eq!(
            (again.status, again.header("etag")),
            (304, Some(tag.as_str())),
            "{path}"
        );
        let other = client
            .request("GET", &path, "if-none-match: \"other\"\r\n")
            .await;
        assert_eq!((other.status, other.body), (200, answer.body), "{path}");
        tags.push(tag);
    }
    let all = tags.len();
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), all, "different files have different tags");
}

#[tokio::test]
async fn requests_for_the_files_are_counted_as_one_path() {
    let server = server();
    let mut client = Client::connect(&server).await;
    for path in ["/page/main.js", "/page/style.css", "/page/none.js", "/"] {
        client.get(path).await;
    }
    let counted = server.counted();
    for line in [
        "stallscope_http_requests_total{code=\"200\",path=\"/page/\"} 2",
        "stallscope_http_requests_total{code=\"404\",path=\"other\"} 1",
        "stallscope_http_requests_total{code=\"200\",path=\"/\"} 1",
    ] {
        assert!(
            counted.lines().any(|found| found == line),
            "{line} in\n{counted}"
        );
    }
}

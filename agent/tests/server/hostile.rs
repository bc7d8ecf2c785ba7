//! Clients that take more than their share.

use std::time::{Duration, Instant};

use bytes::Bytes;
use stallscope::server::Limits;

use super::client::{Client, Server, handlers};
use super::small;

const SHORT: Duration = Duration::from_millis(300);

/// Size of a large answer, in bytes: more than the kernel's own buffers hold.
const LARGE: usize = 64 << 20;

fn limited(limits: Limits) -> Server {
    Server::start(limits, handlers(|_| Ok(Bytes::from(vec![b'#'; LARGE]))))
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let server = limited(Limits {
        head_time: SHORT,
        ..Limits::default()
    });
    for start in [
        "",
        "GET /metrics HT",
        "GET /metrics HTTP/1.1\r\nhost: localhost\r\n",
    ] {
        let mut client = Client::connect(&server).await;
        client.send(start).await;
        let time = client.closed().await;
        assert!(
            (SHORT / 2..SHORT * 10).contains(&time),
            "{time:?} after {start:?}"
        );
    }
    // A trickling client does not gain time.
    let mut client = Client::connect(&server).await;
    let start = Instant::now();
    client.send("GET /healthz HTTP/1.1\r\nx: ").await;
    while start.elapsed() < SHORT * 10 && client.0.try_write(b"a").is_ok() {
        tokio::time::sleep(SHORT / 10).await;
    }
    assert!(start.elapsed() < SHORT * 5);
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let server = limited(Limits {
        head_time: SHORT,
        ..Limits::default()
    });
    let mut client = Client::connect(&server).await;
    assert_eq!(client.get("/healthz").await.status, 200);
    assert_eq!(
        client.get("/healthz").await.status,
        200,
        "a connection serves more than one request"
    );
    assert!(client.closed().await < SHORT * 10);
}

#[tokio::test]
async fn a_head_has_a_size() {
    let server = small();
    let mut client = Client::connect(&server).await;
    assert_eq!(
        client
            .request("GET", "/healthz", &format!("x: {}\r\n", "a".repeat(8000)))
            .await
            .status,
        200
    );
    let long = client
        .request("GET", "/healthz", &format!("x: {}\r\n", "a".repeat(20_000)))
        .await;
    assert_eq!(long.status, 431);
    let many = Client::connect(&server)
        .await
        .request("GET", "/healthz", &"a: b\r\n".repeat(200))
        .await;
    assert_eq!(many.status, 431);
    let mut client = Client::connect(&server).await;
    let long = client.get(&format!("/{}", "a".repeat(20_000))).await;
    assert!(matches!(long.status, 414 | 431), "{}", long.status);
}

#[tokio::test]
async fn nonsense_is_refused() {
    let server = small();
    for nonsense in [
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\0\r\n\r\n",
    ] {
        let mut client = Client::connect(&server).await;
        client.send(nonsense).await;
        client.closed().await;
    }
    assert_eq!(
        Client::connect(&server).await.get("/healthz").await.status,
        200
    );
}

#[tokio::test]
async fn bodies_are_not_read() {
    let server = small();
    let mut client = Client::connect(&server).await;
    let answer = client
        .request("GET", "/metrics", "content-length: 1000000000000\r\n")
        .await;
    assert_eq!(answer.status, 200);
    // The server would take the rest of the body for the next request.
    client.closed().await;
    let mut client = Client::connect(&server).await;
    assert_eq!(
        client
            .request("POST", "/metrics", "transfer-encoding: chunked\r\n")
            .await
            .status,
        405
    );
    client.closed().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_dropped_and_its_scrape_with_it() {
    let server = limited(Limits {
        stall_time: SHORT,
        unread_bytes: LARGE,
        room_time: SHORT / 3,
        ..Limits::default()
    });
    let mut deaf = Client::narrow(&server).await;
    deaf.send("GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await;
    assert_eq!(deaf.begun().await, "HTTP/1.1 200");
    let mut other = Client::connect(&server).await;
    assert_eq!(
        other.get("/healthz").await.status,
        200,
        "nobody else is blocked"
    );
    // The only room in memory is taken, and becomes free once the server gives up the client that does not read.
    let mut answer = other.get("/metrics").await;
    while answer.status == 503 {
        assert_eq!(
            answer.body,
            "answers that clients have yet to read take all of the 65536 KiB kept for them; ask again\n"
        );
        assert_eq!(answer.header("retry-after"), Some("5"));
        answer = other.get("/metrics").await;
    }
    assert_eq!((answer.status, answer.body.len()), (200, LARGE));
    deaf.closed().await;
}

#[tokio::test]
async fn a_client_that_reads_too_slowly_is_dropped() {
    let server = limited(Limits {
        answer_time: SHORT * 3,
        ..Limits::default()
    });
    let mut slow = Client::narrow(&server).await;
    slow.send("GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await;
    let start = Instant::now();
    let mut read = 0;
    let mut buffer = vec![0; 64 << 10];
    // The client is never silent for as long as a stall, but does not finish in time either.
    while start.elapsed() < SHORT * 20 {
        tokio::time::sleep(SHORT / 10).await;
        match slow.0.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        if start.elapsed() > SHORT * 4 {
            slow.closed().await;
            break;
        }
    }
    assert!(
        start.elapsed() < SHORT * 20 && read < LARGE,
        "{read} bytes in {:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_turn() {
    let server = small();
    let mut client = Client::connect(&server).await;
    client
        .send("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(50))
        .await;
    for _ in 0..50 {
        assert_eq!(client.answer(true).await.status, 200);
    }
}

//! Shutdown: requests may finish, but not take for ever.

use std::time::Duration;

use bytes::Bytes;
use stallscope::server::Limits;

use super::client::{Client, Server, handlers};
use super::small;

const BOUND: Duration = Duration::from_secs(2);

#[tokio::test]
async fn idle_connections_do_not_hold_it_up() {
    let server = small();
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = Client::connect(&server).await;
        assert_eq!(client.get("/healthz").await.status, 200);
        clients.push(client);
    }
    let fresh = Client::connect(&server).await;
    let address = server.address;
    assert!(server.stop().await < BOUND / 2);
    for mut client in clients {
        client.closed().await;
    }
    drop(fresh);
    assert!(
        tokio::net::TcpStream::connect(address).await.is_err(),
        "the port is free"
    );
}

#[tokio::test]
async fn a_scrape_under_way_is_finished() {
    let server = Server::start(
        Limits {
            shutdown_time: BOUND,
            ..Limits::default()
        },
        handlers(|_| {
            std::thread::sleep(Duration::from_millis(300));
            Ok(Bytes::from_static(b"late\n"))
        }),
    );
    let mut client = Client::connect(&server).await;
    client
        .send("GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (time, answer) = tokio::join!(server.stop(), client.answer(true));
    assert_eq!((answer.status, answer.body.as_str()), (200, "late\n"));
    assert!(time < BOUND);
}

#[tokio::test]
async fn clients_that_take_their_time_are_cut_off() {
    let server = Server::start(
        Limits::default(),
        handlers(|_| Ok(Bytes::from(vec![b'#'; 64 << 20]))),
    );
    let mut deaf = Client::narrow(&server).await;
    deaf.send("GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await;
    let mut mute = Client::connect(&server).await;
    mute.send("GET /metrics HT").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(server.stop().await < BOUND);
    deaf.closed().await;
    mute.closed().await;
}

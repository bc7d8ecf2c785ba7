//! Whoever has to be answered whatever others do.

use std::net::SocketAddr;

use super::client::Client;

/// This host, as whoever attacks and as whoever is in need.
pub const SOURCES: [[u8; 4]; 2] = [[127, 0, 0, 1], [127, 0, 0, 2]];

/// Asks as often as an attack was once found to lock probes out, over a connection each.
pub async fn health_is_answered(address: SocketAddr) {
    for attempt in 0..96 {
        let path = ["/healthz", "/readyz"][attempt % 2];
        let source = SOURCES[attempt / 2 % 2];
        let answer = Client::from(source, address).await.get(path).await;
        assert_eq!(answer.status, 200, "{path} from {source:?}: {answer:?}");
    }
}

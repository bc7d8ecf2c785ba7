//! Clients that the server must answer whatever others do.

use std::net::SocketAddr;

use super::client::Client;

/// Addresses of this host, one for the attacker and one for the client in need.
pub const SOURCES: [[u8; 4]; 2] = [[127, 0, 0, 1], [127, 0, 0, 2]];

/// Sends as many requests as an attack once needed to lock probes out, each on its own connection.
pub async fn health_is_answered(address: SocketAddr) {
    for attempt in 0..96 {
        let path = ["/healthz", "/readyz"][attempt % 2];
        let source = SOURCES[attempt / 2 % 2];
        let answer = Client::from(source, address).await.get(path).await;
        assert_eq!(answer.status, 200, "{path} from {source:?}: {answer:?}");
    }
}

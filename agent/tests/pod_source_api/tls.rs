//! TLS: identity of the server and of the client.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use stallscope::attribution::pods::api::Config;
use tokio_rustls::TlsAcceptor;

use super::heard::{Heard, config};
use super::server::{Answer, Server, at, pod};

/// A certificate authority made for a test.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Returns the TLS side of a server at 127.0.0.1.
    fn acceptor(&self) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    fn write(&self, directory: &Path) {
        std::fs::write(directory.join("ca.crt"), self.0.pem()).unwrap();
    }
}

fn with_account(server: &Server, directory: &Path) -> Config {
    Config {
        service_account: directory.to_owned(),
        ..config(&format!("https://{}", server.address))
    }
}

#[tokio::test]
async fn the_service_account_speaks_to_the_server_it_trusts() {
    let authority = Authority::new();
    let list = Answer::list("7", "", &[pod("a", 1, "1")]);
    let server = Server::start_at(
        "127.0.0.1:0".parse().unwrap(),
        Some(authority.acceptor()),
        list,
    );
    server.next([Answer::status(401, "Unauthorized")]);
    server.watches(Answer::changes(&[("BOOKMARK", at("8"))]));
    let directory = tempfile::tempdir().unwrap();
    authority.write(directory.path());
    std::fs::write(directory.path().join("token"), "first\n").unwrap();
    let mut heard = Heard::start(with_account(&server, directory.path()));
    heard.until("down unauthorized").await;
    std::fs::write(directory.path().join("token"), "second\n").unwrap();
    heard.until("all shop/a").await;
    heard.until("up").await;
    let sent: Vec<_> = server
        .asked()
        .into_iter()
        .filter_map(|asked| asked.authorization)
        .collect();
    assert_eq!(sent.len(), server.asked().len());
    assert_eq!(sent[0], "Bearer first");
    assert_eq!(sent.last().unwrap(), "Bearer second");
}

#[tokio::test]
async fn a_server_that_is_not_the_clusters_gets_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    let list = Answer::list("7", "", &[pod("a", 1, "1")]);
    let server = Server::start_at(
        "127.0.0.1:0".parse().unwrap(),
        Some(authority.acceptor()),
        list,
    );
    let directory = tempfile::tempdir().unwrap();
    other.write(directory.path());
    std::fs::write(directory.path().join("token"), "secret").unwrap();
    let mut heard = Heard::start(with_account(&server, directory.path()));
    heard.until("down tls").await;
    assert!(heard.text().contains("CA"), "{}", heard.text());
    heard.until("down tls").await;
    assert!(server.asked().is_empty(), "{:?}", server.asked());
    // Authorities rotate, and their file changes.
    authority.write(directory.path());
    heard.until("all shop/a").await;
}

#[tokio::test]
async fn what_speaks_no_tls_is_no_server_of_ours() {
    let server = Server::start(Answer::list("7", "", &[]));
    let directory = tempfile::tempdir().unwrap();
    Authority::new().write(directory.path());
    let mut heard = Heard::start(with_account(&server, directory.path()));
    heard.until("down tls").await;
    assert!(server.asked().is_empty());
}

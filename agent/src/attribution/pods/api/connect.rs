//! The API's address and the credentials. Both are read again for each connection, since tokens and certificates
//! rotate.

use std::{env, fs, path::Path};

use anyhow::{Context as _, bail, ensure};
use hyper::Uri;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::Config;
use super::failure::{CONFIG, Failure, chain};

/// Variables that the kubelet sets in each container, with the address of the cluster's own API server.
const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";

/// A client, and the address to show in messages.
pub(super) struct Connection {
    pub client: kube::Client,
    pub address: String,
}

/// Checks the settings that can be found wrong before anything is sent.
pub(super) fn check(config: &Config) -> anyhow::Result<()> {
    let given = config.address.as_deref().map(address).transpose()?;
    if let Some(path) = &config.kubeconfig {
        read_kubeconfig(path)?;
    } else if given.is_none() {
        in_cluster()?;
    }
    Ok(())
}

/// Makes a client from the current content of the files. Sends nothing yet.
pub(super) async fn connect(config: &Config) -> Result<Connection, Failure> {
    let made = settings(config).await;
    let mut settings = made.map_err(|error| Failure::new(CONFIG, format!("{error:#}")))?;
    settings.connect_timeout = Some(config.timing.connect);
    client(settings, &config.service_account)
}

fn client(mut settings: kube::Config, service_account: &Path) -> Result<Connection, Failure> {
    // The agent sets deadlines and pauses itself.
    settings.read_timeout = None;
    settings.default_retry = false;
    if settings.root_cert_file.is_some() || settings.cluster_url.scheme_str() == Some("http") {
        // Otherwise the library looks for the system's certificate authorities, which a container need not have.
        settings.root_cert.get_or_insert_default();
    }
    let address = settings.cluster_url.to_string();
    let address = address.trim_end_matches('/').to_owned();
    let client = kube::Client::try_from(settings).map_err(|error| {
        let text = format!(
            "cannot use the credentials for the Kubernetes API at {address}: {}; check the kubeconfig, or ca.crt in {}",
            chain(&error),
            service_account.display()
        );
        Failure::new(CONFIG, text)
    })?;
    Ok(Connection { client, address })
}

async fn settings(config: &Config) -> anyhow::Result<kube::Config> {
    let given = config.address.as_deref().map(address).transpose()?;
    if let Some(path) = &config.kubeconfig {
        let kubeconfig = read_kubeconfig(path)?;
        let options = KubeConfigOptions::default();
        let made = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let mut settings = made
            .map_err(|error| anyhow::anyhow!("{}: {}", path.display(), chain(&error)))
            .context("cannot use the current context of the kubeconfig")?;
        if let Some(address) = given {
            settings.cluster_url = address;
        }
        read_token(&mut settings)?;
        return Ok(settings);
    }
    let own = given.is_none();
    let address = match given {
        Some(address) => address,
        None => in_cluster()?,
    };
    let mut settings = with_service_account(address, &config.service_account, own);
    read_token(&mut settings).context(
        "a pod has its service account's token unless automountServiceAccountToken is false",
    )?;
    Ok(settings)
}

/// Reads the token here: the library would also send a newline at its end, and caches it for a minute.
fn read_token(settings: &mut kube::Config) -> anyhow::Result<()> {
    let Some(path) = settings.auth_info.token_file.take() else {
        return Ok(());
    };
    let token = fs::read_to_string(&path)
        .with_context(|| format!("cannot read the Kubernetes API's token {path}"))?;
    let token = token.trim();
    let is_sendable = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    ensure!(
        is_sendable,
        "{path} has no token for the Kubernetes API: expected one word"
    );
    settings.auth_info.token = Some(token.to_owned().into());
    Ok(())
}

/// Adds the service account: always for the cluster's own API server, for another only over TLS and where the files
/// exist.
fn with_service_account(address: Uri, directory: &Path, own: bool) -> kube::Config {
    let is_tls = address.scheme_str() == Some("https");
    let mut settings = kube::Config::new(address);
    let (token, ca) = (directory.join("token"), directory.join("ca.crt"));
    if own || (is_tls && token.exists()) {
        settings.auth_info.token_file = Some(token.display().to_string());
    }
    if own || (is_tls && ca.exists()) {
        settings.root_cert_file = Some(ca);
    }
    settings
}

fn address(text: &str) -> anyhow::Result<Uri> {
    let expected = || format!("--kube-api {text:?}: expected a URL like https://10.0.0.1:6443");
    let uri: Uri = text.parse().with_context(expected)?;
    let is_known = matches!(uri.scheme_str(), Some("http" | "https"));
    ensure!(
        is_known && uri.host().is_some_and(|host| !host.is_empty()),
        expected()
    );
    Ok(uri)
}

fn read_kubeconfig(path: &Path) -> anyhow::Result<Kubeconfig> {
    Kubeconfig::read_from(path).map_err(|error| {
        anyhow::anyhow!(
            "cannot read the kubeconfig {}: {}; give --kubeconfig a file like the one kubectl uses",
            path.display(),
            chain(&error)
        )
    })
}

fn in_cluster() -> anyhow::Result<Uri> {
    let (Ok(host), Ok(port)) = (env::var(HOST), env::var(PORT)) else {
        bail!(
            "no Kubernetes API to ask: not in a pod ({HOST} and {PORT} are not set); give --kube-api or --kubeconfig"
        );
    };
    service_address(&host, &port)
}

fn service_address(host: &str, port: &str) -> anyhow::Result<Uri> {
    let url = if host.contains(':') {
        format!("https://[{host}]:{port}")
    } else {
        format!("https://{host}:{port}")
    };
    url.parse().with_context(|| {
        format!("{HOST}={host:?} and {PORT}={port:?} make no URL; give --kube-api")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clusters_own_address_may_be_of_either_family() {
        let of = |host, port| service_address(host, port).map(|uri| uri.to_string());
        assert_eq!(
            of("10.0.0.1", "443").expect("a URL"),
            "https://10.0.0.1:443/"
        );
        assert_eq!(
            of("fd00::1", "443").expect("a URL"),
            "https://[fd00::1]:443/"
        );
        assert!(of("10.0.0.1", "no port").is_err());
    }

    #[test]
    fn what_is_no_url_is_refused_by_name() {
        for text in ["", "10.0.0.1:6443", "ftp://a", "https://", "unix:/run/x"] {
            let error = format!("{:#}", address(text).expect_err(text));
            assert!(
                error.contains("--kube-api") && error.contains("expected"),
                "{error}"
            );
        }
    }

    /// Returns the error of connecting with a service account whose directory has these files.
    fn refused(files: &[&str]) -> String {
        let directory = tempfile::tempdir().expect("a directory");
        for file in files {
            fs::write(directory.path().join(file), "content").expect("it takes files");
        }
        let own = "https://10.0.0.1".parse().expect("a URL");
        let mut settings = with_service_account(own, directory.path(), true);
        match read_token(&mut settings) {
            Err(error) => format!("{error:#}"),
            Ok(()) => match client(settings, directory.path()) {
                Err(failure) => format!("{} {}", failure.reason, failure.text),
                Ok(_) => String::new(),
            },
        }
    }

    #[tokio::test]
    async fn in_a_cluster_both_files_are_needed() {
        let text = refused(&["ca.crt"]);
        assert!(
            text.contains("/token") && text.contains("No such file"),
            "{text}"
        );
        let text = refused(&["token"]);
        assert!(
            text.contains("ca.crt") && text.starts_with("config"),
            "{text}"
        );
        let text = refused(&["token", "ca.crt"]);
        assert!(
            text.contains("ca.crt") && text.starts_with("config"),
            "{text}"
        );
    }

    #[test]
    fn a_token_is_not_sent_in_the_clear() -> anyhow::Result<()> {
        let directory = tempfile::tempdir()?;
        fs::write(directory.path().join("token"), "secret")?;
        let token = |url| {
            let settings = with_service_account(address(url)?, directory.path(), false);
            anyhow::Ok(settings.auth_info.token_file.is_some())
        };
        assert!(token("https://10.0.0.1:6443")?);
        assert!(!token("http://127.0.0.1:8001")?);
        Ok(())
    }
}

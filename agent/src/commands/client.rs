//! HTTP client for a running agent.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use anyhow::Context as _;
use serde_json::Value;

/// Timeout: longer than an agent takes to refuse.
const PATIENCE: Duration = Duration::from_secs(10);

/// Gets JSON from the agent at an address.
///
/// # Errors
/// When no agent answers there, the answer is not an agent's, or the agent refuses; then the error is the agent's
/// reason.
pub(super) fn get(address: &str, path: &str) -> anyhow::Result<Value> {
    let (head, body) = answer(address, path, 16 << 20)?;
    let json = serde_json::from_str::<Value>(&body);
    if is_ok(&head) {
        return json
            .with_context(|| format!("{address} is no Stallscope agent: its answer is no JSON"));
    }
    match json.as_ref().map(|json| json["error"].as_str()) {
        Ok(Some(reason)) => anyhow::bail!("{reason}"),
        _ => anyhow::bail!(
            "{address} is no Stallscope agent: it answered {}",
            head.lines().next().unwrap_or_default()
        ),
    }
}

/// Gets the metrics of the agent at an address, as text.
///
/// # Errors
/// When no agent answers there, or it refuses.
pub(super) fn metrics(address: &str) -> anyhow::Result<String> {
    let (head, body) = answer(address, "/metrics", 64 << 20)?;
    anyhow::ensure!(
        is_ok(&head),
        "{address} exports no metrics: it answered {}: {}",
        head.lines().next().unwrap_or_default(),
        body.trim()
    );
    Ok(body)
}

fn is_ok(head: &str) -> bool {
    head.split(' ').nth(1) == Some("200")
}

/// Sends a GET request and returns head and body of the response, of which it reads at most `most` bytes.
fn answer(address: &str, path: &str, most: u64) -> anyhow::Result<(String, String)> {
    let socket = address
        .to_socket_addrs()
        .with_context(|| format!("bad address {address}: expected ADDR:PORT"))?
        .next()
        .with_context(|| format!("{address} has no address"))?;
    let unreachable = || format!("no agent answers at {address}");
    let mut stream = TcpStream::connect_timeout(&socket, PATIENCE).with_context(unreachable)?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .with_context(unreachable)?;
    // The host is the numeric address, which every agent accepts, whatever name was given here.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {socket}\r\n\r\n").with_context(unreachable)?;
    let mut text = String::new();
    let read = stream.take(most).read_to_string(&mut text);
    if let Err(error) = read {
        // The operating system's name for a socket timeout does not mention time.
        anyhow::ensure!(
            error.kind() != ErrorKind::WouldBlock,
            "the agent at {address} has not answered for {} s",
            PATIENCE.as_secs()
        );
        return Err(error).with_context(unreachable);
    }
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    Ok((head.to_owned(), body.to_owned()))
}

/// Returns a path with a query.
pub(super) fn path(of: &str, query: &[(&str, &str)]) -> String {
    let mut pairs = form_urlencoded::Serializer::new(String::new());
    pairs.extend_pairs(query);
    format!("{of}?{}", pairs.finish())
}

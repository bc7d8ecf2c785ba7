//! HTTP client for a running agent.

use std::{
    io::{Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use anyhow::Context as _;
use serde_json::Value;

/// Gets JSON from the agent at an address.
///
/// # Errors
/// When no agent answers there, the answer is not an agent's, or the agent refuses; then the error is the agent's
/// reason.
pub(super) fn get(address: &str, path: &str) -> anyhow::Result<Value> {
    /// Timeout: longer than an agent takes to refuse.
    const PATIENCE: Duration = Duration::from_secs(10);
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
    let mut answer = String::new();
    stream
        .take(16 << 20)
        .read_to_string(&mut answer)
        .with_context(unreachable)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let json = serde_json::from_str::<Value>(body);
    if head.split(' ').nth(1) == Some("200") {
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

/// Returns a path with a query.
pub(super) fn path(of: &str, query: &[(&str, &str)]) -> String {
    let mut pairs = form_urlencoded::Serializer::new(String::new());
    pairs.extend_pairs(query);
    format!("{of}?{}", pairs.finish())
}

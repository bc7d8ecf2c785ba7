//! A client for servers on this machine. It speaks HTTP/1.0, which has no chunks.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread::sleep,
    time::{Duration, Instant},
};

/// Returns a free address of this machine.
pub fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its own address");
    address.to_string()
}

/// Returns status and body; none without an answer within 20 s.
pub fn get(address: &str, path: &str) -> Option<(u16, String)> {
    get_within(address, path, Duration::from_secs(20))
}

/// Returns the same, with another timeout.
pub fn get_within(address: &str, path: &str, patience: Duration) -> Option<(u16, String)> {
    ask(address, "", path, patience)
}

/// Returns the same for a request under a host name.
pub fn get_as(address: &str, name: &str, path: &str) -> Option<(u16, String)> {
    let host = format!("Host: {name}\r\n");
    ask(address, &host, path, Duration::from_secs(20))
}

fn ask(address: &str, headers: &str, path: &str, patience: Duration) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n{headers}\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// Waits until `path` is answered with 200. If it never is, the panic includes `said`.
pub fn wait(address: &str, path: &str, said: impl Fn() -> String) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while get(address, path).is_none_or(|(status, _)| status != 200) {
        assert!(
            Instant::now() < deadline,
            "http://{address}{path} is not answered with 200 within 30 s:\n{}",
            said()
        );
        sleep(Duration::from_millis(50));
    }
}

/// Escapes a text for a query string.
pub fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

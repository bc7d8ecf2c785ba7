//! Series of other exporters that dashboards and rules join with. The test serves them from a file, with counters that
//! grow with each scrape.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    thread,
};

/// The series. The values of counters and histograms are their growth per scrape.
const SERIES: &str = include_str!("others.prom");

/// Serves the series until the test ends. Returns the address.
pub fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its own address").to_string();
    thread::spawn(move || {
        for (scrape, stream) in listener.incoming().enumerate() {
            if let Ok(stream) = stream {
                // If the scraper hangs up, it asks again a second later.
                let _ = answer(stream, scrape as u64 + 1);
            }
        }
    });
    address
}

fn answer(mut stream: TcpStream, scrape: u64) -> std::io::Result<()> {
    let mut head = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    let body = exposition(scrape);
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

fn exposition(scrape: u64) -> String {
    let mut text = String::new();
    let mut grows = false;
    for line in SERIES.lines() {
        if line.starts_with('#') || line.is_empty() {
            grows = line.ends_with(" counter") || line.ends_with(" histogram");
            let _ = writeln!(text, "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let value: f64 = value.parse().expect("a number");
            let times = if grows { scrape as f64 } else { 1.0 };
            let _ = writeln!(text, "{series} {}", value * times);
        }
    }
    text
}

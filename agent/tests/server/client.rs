//! A scripted HTTP client, correct or not, and a server for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use stallscope::api::{Refusal, Request};
use stallscope::exposition::{Encoder, Format};
use stallscope::server::{self, Answers, Config, Handlers, Limits, bind, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Timeout longer than anything here takes, and short enough to fail a hanging test.
pub const LONG: Duration = Duration::from_secs(20);

/// A server on its own port.
pub struct Server {
    pub address: SocketAddr,
    pub registry: prometheus::Registry,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Server {
    pub fn start(limits: Limits, handlers: Handlers) -> Self {
        let config = Config {
            limits,
            ..Config::default()
        };
        Self::with(config, handlers)
    }

    pub fn with(config: Config, handlers: Handlers) -> Self {
        let listener = bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let registry = prometheus::Registry::new();
        let (stop, stopped) = oneshot::channel();
        let shared = registry.clone();
        let task = tokio::spawn(async move {
            serve(config, listener, handlers, &shared, async move {
                _ = stopped.await;
            })
            .await
        });
        Self {
            address,
            registry,
            stop,
            task,
        }
    }

    /// Stops the server and returns how long that took.
    pub async fn stop(self) -> Duration {
        let start = Instant::now();
        self.stop.send(()).unwrap();
        tokio::time::timeout(LONG, self.task)
            .await
            .expect("it stops")
            .unwrap()
            .unwrap();
        start.elapsed()
    }

    /// Returns its own metrics.
    pub fn counted(&self) -> String {
        let mut encoder = Encoder::new(Format::Text, bytes::BytesMut::new());
        encoder.registry(&self.registry);
        String::from_utf8(encoder.finish().to_vec()).unwrap()
    }

    /// Returns the sum of its own series whose lines have this prefix.
    pub fn sum(&self, series: &str) -> u64 {
        sum(&self.counted(), series)
    }
}

/// Returns the sum of a scrape's series whose lines have this prefix. The values must be whole numbers.
pub fn sum(scrape: &str, series: &str) -> u64 {
    let of = scrape.lines().filter(|line| line.starts_with(series));
    of.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

/// Returns minimal handlers.
pub fn handlers(
    collect: impl Fn(Format) -> anyhow::Result<Bytes> + Send + Sync + 'static,
) -> Handlers {
    Handlers {
        collect: Arc::new(collect),
        health: Arc::new(|| Ok(())),
        ready: Arc::new(|| Ok(())),
        status: Arc::new(|| serde_json::json!({"version": "test"})),
        topology: serde_json::json!({"levels": []}),
        answers: answers(|_| Ok(serde_json::json!({}))),
    }
}

/// Returns handlers with the same answer to every query of the history.
pub fn answers(
    answer: impl Fn(&Request) -> Result<serde_json::Value, Refusal> + Send + Sync + 'static,
) -> Answers {
    let answer: server::Answer = Arc::new(answer);
    Answers {
        top: Arc::clone(&answer),
        timeline: Arc::clone(&answer),
        explain: answer,
    }
}

/// One connection.
pub struct Client(pub TcpStream);

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (header, value) = line.split_once(": ")?;
            header.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

impl Client {
    pub async fn connect(server: &Server) -> Self {
        Self(TcpStream::connect(server.address).await.unwrap())
    }

    /// Connects a client with the smallest receive buffer that the kernel allows.
    pub async fn narrow(server: &Server) -> Self {
        Self::narrow_at(server.address).await
    }

    pub async fn narrow_at(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self(socket.connect(address).await.unwrap())
    }

    /// Connects a client from this address of this host.
    pub async fn from(source: [u8; 4], address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        Self(socket.connect(address).await.unwrap())
    }

    pub async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.0.write_all(text.as_ref()).await.unwrap();
    }

    pub async fn request(&mut self, method: &str, path: &str, headers: &str) -> Answer {
        self.send(format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n"
        ))
        .await;
        self.answer(method != "HEAD").await
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.request("GET", path, "").await
    }

    pub async fn answer(&mut self, body: bool) -> Answer {
        tokio::time::timeout(LONG, self.read_answer(body))
            .await
            .expect("an answer")
    }

    async fn read_answer(&mut self, body: bool) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.expect("a whole head"));
        }
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer {
            status,
            head,
            body: String::new(),
        };
        if body {
            let length = answer
                .header("content-length")
                .expect("a length")
                .parse()
                .unwrap();
            let mut bytes = vec![0; length];
            self.0.read_exact(&mut bytes).await.expect("a whole body");
            answer.body = String::from_utf8(bytes).unwrap();
        }
        answer
    }

    /// Waits until an answer has begun, and reads no more of it. Returns its first words, such as `HTTP/1.1 200`.
    pub async fn begun(&mut self) -> String {
        let mut first = vec![0; "HTTP/1.1 200".len()];
        self.0.read_exact(&mut first).await.expect("an answer");
        String::from_utf8(first).unwrap()
    }

    /// Reads to the end. Returns how long the server took to close.
    pub async fn closed(&mut self) -> Duration {
        let start = Instant::now();
        let mut rest = Vec::new();
        // A reset closes the connection as well.
        _ = tokio::time::timeout(LONG, self.0.read_to_end(&mut rest))
            .await
            .expect("it is closed");
        start.elapsed()
    }
}

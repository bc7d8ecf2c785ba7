//! An API server with scripted answers, correct or not.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use hyper::{Request, Response, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A received request.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub query: HashMap<String, String>,
    pub authorization: Option<String>,
}

impl Asked {
    pub fn is_watch(&self) -> bool {
        self.query.contains_key("watch")
    }

    pub fn has(&self, key: &str) -> Option<&str> {
        self.query.get(key).map(String::as_str)
    }
}

/// A part of an answer's body.
#[derive(Clone)]
pub enum Part {
    Text(String),
    /// The same text, repeated for as long as the client reads.
    Repeat(Bytes, Duration),
    /// Silence on an open connection.
    Stall,
    /// End of the connection in the middle of the answer.
    Cut,
}

/// An answer.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub parts: Vec<Part>,
}

impl Answer {
    pub fn parts(parts: impl IntoIterator<Item = Part>) -> Self {
        Self {
            status: 200,
            headers: Vec::new(),
            parts: parts.into_iter().collect(),
        }
    }

    pub fn text(text: impl Into<String>) -> Self {
        Self::parts([Part::Text(text.into())])
    }

    /// Returns a list of pods.
    pub fn list(version: &str, rest: &str, pods: &[Value]) -> Self {
        let list = json!({
            "kind": "PodList", "apiVersion": "v1",
            "metadata": {"resourceVersion": version, "continue": rest}, "items": pods,
        });
        Self::text(list.to_string())
    }

    /// Returns changes, then silence.
    pub fn changes(changes: &[(&str, Value)]) -> Self {
        let mut answer = Self::ended(changes);
        answer.parts.push(Part::Stall);
        answer
    }

    /// Returns changes, then the proper end.
    pub fn ended(changes: &[(&str, Value)]) -> Self {
        Self::parts(changes.iter().map(|(kind, object)| change(kind, object)))
    }

    /// Returns a `metav1.Status`.
    pub fn status(code: u16, message: &str) -> Self {
        let status =
            json!({"kind": "Status", "status": "Failure", "message": message, "code": code});
        Self {
            status: code,
            ..Self::text(status.to_string())
        }
    }
}

pub fn change(kind: &str, object: &Value) -> Part {
    Part::Text(format!("{}\n", json!({"type": kind, "object": object})))
}

/// Returns a bookmark's object.
pub fn at(version: &str) -> Value {
    json!({"kind": "Pod", "metadata": {"resourceVersion": version, "creationTimestamp": null}, "spec": {"containers": null}})
}

/// Returns a pod whose UID and running container derive from `number`.
pub fn pod(name: &str, number: u32, version: &str) -> Value {
    json!({
        "metadata": {
            "namespace": "shop", "name": name, "uid": uid(number), "resourceVersion": version,
            "labels": {"app": "cart"}, "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:x": {}}}],
        },
        "spec": {"nodeName": "node-1"},
        "status": {"containerStatuses": [{"name": "server", "containerID": format!("containerd://{number:064x}")}]},
    })
}

pub fn uid(number: u32) -> String {
    format!("8d0d32a5-8c5b-4b0c-9b0f-0000{number:08x}")
}

#[derive(Default)]
struct Script {
    asked: Vec<Asked>,
    /// Bytes for the next connections instead of answers.
    raw: VecDeque<&'static [u8]>,
    next: VecDeque<Answer>,
    /// Answer to a list when `next` is empty.
    lists: Option<Answer>,
    watches: Option<Answer>,
    sent: u64,
}

/// A server on its own port.
pub struct Server {
    pub address: SocketAddr,
    script: Arc<Mutex<Script>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts a server that answers lists with `lists`, and watches with silence.
    pub fn start(lists: Answer) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), None, lists)
    }

    pub fn start_at(address: SocketAddr, tls: Option<TlsAcceptor>, lists: Answer) -> Self {
        let script = Arc::new(Mutex::new(Script {
            lists: Some(lists),
            watches: Some(Answer::parts([Part::Stall])),
            ..Script::default()
        }));
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(64).unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(accept(listener, tls, Arc::clone(&script)));
        Self {
            address,
            script,
            task,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets the answers to the next requests of any kind.
    pub fn next(&self, answers: impl IntoIterator<Item = Answer>) {
        self.script.lock().unwrap().next.extend(answers);
    }

    /// Sets the bytes for the next connections, after which they end.
    pub fn raw(&self, answers: impl IntoIterator<Item = &'static [u8]>) {
        self.script.lock().unwrap().raw.extend(answers);
    }

    pub fn lists(&self, answer: Answer) {
        self.script.lock().unwrap().lists = Some(answer);
    }

    pub fn watches(&self, answer: Answer) {
        self.script.lock().unwrap().watches = Some(answer);
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.script.lock().unwrap().asked.clone()
    }

    pub fn watched(&self) -> Vec<Asked> {
        self.asked().into_iter().filter(Asked::is_watch).collect()
    }

    pub fn listed(&self) -> Vec<Asked> {
        self.asked()
            .into_iter()
            .filter(|asked| !asked.is_watch())
            .collect()
    }

    /// Returns the bytes of `Part::Repeat` that went out.
    pub fn sent(&self) -> u64 {
        self.script.lock().unwrap().sent
    }

    /// Stops the server and all its connections.
    pub async fn stop(self) -> SocketAddr {
        self.task.abort();
        _ = self.task.await;
        self.address
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, script: Arc<Mutex<Script>>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let raw = script.lock().unwrap().raw.pop_front();
        let (tls, script) = (tls.clone(), Arc::clone(&script));
        connections.spawn(async move {
            match (raw, tls) {
                (Some(raw), _) => break_off(stream, raw).await,
                (None, None) => serve(stream, script).await,
                (None, Some(tls)) => {
                    // A client that does not trust the server ends the connection here.
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, script).await;
                    }
                }
            }
        });
    }
}

async fn break_off(mut stream: TcpStream, raw: &[u8]) {
    if !raw.is_empty() {
        _ = stream.read(&mut [0; 4096]).await;
        _ = stream.write_all(raw).await;
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    script: Arc<Mutex<Script>>,
) {
    let service = service_fn(move |request| {
        let answer = answer(&request, &script);
        let script = Arc::clone(&script);
        async move { Ok::<_, Infallible>(respond(answer, script)) }
    });
    _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn answer(request: &Request<Incoming>, script: &Mutex<Script>) -> Answer {
    let url = kube_query(request.uri().query().unwrap_or_default());
    let authorization = request.headers().get(header::AUTHORIZATION);
    let asked = Asked {
        path: request.uri().path().to_owned(),
        query: url,
        authorization: authorization.map(|value| value.to_str().unwrap().to_owned()),
    };
    let mut script = script.lock().unwrap();
    let default = if asked.is_watch() {
        &script.watches
    } else {
        &script.lists
    };
    let default = default.clone();
    script.asked.push(asked);
    script.next.pop_front().or(default).unwrap()
}

/// Parses the parameters of a query, with only the escapes that the client uses here.
fn kube_query(query: &str) -> HashMap<String, String> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| {
            (
                key.to_owned(),
                value.replace("%3D", "=").replace("%2F", "/"),
            )
        })
        .collect()
}

fn respond(answer: Answer, script: Arc<Mutex<Script>>) -> Response<Channel<Bytes, io::Error>> {
    let (sender, body) = Channel::new(1);
    let mut response = Response::builder().status(answer.status);
    for (key, value) in &answer.headers {
        response = response.header(*key, value);
    }
    tokio::spawn(send(answer.parts, sender, script));
    response.body(body).unwrap()
}

async fn send(parts: Vec<Part>, mut sender: Sender<Bytes, io::Error>, script: Arc<Mutex<Script>>) {
    for part in parts {
        match part {
            Part::Text(text) => {
                if sender.send_data(text.into()).await.is_err() {
                    return;
                }
            }
            Part::Repeat(text, pause) => {
                while sender.send_data(text.clone()).await.is_ok() {
                    script.lock().unwrap().sent += text.len() as u64;
                    tokio::time::sleep(pause).await;
                }
            }
            // The connection's task drops the other end when the client leaves, and then the channel has no room. It
            // also has none before the client takes the last part.
            Part::Stall => {
                let mut taken = false;
                loop {
                    let room = sender.capacity() > 0;
                    if taken && !room {
                        break;
                    }
                    taken |= room;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            Part::Cut => {
                // The text before is on its way once the channel is empty.
                tokio::time::sleep(Duration::from_millis(300)).await;
                return sender.abort(io::Error::other("cut"));
            }
        }
    }
}

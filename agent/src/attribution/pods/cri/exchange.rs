//! One exchange with the runtime: connect, then list containers and sandboxes.

use std::error::Error;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use hyper::http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::host::deadline::Reader;

use super::messages::{Container, List, ListAll, Sandbox};

/// Maximum size of an answer, in bytes: the kubelet's own limit (kubernetes/pkg/kubelet/cri/remote, `maxMsgSize`).
const MAX_ANSWER: usize = 16 << 20;

/// All sandboxes and containers of the runtime.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) sandboxes: List<Sandbox>,
    pub(super) containers: List<Container>,
}

/// Reason why the runtime gave no answer.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: &'static str,
    pub(super) text: String,
}

/// Lists everything over a new connection: requests are rare, and a runtime may restart in between.
pub(super) async fn list(socket: &Path, reader: &Reader) -> Result<Listed, Failure> {
    let channel = connect(socket, reader).await?;
    // In this order the second list has every container's sandbox, unless it was removed in between.
    let containers = call(
        socket,
        channel.clone(),
        "/runtime.v1.RuntimeService/ListContainers",
    );
    let containers = containers.await?;
    let sandboxes = call(socket, channel, "/runtime.v1.RuntimeService/ListPodSandbox").await?;
    Ok(Listed {
        sandboxes,
        containers,
    })
}

async fn connect(socket: &Path, reader: &Reader) -> Result<Channel, Failure> {
    // Connecting to another kind of file gives "connection refused", just as a socket without a listener does.
    let path = socket.to_owned();
    let kind = reader
        .ask(socket.display().to_string(), move || fs::metadata(path))
        .map_err(|late| Failure::new(socket, "timeout", late.to_string()))?
        .map_err(|error| Failure::io(socket, &error))?;
    if !kind.file_type().is_socket() {
        let text = "it is no socket; give the runtime's with --cri-socket";
        return Err(Failure::new(socket, "no_socket", text));
    }
    let endpoint = socket
        .to_str()
        .and_then(|path| Endpoint::from_shared(format!("unix://{path}")).ok())
        .ok_or_else(|| {
            let text = "its path is no UTF-8 text; give another with --cri-socket";
            Failure::new(socket, "no_socket", text)
        })?;
    let connected = endpoint.connect().await;
    connected.map_err(|error| match io_error(&error) {
        Some(error) => Failure::io(socket, error),
        None => Failure::protocol(socket, &error),
    })
}

async fn call<T: Message + Default + 'static>(
    socket: &Path,
    channel: Channel,
    method: &'static str,
) -> Result<T, Failure> {
    let mut grpc = Grpc::new(channel).max_decoding_message_size(MAX_ANSWER);
    let ready = grpc.ready().await;
    ready.map_err(|error| Failure::protocol(socket, &error))?;
    let answer = grpc
        .unary(
            Request::new(ListAll {}),
            PathAndQuery::from_static(method),
            ProstCodec::default(),
        )
        .await;
    let answer = answer.map_err(|status| Failure::status(socket, &status))?;
    Ok(answer.into_inner())
}

impl Failure {
    fn new(socket: &Path, reason: &'static str, text: impl AsRef<str>) -> Self {
        // A server's message may be of any length and contain any characters.
        let text: String = text.as_ref().chars().take(300).collect();
        let text = text.replace(char::is_control, " ");
        let socket = socket.display();
        Self {
            reason,
            text: format!("cannot ask the container runtime at {socket}: {text}"),
        }
    }

    /// The runtime took longer than `patience`.
    pub(super) fn timeout(socket: &Path, patience: Duration) -> Self {
        let text = format!("no answer within {patience:?}; see whether the runtime is well");
        Self::new(socket, "timeout", text)
    }

    fn io(socket: &Path, error: &io::Error) -> Self {
        let (reason, remedy) = match error.kind() {
            ErrorKind::NotFound => (
                "absent",
                "mount the host's socket there, or give its path with --cri-socket",
            ),
            ErrorKind::PermissionDenied => ("denied", "run as root, which the socket belongs to"),
            ErrorKind::ConnectionRefused => ("refused", "start the runtime"),
            _ => ("failed", "see whether the runtime is well"),
        };
        Self::new(socket, reason, format!("{error}; {remedy}"))
    }

    fn protocol(socket: &Path, error: &dyn Error) -> Self {
        let text = format!(
            "it does not speak gRPC: {}; give the runtime's socket with --cri-socket",
            innermost(error)
        );
        Self::new(socket, "protocol", text)
    }

    fn status(socket: &Path, status: &Status) -> Self {
        if let Some(error) = Error::source(status) {
            return match io_error(error) {
                Some(error) => Self::io(socket, error),
                None => Self::protocol(socket, error),
            };
        }
        let message = status.message();
        let (reason, remedy) = match status.code() {
            Code::Unimplemented => (
                "unsupported",
                "it needs CRI version 1: containerd from 1.6 with its CRI plugin not disabled, or CRI-O",
            ),
            Code::PermissionDenied | Code::Unauthenticated => {
                ("denied", "run as root, which the socket belongs to")
            }
            Code::OutOfRange | Code::ResourceExhausted => {
                ("too_large", "remove containers that have ended")
            }
            _ => ("failed", "see the runtime's own log"),
        };
        let code = status.code().description();
        Self::new(socket, reason, format!("{message} ({code}); {remedy}"))
    }
}

/// Returns the I/O error among an error and its causes.
fn io_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.find_map(|cause| cause.downcast_ref())
}

fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

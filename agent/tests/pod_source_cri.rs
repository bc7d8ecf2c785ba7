//! Names over a runtime's socket: sockets that fail to give any, and a real containerd.

#![expect(
    clippy::unwrap_used,
    reason = "clippy allows it in tests, but not in what they have in common"
)]

#[path = "pod_source_cri/hostile.rs"]
mod hostile;
#[path = "pod_source_cri/listener.rs"]
mod listener;
#[path = "pod_source_cri/runtime.rs"]
mod runtime;

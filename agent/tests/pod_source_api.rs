//! Names from the Kubernetes API: the real client, against a server on this machine that follows the API's protocol or
//! breaks it, and on demand against a real API server.

// Clippy counts only the test functions themselves as tests, not the code they share.
#![allow(clippy::unwrap_used)]

#[path = "pod_source_api/failing.rs"]
mod failing;
#[path = "pod_source_api/heard.rs"]
mod heard;
#[path = "pod_source_api/hostile.rs"]
mod hostile;
#[path = "pod_source_api/listing.rs"]
mod listing;
#[path = "pod_source_api/real.rs"]
mod real;
#[path = "pod_source_api/remedies.rs"]
mod remedies;
#[path = "pod_source_api/server.rs"]
mod server;
#[path = "pod_source_api/tls.rs"]
mod tls;
#[path = "pod_source_api/watching.rs"]
mod watching;

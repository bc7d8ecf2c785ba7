//! Names from the Kubernetes API: the real client, against a server on this machine that speaks the API's protocol as
//! it should or as it should not, and on demand against a real API server.

// Clippy takes only the test functions themselves for tests, not what they share.
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

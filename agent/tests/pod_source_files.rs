//! Names from the kubelet's log directories, which the tests make as a kubelet does.

#![expect(
    clippy::unwrap_used,
    reason = "clippy allows it in tests, but not in what they have in common"
)]

#[path = "pod_source_files/bad_input.rs"]
mod bad_input;
#[path = "pod_source_files/lives.rs"]
mod lives;
#[path = "pod_source_files/node.rs"]
mod node;
#[path = "pod_source_files/properties.rs"]
mod properties;
#[path = "pod_source_files/vanishing.rs"]
mod vanishing;

//! A Kubernetes node without Kubernetes: a container runtime, and the kubelet's role in the life of pods.
#![allow(dead_code, reason = "each test uses a part")]

pub mod agent;
pub mod cgroups;
pub mod cri;
pub mod daemon;
pub mod image;
pub mod joins;
pub mod kubelet;

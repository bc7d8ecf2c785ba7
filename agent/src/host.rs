//! The machine: its topology, its cgroups, its kernel's types, and what this process may do there.

pub mod btf;
pub mod capabilities;
pub mod cgroup;
pub mod deadline;
pub mod heap;
pub mod preflight;
pub mod topology;

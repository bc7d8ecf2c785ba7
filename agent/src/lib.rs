//! Stallscope's agent: loads the probes, attributes what they count, and serves it.

pub mod attribution;
pub mod btf;
pub mod cgroup;
pub mod exposition;
pub mod metric;
pub mod pods;
pub mod server;
pub mod topology;

//! Stallscope's agent: loads the probes, attributes their counts to owners, and serves them over HTTP.

pub mod agent;
pub mod api;
pub mod attribution;
pub mod btf;
pub mod capabilities;
pub mod cells;
pub mod cgroup;
pub mod collector;
pub mod commands;
pub mod deadline;
pub mod doctor;
pub mod explain;
pub mod exposition;
pub mod history;
pub mod kernel_log;
pub mod ledger;
pub mod lengths;
pub mod mapped;
pub mod metric;
pub mod overhead;
pub mod owners;
pub mod pods;
pub mod preflight;
pub mod printable;
pub mod probe;
pub mod probes;
pub mod server;
mod shell_command;
pub mod topology;

pub use shell_command::ShellCommand;

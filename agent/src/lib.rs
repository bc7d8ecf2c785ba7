//! Stallscope's agent: loads the probes, attributes their counts to owners, and serves them over HTTP.
//!
//! The modules are the rooms that data goes through, from the kernel to the reader: `host` and `probe` know the
//! machine, `attribution` says whose a cgroup is, `probes` reads what was counted, `ledger` adds it up, `explain` and
//! `doctor` draw conclusions, `exposition` and `server` publish, and `agent` puts them together for `commands`.

pub mod agent;
pub mod api;
pub mod attribution;
pub mod commands;
pub mod doctor;
pub mod explain;
pub mod exposition;
pub mod host;
pub mod ledger;
pub mod probe;
pub mod probes;
pub mod server;
pub mod text;

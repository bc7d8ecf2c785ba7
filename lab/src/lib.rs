//! The lab: stalls made on purpose, in known numbers and places, and what Stallscope says of them.
//!
//! The same program runs on the host and as the first process of a virtual machine, where it finds
//! several NUMA nodes and other kernels. It is no part of what is installed on a node.

pub mod init;
pub mod lengths;
pub mod memory;
pub mod report;
pub mod scrape;
pub mod served;
pub mod split;
pub mod task;
pub mod trace;
pub mod truths;
pub mod worker;
pub mod world;

mod group;

pub use group::Group;
pub use report::Report;
pub use scrape::{Scrape, label};
pub use task::{Task, Tasks};
pub use worker::Worker;
pub use world::World;

//! The lab: it makes stalls on purpose, in known numbers and places, and compares what Stallscope
//! says of them.
//!
//! The same program runs on the host and as the first process of a virtual machine, where it finds
//! several NUMA nodes and other kernels. It is not installed on nodes.

pub mod agent_process;
pub mod demo;
pub mod histogram;
pub mod init;
pub mod interrupt;
pub mod limit;
pub mod memory;
pub mod report;
pub mod scrape;
pub mod setting;
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
pub use setting::Setting;
pub use task::{Task, Tasks};
pub use worker::Worker;
pub use world::World;

/// The prime numbers from `least` on: numbers of events that do not come about by chance.
pub fn primes(least: u64) -> impl Iterator<Item = u64> {
    (least..).filter(|n| *n > 1 && (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0))
}

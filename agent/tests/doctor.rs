//! Node audit of well and badly configured nodes of every kind, of hostile files, and of the host that runs the tests.

#![expect(
    clippy::unwrap_used,
    reason = "clippy allows it in tests, but not in what they have in common"
)]

#[path = "doctor/advice.rs"]
mod advice;
#[path = "doctor/cases.rs"]
mod cases;
#[path = "doctor/command.rs"]
mod command;
#[path = "doctor/fixture.rs"]
mod fixture;
mod harmless;
#[path = "doctor/hostile.rs"]
mod hostile;
#[path = "doctor/nodes.rs"]
mod nodes;
#[path = "doctor/pages.rs"]
mod pages;
#[path = "topology/fixture.rs"]
#[expect(dead_code, reason = "the topology's tests use the rest")]
mod sysfs;

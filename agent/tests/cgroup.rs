//! Discovery, scan and watch of cgroup hierarchies, on fixtures and on this machine.

#[path = "cgroup/fixture.rs"]
mod fixture;
#[path = "cgroup/hierarchy.rs"]
mod hierarchy;
#[path = "cgroup/real.rs"]
mod real;
#[path = "cgroup/watch.rs"]
mod watch;

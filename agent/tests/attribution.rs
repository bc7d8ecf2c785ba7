//! Attribution of cgroup paths to owners.

#[path = "attribution/labels.rs"]
mod labels;
#[path = "attribution/paths.rs"]
mod paths;

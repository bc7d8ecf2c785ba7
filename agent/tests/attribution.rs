//! Attribution of cgroup paths to owners.

#[path = "attribution/generated.rs"]
mod generated;
#[path = "attribution/labels.rs"]
mod labels;
#[path = "attribution/paths.rs"]
mod paths;

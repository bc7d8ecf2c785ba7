//! CPU quotas and the throttling that they caused: `cpu.stat` and the files that hold the limit.
//!
//! v1: Documentation/scheduler/sched-bwc.rst. v2: Documentation/admin-guide/cgroup-v2.rst, "CPU Interface Files".

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::walk::is_gone;
use super::{Cgroup, CgroupId, Hierarchy, Mode};

/// Throttling of a cgroup by its CPU quota since the cgroup was made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CpuStat {
    /// Periods in which the cgroup was runnable (`nr_periods`).
    pub periods: u64,
    /// Periods in which its quota ran out (`nr_throttled`).
    pub throttled_periods: u64,
    /// Time for which it was throttled, summed over CPUs, in nanoseconds (v1 `throttled_time`, v2 `throttled_usec`).
    pub throttled_ns: u64,
}

/// CPU limit of a cgroup.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CpuLimit {
    /// CPU time that the cgroup may use in each period, in microseconds; none for no limit.
    pub quota_us: Option<u64>,
    /// Length of a period, in microseconds.
    pub period_us: u64,
}

impl CpuLimit {
    /// Returns the limit in CPUs, as in a pod's `limits.cpu`.
    #[must_use]
    pub fn cpus(self) -> Option<f64> {
        let quota = self.quota_us?;
        (self.period_us > 0).then(|| quota as f64 / self.period_us as f64)
    }
}

/// Reads cgroups' limits and throttling, and keeps `cpu.stat` of a bounded number of them open.
///
/// An open file saves the path look-up and the opening, most of a read's cost. The reader opens the files of cgroups
/// beyond the bound for each read. Reading a held file allocates nothing.
#[derive(Debug)]
pub struct CpuStats {
    mount: PathBuf,
    unified: bool,
    held: HashMap<CgroupId, File>,
    max_held: usize,
    buffer: Box<[u8; 4096]>,
}

impl CpuStats {
    /// Default cap on held files, which leaves room under systemd's default limit of 1,024 descriptors.
    pub const DEFAULT_HELD: usize = 512;

    /// Makes a reader of `hierarchy` that holds at most `max_held` files open.
    #[must_use]
    pub fn new(hierarchy: &Hierarchy, max_held: usize) -> Self {
        Self {
            mount: hierarchy.mount().to_owned(),
            unified: hierarchy.mode() == Mode::V2,
            held: HashMap::new(),
            max_held,
            buffer: Box::new([0; 4096]),
        }
    }

    /// Reads a cgroup's throttling; none when the cgroup is gone or the cpu controller is not enabled for it.
    ///
    /// # Errors
    /// When the file cannot be read for another reason.
    pub fn stat(&mut self, cgroup: &Cgroup) -> io::Result<Option<CpuStat>> {
        let Self {
            mount,
            unified,
            held,
            max_held,
            buffer,
        } = self;
        let read = if let Some(file) = held.get(&cgroup.id) {
            read(file, &mut buffer[..])
        } else {
            File::open(cgroup.path.below(mount).join("cpu.stat")).and_then(|file| {
                let text = read(&file, &mut buffer[..])?;
                if held.len() < *max_held {
                    held.insert(cgroup.id, file);
                }
                Ok(text)
            })
        };
        match read {
            Ok(text) => Ok(parse_stat(text, *unified)),
            Err(error) if is_gone(&error) => {
                held.remove(&cgroup.id);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads a cgroup's limit; none when the cgroup is gone or cannot have a limit (the root, or no cpu controller).
    ///
    /// # Errors
    /// When the files cannot be read for another reason.
    pub fn limit(&mut self, cgroup: &Cgroup) -> io::Result<Option<CpuLimit>> {
        self.read_limit(cgroup, false)
    }

    /// Reads a cgroup's limit if it has a quota. For callers that look at every cgroup again and again: on v1 it reads
    /// one file of a cgroup without a quota, not two.
    ///
    /// # Errors
    /// When the files cannot be read for another reason than that they do not exist.
    pub fn quota(&mut self, cgroup: &Cgroup) -> io::Result<Option<CpuLimit>> {
        let limit = self.read_limit(cgroup, true)?;
        Ok(limit.filter(|limit| limit.quota_us.is_some()))
    }

    fn read_limit(&mut self, cgroup: &Cgroup, quota_only: bool) -> io::Result<Option<CpuLimit>> {
        let dir = cgroup.path.below(&self.mount);
        let mut open =
            |name| read(&File::open(dir.join(name))?, &mut self.buffer[..]).map(parse_limit);
        let limit = if self.unified {
            open("cpu.max")
        } else {
            open("cpu.cfs_quota_us").and_then(|(quota, _)| match quota {
                None if quota_only => Ok((None, None)),
                quota => Ok((quota, open("cpu.cfs_period_us")?.0)),
            })
        };
        match limit {
            Ok((quota_us, Some(period_us))) => Ok(Some(CpuLimit {
                quota_us,
                period_us,
            })),
            Ok((_, None)) => Ok(None),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Closes the file held of a cgroup that was removed.
    pub fn forget(&mut self, id: CgroupId) {
        self.held.remove(&id);
    }

    /// Returns the number of files held open.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }
}

/// Reads the start of a file. The kernel generates these few hundred bytes afresh for each read at offset 0.
fn read<'a>(file: &File, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let length = file.read_at(buffer, 0)?;
    Ok(&buffer[..length])
}

/// See [`super::fuzz`].
pub(super) fn fuzz(file: &[u8]) {
    for unified in [false, true] {
        let _ = parse_stat(file, unified);
    }
    let (quota_us, period_us) = parse_limit(file);
    let limit = CpuLimit {
        quota_us,
        period_us: period_us.unwrap_or(0),
    };
    assert!(limit.cpus().is_none_or(f64::is_finite));
}

/// Parses `key value` lines; none unless all three keys are there. On v2, `cpu.stat` lacks them where the cpu
/// controller is not enabled.
fn parse_stat(text: &[u8], unified: bool) -> Option<CpuStat> {
    let (mut periods, mut throttled_periods, mut throttled_ns) = (None, None, None);
    for line in text.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b' ');
        let (Some(key), Some(value)) = (fields.next(), fields.next().and_then(number)) else {
            continue;
        };
        match key {
            b"nr_periods" => periods = Some(value),
            b"nr_throttled" => throttled_periods = Some(value),
            b"throttled_usec" if unified => throttled_ns = Some(value.saturating_mul(1000)),
            b"throttled_time" if !unified => throttled_ns = Some(value),
            _ => {}
        }
    }
    Some(CpuStat {
        periods: periods?,
        throttled_periods: throttled_periods?,
        throttled_ns: throttled_ns?,
    })
}

/// Parses one or two numbers; `max` (v2) and -1 (v1) yield none.
fn parse_limit(text: &[u8]) -> (Option<u64>, Option<u64>) {
    let mut fields = text.split(u8::is_ascii_whitespace).map(number);
    (fields.next().flatten(), fields.next().flatten())
}

fn number(field: &[u8]) -> Option<u64> {
    str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_cpu_stat() {
        let expected = CpuStat {
            periods: 97,
            throttled_periods: 31,
            throttled_ns: 5_000,
        };
        let v1 =
            b"nr_periods 97\nnr_throttled 31\nthrottled_time 5000\nnr_bursts 0\nburst_time 0\n";
        let v2 = b"usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 97\nnr_throttled 31\nthrottled_usec 5\nnr_bursts 0\n";
        assert_eq!(parse_stat(v1, false), Some(expected));
        assert_eq!(parse_stat(v2, true), Some(expected));
        assert_eq!(
            parse_stat(b"usage_usec 9\nuser_usec 5\nsystem_usec 4\n", true),
            None,
            "cpu not enabled"
        );
        assert_eq!(parse_stat(v1, true), None);
        assert_eq!(
            parse_stat(b"nr_periods\nnr_throttled x\n\xff \xff\n", false),
            None
        );
    }

    #[test]
    fn limits() {
        assert_eq!(parse_limit(b"max 100000\n"), (None, Some(100_000)));
        assert_eq!(
            parse_limit(b"400000 100000\n"),
            (Some(400_000), Some(100_000))
        );
        assert_eq!(parse_limit(b"-1\n"), (None, None));
        let limit = CpuLimit {
            quota_us: Some(150_000),
            period_us: 100_000,
        };
        assert_eq!(limit.cpus(), Some(1.5));
        assert_eq!(
            CpuLimit {
                quota_us: None,
                ..limit
            }
            .cpus(),
            None
        );
    }
}

//! The kernel's own record of its events, in an instance of tracefs, without BPF.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Usual mount point of tracefs.
const USUAL: &str = "/sys/kernel/tracing";

/// A recording, which ends when dropped.
#[derive(Debug)]
pub struct Trace {
    instance: PathBuf,
    events: Vec<String>,
    mounted: Option<PathBuf>,
}

/// One event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// Time in nanoseconds of the monotonic clock, to the microsecond.
    pub ns: u64,
    /// Its name.
    pub name: String,
    /// Its fields, as the kernel prints them.
    pub fields: String,
}

impl Trace {
    /// Records `events` (such as `sched/sched_switch`) that pass `filter`.
    ///
    /// # Errors
    /// When the kernel has no tracefs, no such event, or does not take the filter.
    pub fn of(events: &[&str], filter: &str) -> Result<Self> {
        let (root, mounted) = root()?;
        let instance = root
            .join("instances")
            .join(format!("stallscope-lab-{}", std::process::id()));
        let trace = Self {
            instance,
            events: events.iter().map(|&event| event.to_owned()).collect(),
            mounted,
        };
        fs::create_dir(&trace.instance)
            .with_context(|| format!("cannot make {}", trace.instance.display()))?;
        trace.write("trace_clock", "mono")?;
        trace.write("buffer_size_kb", "4096")?;
        for event in events {
            trace.write(&format!("events/{event}/filter"), filter)?;
            trace.write(&format!("events/{event}/enable"), "1")?;
        }
        Ok(trace)
    }

    /// Ends the recording and returns every event, in the order of time.
    ///
    /// # Errors
    /// When events were lost, or a line is none that a kernel prints.
    pub fn end(self) -> Result<Vec<Event>> {
        self.write("tracing_on", "0")?;
        let text =
            fs::read_to_string(self.instance.join("trace")).context("cannot read a trace")?;
        complete(&text)?;
        let names: Vec<&str> = self
            .events
            .iter()
            .filter_map(|e| Some(e.rsplit_once('/')?.1))
            .collect();
        text.lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .map(|line| {
                parse(line, &names).with_context(|| format!("this should be an event: {line}"))
            })
            .collect()
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.instance.join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {text} to {}", path.display()))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.instance);
        if let Some(dir) = &self.mounted {
            let _ = unmount(dir, UnmountFlags::DETACH);
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Finds tracefs. The second path is its mount point, if it was mounted for this trace.
fn root() -> Result<(PathBuf, Option<PathBuf>)> {
    if Path::new(USUAL).join("instances").exists() {
        return Ok((USUAL.into(), None));
    }
    let dir = std::env::temp_dir().join(format!("stallscope-lab-{}-tracing", std::process::id()));
    match fs::create_dir(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("cannot make {}", dir.display()));
        }
        _ => {}
    }
    mount(c"tracefs", &dir, c"tracefs", MountFlags::empty(), c"")
        .with_context(|| format!("cannot mount tracefs on {}", dir.display()))?;
    Ok((dir.clone(), Some(dir)))
}

/// Checks `# entries-in-buffer/entries-written: 3/3   #P:2`: two different numbers mean that events
/// were lost.
fn complete(text: &str) -> Result<()> {
    let line = text
        .lines()
        .find_map(|line| line.split_once("entries-written:"))
        .context("a trace does not say how many events it has")?;
    let (kept, written) = line
        .1
        .split_whitespace()
        .next()
        .and_then(|word| word.split_once('/'))
        .context("a trace should say how many events it has")?;
    ensure!(
        kept == written,
        "of {written} events only {kept} are in the trace"
    );
    Ok(())
}

/// Parses `  comm-PID  [CPU] flags  SECONDS.MICROS: NAME: FIELDS`; `comm` may hold anything.
fn parse(line: &str, names: &[&str]) -> Option<Event> {
    let (at, name) = names
        .iter()
        .find_map(|name| Some((line.find(&format!(": {name}: "))?, *name)))?;
    let (seconds, micros) = line[..at].rsplit_once(' ')?.1.split_once('.')?;
    let ns = seconds.parse::<u64>().ok()? * 1_000_000_000 + micros.parse::<u64>().ok()? * 1000;
    Some(Event {
        ns,
        name: name.to_owned(),
        fields: line[at + name.len() + 4..].to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::{Event, complete, parse};

    #[test]
    fn an_event_is_read_whatever_its_task_is_called() {
        let line = " a: b-c [1]-77      [003] d..2.    12.000345: sched_switch: prev_comm=x prev_state=R+ ==> next_pid=5";
        let expected = Event {
            ns: 12_000_345_000,
            name: "sched_switch".to_owned(),
            fields: "prev_comm=x prev_state=R+ ==> next_pid=5".to_owned(),
        };
        assert_eq!(
            parse(line, &["sched_wakeup", "sched_switch"]),
            Some(expected)
        );
        assert_eq!(parse(line, &["sched_wakeup"]), None);
    }

    #[test]
    fn a_trace_that_lost_events_is_refused() {
        assert!(complete("# entries-in-buffer/entries-written: 3/3   #P:2\n").is_ok());
        assert!(complete("# entries-in-buffer/entries-written: 3/4   #P:2\n").is_err());
        assert!(complete("").is_err());
    }
}

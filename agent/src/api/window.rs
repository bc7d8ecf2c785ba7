//! Time windows: from the text of a request to seconds of the history.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Refusal, Request};
use crate::ledger::history::{History, Limits, Quantity, Subject};

/// Default length of a window.
const DEFAULT_LENGTH: Duration = Duration::from_secs(60);

/// A moment on two clocks: the record uses the monotonic one, requests the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The monotonic clock.
    pub instant: Instant,
    /// The wall clock.
    pub system: SystemTime,
}

impl Now {
    /// Reads both clocks.
    #[must_use]
    pub fn read() -> Self {
        Self {
            instant: Instant::now(),
            system: SystemTime::now(),
        }
    }

    /// Converts an instant to Unix seconds.
    #[must_use]
    pub fn unix(self, at: Instant) -> f64 {
        let ago = self.instant.saturating_duration_since(at).as_secs_f64();
        let ahead = at.saturating_duration_since(self.instant).as_secs_f64();
        // Rounded to milliseconds: the two clocks are not read at the same moment.
        ((unix(self.system) - ago + ahead) * 1000.0).round() / 1000.0
    }
}

/// A range of seconds of the history.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window {
    /// The first second.
    pub from: u32,
    /// The second after the last.
    pub to: u32,
    /// The first recorded second, at least `from`.
    pub recorded_from: u32,
}

impl Window {
    /// Finds the window that a request asks for.
    ///
    /// # Errors
    /// When the request makes no sense, or no part of the window is recorded.
    pub fn find(history: &History, request: &Request, now: Now) -> Result<Self, Refusal> {
        let length = length(request.window.as_deref(), history.length())?;
        let (first, end) = history.recorded().ok_or_else(|| {
            Refusal::missing(
                "nothing is recorded yet: the agent has just started, ask again in a second",
            )
        })?;
        let to = match request.at.as_deref() {
            None => end,
            Some(text) => {
                let at = time(text, now.system)?;
                if let Ok(ahead) = at.duration_since(now.system)
                    && !ahead.is_zero()
                {
                    return Err(Refusal::bad(format!(
                        "`at={text}` is in the future: it is {} now",
                        moment(unix(now.system))
                    )));
                }
                let ago = now.system.duration_since(at).unwrap_or_default();
                let at = now.instant.checked_sub(ago);
                at.map_or(first, |at| history.second(at)).min(end)
            }
        };
        if to <= first {
            return Err(Refusal::missing(format!(
                "nothing is recorded of the window that ends at `{}`: the record begins at {} (the agent keeps {}; see --history)",
                request.at.as_deref().unwrap_or("now"),
                moment(now.unix(history.begin(first))),
                humantime::format_duration(history.length()),
            )));
        }
        let from = to.saturating_sub(length);
        Ok(Self {
            from,
            to,
            recorded_from: from.max(first),
        })
    }

    /// Returns the length of the window, in seconds.
    #[must_use]
    pub fn seconds(self) -> f64 {
        f64::from(self.to - self.from)
    }

    /// Returns the recorded part of the window, in seconds.
    #[must_use]
    pub fn recorded_seconds(self) -> f64 {
        f64::from(self.to.saturating_sub(self.recorded_from))
    }
}

/// Converts a time to Unix seconds; negative before 1970, as on a host whose clock was never set.
fn unix(at: SystemTime) -> f64 {
    match at.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

/// Formats Unix seconds for people: as RFC 3339 where the year has four digits, else as the number.
#[must_use]
pub fn moment(unix: f64) -> String {
    /// Start of the year 10000, in Unix seconds.
    const END: f64 = 253_402_300_800.0;
    if (0.0..END).contains(&unix) {
        let at = UNIX_EPOCH + Duration::from_secs_f64(unix);
        humantime::format_rfc3339_seconds(at).to_string()
    } else {
        format!("{unix} (Unix seconds)")
    }
}

/// Parses a window's length into whole seconds, at most `longest`.
fn length(text: Option<&str>, longest: Duration) -> Result<u32, Refusal> {
    let Some(text) = text else {
        return Ok(DEFAULT_LENGTH.min(longest).as_secs() as u32);
    };
    let refuse = |why: &str| {
        Refusal::bad(format!(
            "`window={text}`{why}: expected 1s to {}, such as 60s, 5m or 1h",
            humantime::format_duration(longest)
        ))
    };
    let length = humantime::parse_duration(text).map_err(|_| refuse(""))?;
    if length < Duration::from_secs(1) {
        return Err(refuse(" is too short"));
    }
    if length > longest {
        return Err(refuse(" is longer than what is kept"));
    }
    Ok(length.as_secs() as u32)
}

fn time(text: &str, now: SystemTime) -> Result<SystemTime, Refusal> {
    let age = || humantime::parse_duration(text.strip_prefix('-')?).ok();
    let unix = || {
        let seconds = text.parse::<f64>().ok()?;
        UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
    };
    let absolute = || humantime::parse_rfc3339_weak(text).ok().or_else(unix);
    let at = match age() {
        Some(age) => now.checked_sub(age),
        None => absolute(),
    };
    at.ok_or_else(|| {
        Refusal::bad(format!(
            "`at={text}`: expected Unix seconds, a time such as 2026-03-01T03:12:00Z, or an age such as -5m"
        ))
    })
}

/// Finds the window of a request in an example history, at a time on the wall clock: the entry point for `fuzz/`.
#[doc(hidden)]
pub fn fuzz(request: &Request, system: SystemTime) {
    let (history, instant) = example();
    let now = Now { instant, system };
    if let Ok(window) = Window::find(&history, request, now) {
        assert!(window.from <= window.recorded_from && window.from < window.to);
        assert!(window.recorded_seconds() <= window.seconds());
        assert!(now.unix(history.begin(window.to)).is_finite());
    }
}

/// Returns a history with room for ten minutes, of which seconds 100 to 199 are recorded, and the instant at second 200.
fn example() -> (History, Instant) {
    let start = Instant::now();
    let limits = Limits {
        length: Duration::from_secs(600),
        bytes: 1 << 16,
    };
    let mut history = History::new(limits, start);
    let zero = history.second(start);
    for second in 100..200 {
        history.begin_second(zero + second);
        let total = u64::from(second) * 1_000_000_000;
        history.record(Subject::Host, None, [(Quantity::Agent, total)].into_iter());
    }
    (history, start + Duration::from_secs(200))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Kind;

    /// Returns the example history at its second 200, which is on 1 March 2026.
    fn history() -> (History, Now) {
        let (history, instant) = example();
        let system = UNIX_EPOCH + Duration::from_secs(1_772_334_720);
        (history, Now { instant, system })
    }

    fn find(at: Option<&str>, window: Option<&str>) -> Result<(u32, u32, u32), Refusal> {
        find_when(UNIX_EPOCH + Duration::from_secs(1_772_334_720), at, window)
    }

    /// Finds a window when the wall clock shows `system`.
    fn find_when(
        system: SystemTime,
        at: Option<&str>,
        window: Option<&str>,
    ) -> Result<(u32, u32, u32), Refusal> {
        let (history, now) = history();
        let now = Now { system, ..now };
        let request = Request {
            at: at.map(str::to_owned),
            window: window.map(str::to_owned),
            ..Request::default()
        };
        let window = Window::find(&history, &request, now)?;
        let zero = history.second(now.instant) - 200;
        Ok((
            window.from - zero,
            window.to - zero,
            window.recorded_from - zero,
        ))
    }

    #[test]
    fn times_may_be_unix_seconds_or_written_out_or_ages() {
        assert_eq!(find(None, None), Ok((140, 200, 140)));
        assert_eq!(find(None, Some("2m")), Ok((80, 200, 100)));
        assert_eq!(find(Some("-50s"), Some("10s")), Ok((140, 150, 140)));
        assert_eq!(find(Some("1772334670"), Some("10s")), Ok((140, 150, 140)));
        assert_eq!(find(Some("1772334670.9"), Some("10s")), Ok((140, 150, 140)));
        let written = find(Some("2026-03-01T03:11:10Z"), Some("10s"));
        assert_eq!(written, Ok((140, 150, 140)));
        assert_eq!(find(Some("2026-03-01 03:11:10"), Some("10s")), written);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (at, window, named) in [
            (Some("soon"), None, "`at=soon`: expected Unix seconds"),
            (Some(""), None, "`at=`"),
            (Some("NaN"), None, "`at=NaN`"),
            (Some("-1"), None, "`at=-1`"),
            (Some("1e300"), None, "`at=1e300`"),
            (
                Some("1772334721"),
                None,
                "is in the future: it is 2026-03-01T03:12:00Z now",
            ),
            (None, Some("0s"), "`window=0s` is too short"),
            (None, Some("0"), "`window=0`"),
            (
                None,
                Some("1y"),
                "`window=1y` is longer than what is kept: expected 1s to 10m",
            ),
            (None, Some("-5m"), "`window=-5m`: expected"),
            (
                None,
                Some("99999999999999999999s"),
                "`window=99999999999999999999s`: expected",
            ),
        ] {
            let refusal = find(at, window).expect_err("refused");
            assert_eq!(refusal.kind, Kind::Bad, "{refusal}");
            assert!(refusal.error.contains(named), "{refusal}");
        }
    }

    #[test]
    fn a_clock_that_was_never_set_or_is_far_off_is_written_all_the_same() {
        let second = Duration::from_secs;
        // The record began 100 s ago: before 1970.
        let refused = |system, at| find_when(system, Some(at), None).expect_err("refused");
        let early = refused(UNIX_EPOCH + second(30), "-200s");
        assert_eq!(early.kind, Kind::Missing);
        assert!(
            early.error.contains("begins at -70 (Unix seconds)"),
            "{early}"
        );
        let before = UNIX_EPOCH - second(1000);
        let future = refused(before, "0");
        assert!(
            future.error.contains("it is -1000 (Unix seconds) now"),
            "{future}"
        );
        assert_eq!(
            find_when(before, Some("-50s"), Some("10s")),
            Ok((140, 150, 140))
        );
        let (history, now) = history();
        let now = Now {
            system: before,
            ..now
        };
        assert!((now.unix(history.begin(history.second(now.instant))) + 1000.0).abs() < 1e-3);
        // Start of the year 10000.
        let late = UNIX_EPOCH + second(253_402_300_800);
        let future = refused(late, "253402300900");
        assert!(
            future
                .error
                .contains("it is 253402300800 (Unix seconds) now"),
            "{future}"
        );
        let missing = refused(late + second(1000), "-200s");
        assert!(
            missing
                .error
                .contains("begins at 253402301700 (Unix seconds)"),
            "{missing}"
        );
    }

    #[test]
    fn moments_are_written_out_where_that_has_a_form() {
        for (unix, expected) in [
            (0.0, "1970-01-01T00:00:00Z"),
            (1_772_334_720.9, "2026-03-01T03:12:00Z"),
            (253_402_300_799.9, "9999-12-31T23:59:59Z"),
            (253_402_300_800.0, "253402300800 (Unix seconds)"),
            (-0.5, "-0.5 (Unix seconds)"),
            (f64::NAN, "NaN (Unix seconds)"),
            (f64::INFINITY, "inf (Unix seconds)"),
        ] {
            assert_eq!(moment(unix), expected);
        }
    }

    #[test]
    fn what_lies_before_the_record_is_missing() {
        for at in ["-101s", "-9000000000s", "0", "1970-01-01T00:00:01Z"] {
            let refusal = find(Some(at), None).expect_err("refused");
            assert_eq!(refusal.kind, Kind::Missing, "{refusal}");
            assert!(
                refusal
                    .error
                    .contains("the record begins at 2026-03-01T03:10:20Z"),
                "{refusal}"
            );
        }
    }
}

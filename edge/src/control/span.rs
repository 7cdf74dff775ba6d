//! Points in time and lengths of time as text for people and JSON.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// RFC 3339 in UTC with whole seconds; what lies outside the years 0 to 9999 is empty.
pub fn rfc3339(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339).unwrap_or_default()
}

/// Unix seconds as a point in time, as far as the system can hold it.
pub fn unix(seconds: i64) -> Option<SystemTime> {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    }
}

/// The two largest units that are not zero: `45s`, `3m20s`, `2d4h`, `88d`.
pub fn rough(length: Duration) -> String {
    let seconds = length.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let Some(first) = units.iter().position(|(unit, _)| seconds >= *unit) else {
        return if length.is_zero() { "0s".to_owned() } else { format!("{}ms", length.as_millis().max(1)) };
    };
    let (unit, name) = units[first];
    let mut text = format!("{}{name}", seconds / unit);
    // Beyond two weeks nobody plans by the hour.
    let coarse = first == 0 && seconds >= 14 * 86_400;
    if let Some((small, small_name)) = units.get(first + 1).filter(|_| !coarse) {
        let rest = seconds % unit / small;
        if rest > 0 {
            text.push_str(&format!("{rest}{small_name}"));
        }
    }
    text
}

/// A length exactly, in the units of `edge.toml`: `1h30m`, `2500ms` as `2s500ms`.
pub fn exact(length: Duration) -> String {
    if length.is_zero() {
        return "0s".to_owned();
    }
    let (seconds, millis) = (length.as_secs(), length.subsec_millis());
    let parts = [(seconds / 3_600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s"), (u64::from(millis), "ms")];
    parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        for (millis, about, precise) in [
            (0, "0s", "0s"),
            (20, "20ms", "20ms"),
            (45_000, "45s", "45s"),
            (200_000, "3m20s", "3m20s"),
            (3_600_000, "1h", "1h"),
            (5_400_500, "1h30m", "1h30m500ms"),
            (187_200_000, "2d4h", "52h"),
            (7_606_800_000, "88d", "2113h"),
        ] {
            let length = Duration::from_millis(millis);
            assert_eq!((rough(length).as_str(), exact(length).as_str()), (about, precise));
        }
    }

    #[test]
    fn points() {
        assert_eq!(rfc3339(unix(1_790_000_000).unwrap()), "2026-09-21T14:13:20Z");
        assert_eq!(rfc3339(unix(-1).unwrap()), "1969-12-31T23:59:59Z");
    }
}

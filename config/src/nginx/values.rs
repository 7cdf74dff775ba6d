//! How NGINX writes durations, sizes and rates. A text is kept as it was written; who acts on it parses it, and one that
//! is none is a fault of its policy.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `^[0-9]{1,4}(ms|s|m|h)?$`; without a unit it is seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NginxDuration(pub String);

impl NginxDuration {
    pub fn parse(&self) -> Option<Duration> {
        let end = self.0.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.0.len());
        let (digits, unit) = self.0.split_at(end);
        let number: u64 = digits.parse().ok().filter(|_| digits.len() <= 4)?;
        let milliseconds = match unit {
            "ms" => number,
            "" | "s" => number * 1000,
            "m" => number * 60_000,
            "h" => number * 3_600_000,
            _ => return None,
        };
        Some(Duration::from_millis(milliseconds))
    }
}

/// `^[0-9]{1,4}(k|m|g)?$`; without a unit it is bytes, and a unit is 1024 of the one before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NginxSize(pub String);

impl NginxSize {
    /// In bytes.
    pub fn parse(&self) -> Option<u64> {
        let end = self.0.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.0.len());
        let (digits, unit) = self.0.split_at(end);
        let number: u64 = digits.parse().ok().filter(|_| digits.len() <= 4)?;
        let shift = match unit {
            "" => 0,
            "k" => 10,
            "m" => 20,
            "g" => 30,
            _ => return None,
        };
        Some(number << shift)
    }
}

/// `^[0-9]+r/[sm]$`: requests in a second or in a minute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NginxRate(pub String);

impl NginxRate {
    /// How many, and in which time.
    pub fn parse(&self) -> Option<(u32, Duration)> {
        let (number, unit) = self.0.split_once("r/")?;
        let window = match unit {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            _ => return None,
        };
        let number = number.parse().ok().filter(|_| number.bytes().all(|byte| byte.is_ascii_digit()))?;
        Some((number, window))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_nginx() {
        for (text, milliseconds) in [
            ("60s", Some(60_000)),
            ("10", Some(10_000)),
            ("250ms", Some(250)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
        ] {
            assert_eq!(NginxDuration(text.to_owned()).parse().map(|d| d.as_millis() as u64), milliseconds, "{text}");
        }
        for text in ["", "s", "12345s", "1d", "1m30s", "-1s", "1 s"] {
            assert_eq!(NginxDuration(text.to_owned()).parse(), None, "{text}");
        }
    }

    #[test]
    fn sizes_of_nginx() {
        for (text, bytes) in
            [("0", Some(0)), ("1024", Some(1024)), ("8k", Some(8192)), ("1m", Some(1 << 20)), ("2g", Some(2 << 30))]
        {
            assert_eq!(NginxSize(text.to_owned()).parse(), bytes, "{text}");
        }
        for text in ["", "k", "10240", "1K", "1mb", "-1", "1 m"] {
            assert_eq!(NginxSize(text.to_owned()).parse(), None, "{text}");
        }
    }

    #[test]
    fn rates_of_nginx() {
        for (text, rate) in [("10r/s", (10, 1)), ("600r/m", (600, 60)), ("0r/s", (0, 1))] {
            let expected = (rate.0, Duration::from_secs(rate.1));
            assert_eq!(NginxRate(text.to_owned()).parse(), Some(expected), "{text}");
        }
        for text in ["", "r/s", "10", "10r/h", "10 r/s", "+1r/s", "1.5r/s", "99999999999r/s"] {
            assert_eq!(NginxRate(text.to_owned()).parse(), None, "{text}");
        }
    }
}

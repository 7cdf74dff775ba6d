//! Times in answers: `Date`, `Retry-After`, "retry after" in texts of Let's Encrypt; and the clock.
//!
//! In: headers, `now`. Out: Unix seconds.

use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{self, HeaderMap, HeaderName};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

/// Nobody may hold us off for longer than this with one answer.
const LONGEST: i64 = 31 * 86_400;

/// Unix seconds.
// Exchanges with a CA are in the present; plans get their time as an argument.
#[expect(clippy::disallowed_methods, reason = "answers are timed when they arrive")]
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

pub(super) fn date(headers: &HeaderMap) -> Option<i64> {
    http_date(headers, header::DATE)
}

pub(super) fn retry_after(headers: &HeaderMap, now: i64) -> Option<i64> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u32>() {
        Ok(seconds) => i64::from(seconds),
        Err(_) => http_date(headers, header::RETRY_AFTER)?.saturating_sub(date(headers).unwrap_or(now)),
    };
    Some(now.saturating_add(wait.clamp(0, LONGEST)))
}

fn http_date(headers: &HeaderMap, name: HeaderName) -> Option<i64> {
    let at = httpdate::parse_http_date(headers.get(name)?.to_str().ok()?.trim()).ok()?;
    i64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

/// Let's Encrypt says when a limit ends in the text of the problem: `… retry after 2026-01-02 03:04:05 UTC: see …`,
/// older ones as RFC 3339.
pub fn retry_after_in_text(detail: &str, now: i64) -> Option<i64> {
    const PLAIN: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let place = detail.to_ascii_lowercase().find("retry after ")?;
    let text = detail.get(place + "retry after ".len()..)?;
    let plain =
        text.get(..19).and_then(|text| PrimitiveDateTime::parse(text, PLAIN).ok()).map(PrimitiveDateTime::assume_utc);
    let strict = || {
        let end = text.find(|letter: char| !(letter.is_ascii_alphanumeric() || "-:+.".contains(letter)));
        let text = text.get(..end.unwrap_or(text.len()))?.trim_end_matches([':', '.']);
        OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()
    };
    let at = plain.or_else(strict)?.unix_timestamp();
    Some(at.clamp(now, now.saturating_add(LONGEST)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = 1_445_412_400;
        let date = (header::DATE, "Wed, 21 Oct 2015 07:28:00 GMT");
        for (given, expected) in [
            (vec![], None),
            (vec![(header::RETRY_AFTER, "120")], Some(120)),
            (vec![(header::RETRY_AFTER, " 0 ")], Some(0)),
            (vec![(header::RETRY_AFTER, "4000000000")], Some(LONGEST)),
            (vec![(header::RETRY_AFTER, "-1")], None),
            (vec![(header::RETRY_AFTER, "soon")], None),
            // The server's clock is a day behind: two hours are still two hours.
            (vec![(header::RETRY_AFTER, "Wed, 21 Oct 2015 09:28:00 GMT"), date], Some(7200)),
            // Without a Date, ours counts: 1445412400 is 07:26:40.
            (vec![(header::RETRY_AFTER, "Wed, 21 Oct 2015 07:28:00 GMT")], Some(80)),
            (vec![(header::RETRY_AFTER, "Tue, 21 Oct 2014 07:28:00 GMT")], Some(0)),
        ] {
            assert_eq!(retry_after(&headers(&given), now).map(|at| at - now), expected, "{given:?}");
        }
    }

    #[test]
    fn texts_of_lets_encrypt() {
        let now = 1_767_300_000;
        for (text, expected) in [
            (
                "too many certificates (5) already issued, retry after 2026-01-02 03:04:05 UTC: see https://x",
                Some(1_767_323_045),
            ),
            ("too many new orders, Retry after 2026-01-02T03:04:05Z: see", Some(1_767_323_045)),
            ("too many new orders, retry after 2026-01-02T03:04:05Z.", Some(1_767_323_045)),
            ("retry after 1999-01-02 03:04:05 UTC", Some(now)),
            ("retry after tomorrow", None),
            ("retry after 2026-01-02 03:04:0é", None),
            ("no", None),
        ] {
            assert_eq!(retry_after_in_text(text, now), expected, "{text}");
        }
    }
}

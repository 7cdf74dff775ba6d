//! The JSON of a status in little room: that of one route is that of thousands, but for the times in it. The text flows
//! in, and flows out again byte for byte; what is alike is held once. It knows nothing of what a status means.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use edge_config::inputs::Created;

/// Stands for a time between quotation marks: JSON itself holds no such byte.
const TIME: u8 = 0;
/// `2026-01-02T03:04:05Z`
const LENGTH: usize = 20;

/// What was put in, empty where there was nothing.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StatusText {
    form: Arc<[u8]>,
    times: Box<[Created]>,
}

impl StatusText {
    pub fn of(json: &[u8]) -> Self {
        let (mut form, mut times) = (Vec::with_capacity(json.len()), Vec::new());
        let mut rest = json;
        while let Some((first, after)) = rest.split_first() {
            form.push(*first);
            rest = after;
            if let Some(time) = (*first == b'"').then(|| time_at(rest)).flatten() {
                form.push(TIME);
                times.push(time);
                rest = rest.get(LENGTH..).unwrap_or_default();
            }
        }
        // A text that holds the sign itself is no JSON, and is kept as it is.
        if json.contains(&TIME) {
            return Self { form: json.into(), times: Box::default() };
        }
        Self { form: form.into(), times: times.into() }
    }

    /// The text again.
    pub fn json(&self) -> Vec<u8> {
        let mut json = Vec::with_capacity(self.form.len() + LENGTH * self.times.len());
        let mut times = self.times.iter();
        for byte in &*self.form {
            let time = if *byte == TIME { times.next() } else { None };
            match time {
                Some(time) => json.extend_from_slice(time.to_string().as_bytes()),
                None => json.push(*byte),
            }
        }
        json
    }
}

/// A time right before a quotation mark.
fn time_at(text: &[u8]) -> Option<Created> {
    let (time, after) = text.split_at_checked(LENGTH)?;
    let time = Created::parse(std::str::from_utf8(time).ok()?)?;
    (after.first() == Some(&b'"')).then_some(time)
}

impl fmt::Debug for StatusText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.json()))
    }
}

/// The forms that are in use.
#[derive(Debug, Default)]
pub struct Forms {
    known: HashSet<Arc<[u8]>>,
    /// At so many they are looked through for those that nobody uses.
    limit: usize,
}

impl Forms {
    /// Makes a text share its form with those that were here before.
    pub fn share(&mut self, text: &mut StatusText) {
        if let Some(known) = self.known.get(&text.form) {
            text.form = Arc::clone(known);
            return;
        }
        if self.known.len() >= self.limit {
            self.known.retain(|form| Arc::strong_count(form) > 1);
            self.known.shrink_to_fit();
            self.limit = 2 * self.known.len() + 16;
        }
        self.known.insert(Arc::clone(&text.form));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_as_they_were() {
        for json in [
            "",
            "{}",
            r#"{"a":"2026-01-02T03:04:05Z","b":["2026-01-02T03:04:05Z","2026-01-02T03:04:05.5Z"]}"#,
            r#"{"a":"x 2026-01-02T03:04:05Z","b":"2026-01-02T03:04:05Z x","c":"0000-00-00T00:00:00Z"}"#,
            r#"{"a":"\"2026-01-02T03:04:05Z\""}"#,
            r#"""#,
            "\"\0\"",
            "\"\0\" \"2026-01-02T03:04:05Z\"",
        ] {
            assert_eq!(StatusText::of(json.as_bytes()).json(), json.as_bytes(), "{json}");
        }
    }

    #[test]
    fn what_differs_in_times_only_is_held_once() {
        let mut forms = Forms::default();
        let mut text = |second: u32| {
            let json = format!(r#"{{"lastTransitionTime":"2026-01-02T03:04:{second:02}Z","type":"Accepted"}}"#);
            let mut text = StatusText::of(json.as_bytes());
            forms.share(&mut text);
            text
        };
        let texts: Vec<StatusText> = (0..60).map(&mut text).collect();
        assert!(texts.iter().all(|text| Arc::ptr_eq(&text.form, &texts[0].form)));
        assert_ne!(texts[0], texts[1]);
        drop(texts);
        // Those that nobody has any more do not pile up.
        for number in 0..1000 {
            forms.share(&mut StatusText::of(format!(r#"{{"n":{number}}}"#).as_bytes()));
        }
        assert!(forms.known.len() <= 16, "{}", forms.known.len());
    }
}

//! Colours for people. Whether there are any is decided once, by the caller, from the terminal and the environment.

use crate::control::view::State;

/// What the output goes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style {
    pub colour: bool,
    /// Columns of the terminal; absent where lines may be of any length.
    pub width: Option<usize>,
}

impl Style {
    /// Colours need a terminal, no `NO_COLOR` with a value (no-color.org) and a `TERM` other than `dumb`.
    pub fn decide(terminal: bool, no_color: Option<&str>, term: Option<&str>, width: Option<usize>) -> Self {
        let refused = no_color.is_some_and(|value| !value.is_empty()) || term == Some("dumb");
        Self { colour: terminal && !refused, width: width.filter(|_| terminal) }
    }

    pub fn state(self, state: State, text: &str) -> String {
        let code = match state {
            State::Down => "31",
            State::Degraded => "33",
            State::Pending => "36",
            State::Up => "32",
        };
        self.paint(code, text)
    }

    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub fn warn(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub fn heading(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_there_are_colours() {
        for (terminal, no_color, term, colour) in [
            (true, None, Some("xterm"), true),
            (true, Some(""), None, true),
            (true, Some("1"), Some("xterm"), false),
            (true, None, Some("dumb"), false),
            (false, None, Some("xterm"), false),
        ] {
            assert_eq!(
                Style::decide(terminal, no_color, term, Some(80)).colour,
                colour,
                "{terminal} {no_color:?} {term:?}"
            );
        }
        assert_eq!(Style::decide(false, None, None, Some(80)).width, None);
        assert_eq!(Style::default().state(State::Down, "down"), "down");
        assert_eq!(Style { colour: true, width: None }.state(State::Down, "down"), "\x1b[31mdown\x1b[0m");
    }
}

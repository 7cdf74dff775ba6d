//! The one table of `edgectl`: aligned columns without lines. Cells flow in as plain text, with a state where it shall be
//! coloured. On a terminal the last column is broken between words under its own head; elsewhere a row is one line.

use super::style::Style;
use crate::control::view::State;

/// Narrower than this a last column is not broken: the terminal may wrap it as it likes.
const NARROWEST: usize = 24;
const GAP: usize = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    text: String,
    paint: Paint,
    right: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paint {
    None,
    State(State),
    Faint,
}

impl Cell {
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: one_line(&text.into()), paint: Paint::None, right: false }
    }

    pub fn number(number: impl std::fmt::Display) -> Self {
        Self { text: number.to_string(), paint: Paint::None, right: true }
    }

    pub fn state(state: State) -> Self {
        Self { text: state.to_string(), paint: Paint::State(state), right: false }
    }

    /// Another word in the colour of a state.
    pub fn state_as(state: State, text: &str) -> Self {
        Self { text: text.to_owned(), paint: Paint::State(state), right: false }
    }

    pub fn faint(text: impl Into<String>) -> Self {
        Self { paint: Paint::Faint, ..Self::text(text) }
    }

    fn painted(&self, text: &str, style: Style) -> String {
        match self.paint {
            Paint::None => text.to_owned(),
            Paint::State(state) => style.state(state, text),
            Paint::Faint => style.faint(text),
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    indent: usize,
}

impl Table {
    pub fn new(indent: usize, heads: &[&'static str]) -> Self {
        Self { heads: heads.to_vec(), rows: Vec::new(), indent }
    }

    /// Without heads.
    pub fn plain(indent: usize, columns: usize) -> Self {
        Self::new(indent, &vec![""; columns])
    }

    /// One cell per head.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The lines, each with a newline; none ends with a space. Columns that are empty in every row are left out.
    pub fn render(&self, style: Style) -> String {
        let kept: Vec<usize> = (0..self.heads.len())
            .filter(|&column| self.rows.iter().any(|row| row.get(column).is_some_and(|cell| !cell.text.is_empty())))
            .collect();
        let widths: Vec<usize> = kept
            .iter()
            .map(|&column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| width(&cell.text));
                cells.max().unwrap_or(0).max(width(self.heads[column]))
            })
            .collect();
        let heads: Vec<Cell> = self.heads.iter().map(|head| Cell::faint(*head)).collect();
        let mut out = String::new();
        let heads = Some(&heads).filter(|_| self.heads.iter().any(|head| !head.is_empty()));
        for row in heads.into_iter().chain(&self.rows) {
            self.line(&mut out, row, &kept, &widths, style);
        }
        out
    }

    fn line(&self, out: &mut String, row: &[Cell], kept: &[usize], widths: &[usize], style: Style) {
        let Some((last, front)) = kept.split_last() else { return };
        let mut used = self.indent;
        let mut text = " ".repeat(self.indent);
        for (column, room) in front.iter().zip(widths) {
            let Some(cell) = row.get(*column) else { continue };
            let padding = " ".repeat(room.saturating_sub(width(&cell.text)));
            let painted = cell.painted(&cell.text, style);
            if cell.right {
                text.push_str(&padding);
                text.push_str(&painted);
            } else {
                text.push_str(&painted);
                text.push_str(&padding);
            }
            text.push_str(&" ".repeat(GAP));
            used += room + GAP;
        }
        if let Some(cell) = row.get(*last) {
            let room = style.width.map(|total| total.saturating_sub(used)).filter(|room| *room >= NARROWEST);
            let lines = broken(&cell.text, room);
            for (number, line) in lines.iter().enumerate() {
                if number > 0 {
                    text.push('\n');
                    text.push_str(&" ".repeat(used));
                }
                let padding =
                    if cell.right { widths.last().copied().unwrap_or(0).saturating_sub(width(line)) } else { 0 };
                text.push_str(&" ".repeat(padding));
                text.push_str(&cell.painted(line, style));
            }
        }
        out.push_str(text.trim_end_matches(' '));
        out.push('\n');
    }
}

/// Breaks between words where there is a limit; a word longer than the limit stays whole.
pub fn broken(text: &str, room: Option<usize>) -> Vec<String> {
    let Some(room) = room.filter(|room| width(text) > *room) else { return vec![text.to_owned()] };
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("starts with one line and only grows");
        if !line.is_empty() && width(line) + 1 + width(word) > room {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// Text from manifests must neither break a row nor steer the terminal.
pub fn one_line(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    text.chars().map(|c| if c.is_control() { if c.is_whitespace() { ' ' } else { '\u{fffd}' } } else { c }).collect()
}

/// Terminal columns: combining marks take none, East Asian wide characters and emoji take two (the large blocks of
/// Unicode's EastAsianWidth, which is enough for names of Kubernetes objects and messages).
pub fn width(text: &str) -> usize {
    text.chars()
        .map(|c| match u32::from(c) {
            0x300..=0x36f | 0x200b..=0x200f | 0xfe00..=0xfe0f | 0x20d0..=0x20ff => 0,
            0x1100..=0x115f
            | 0x2e80..=0xa4cf
            | 0xac00..=0xd7a3
            | 0xf900..=0xfaff
            | 0xfe30..=0xfe6f
            | 0xff00..=0xff60
            | 0xffe0..=0xffe6
            | 0x1f300..=0x1f64f
            | 0x1f900..=0x1f9ff
            | 0x20000..=0x3fffd => 2,
            _ => 1,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(2, &["STATE", "NAME", "N", "NOTHING", "REASON"]);
        table.row(vec![
            Cell::state(State::Down),
            Cell::text("a"),
            Cell::number(10),
            Cell::text(""),
            Cell::text("cannot be bound because of this and that and yet another thing"),
        ]);
        table.row(vec![Cell::state(State::Up), Cell::text("名前"), Cell::number(7), Cell::text(""), Cell::text("")]);
        table
    }

    #[test]
    fn a_row_is_a_line_where_there_is_no_terminal() {
        let expected = "  STATE  NAME  N   REASON\n  down   a     10  cannot be bound because of this and that and yet another \
                        thing\n  up     名前   7\n";
        assert_eq!(table().render(Style::default()), expected);
    }

    #[test]
    fn the_last_column_is_broken_on_a_terminal() {
        let text = table().render(Style { colour: false, width: Some(50) });
        assert_eq!(
            text.lines().skip(1).take(2).map(str::to_owned).collect::<Vec<_>>(),
            ["  down   a     10  cannot be bound because of this", "                   and that and yet another thing"]
        );
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(one_line("a\nb\x1b[31m"), "a b\u{fffd}[31m");
    }
}

//! The screen: what keys do to it, and what it shows as lines. It knows no terminal, so it can be tried without one.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::table::{By, Choice, Rows, Sort, rows, summary};
use crate::control::top::Frame;
use crate::control::view::State;
use crate::ctl::style::Style;
use crate::ctl::table::width;

const HELP: [&str; 8] = [
    "q, Esc, Ctrl-C   end",
    "Tab, 1 to 7      what the rows are",
    "s, r             what comes first; the other way round",
    "/                filter by name: Enter keeps it, Esc forgets it",
    "Up, Down         scroll; also PageUp, PageDown, Home",
    "Space            stand still",
    "?                this",
    "any key          back",
];
/// Lines that are not rows: two of summary, tabs, heads, foot.
const FRAME: usize = 5;

pub struct Screen {
    choice: Choice,
    by: By,
    frame: Frame,
    offset: usize,
    /// Rows that had room when it was drawn last.
    room: usize,
    is_still: bool,
    is_lost: bool,
    is_editing: bool,
    is_helping: bool,
}

impl Screen {
    pub fn new(choice: Choice, frame: Frame) -> Self {
        let by = choice.by.unwrap_or(if frame.problems.is_empty() { By::Host } else { By::Problem });
        let (offset, room) = (0, 1);
        let (is_still, is_lost, is_editing, is_helping) = (false, false, false, false);
        Self { choice, by, frame, offset, room, is_still, is_lost, is_editing, is_helping }
    }

    pub fn take(&mut self, frame: Frame) {
        if !self.is_still {
            self.frame = frame;
        }
    }

    /// There are no further frames.
    pub fn lose(&mut self) {
        self.is_lost = true;
    }

    /// Says whether it is over.
    pub fn key(&mut self, key: KeyEvent) -> bool {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return true;
        }
        if self.is_editing {
            self.edit(key.code);
            return false;
        }
        if std::mem::take(&mut self.is_helping) {
            return false;
        }
        let after = |step: usize| {
            let place = By::EACH.iter().position(|by| *by == self.by).unwrap_or(0);
            By::EACH[(place + step) % By::EACH.len()]
        };
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('?' | 'h') => self.is_helping = true,
            KeyCode::Tab | KeyCode::Right => (self.by, self.offset) = (after(1), 0),
            KeyCode::BackTab | KeyCode::Left => (self.by, self.offset) = (after(By::EACH.len() - 1), 0),
            KeyCode::Char(digit @ '1'..='7') => {
                let place = digit.to_digit(10).map_or(0, |digit| digit as usize - 1);
                (self.by, self.offset) = (By::EACH[place], 0);
            }
            KeyCode::Char('s') => {
                let place = Sort::EACH.iter().position(|sort| *sort == self.choice.sort).unwrap_or(0);
                self.choice.sort = Sort::EACH[(place + 1) % Sort::EACH.len()];
            }
            KeyCode::Char('r') => self.choice.is_reversed = !self.choice.is_reversed,
            KeyCode::Char('/') => self.is_editing = true,
            KeyCode::Char(' ') => self.is_still = !self.is_still,
            KeyCode::Up => self.offset = self.offset.saturating_sub(1),
            KeyCode::Down => self.offset += 1,
            KeyCode::PageUp => self.offset = self.offset.saturating_sub(self.room),
            KeyCode::PageDown => self.offset += self.room,
            KeyCode::Home => self.offset = 0,
            _ => {}
        }
        false
    }

    fn edit(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.is_editing = false,
            KeyCode::Esc => {
                self.is_editing = false;
                self.choice.filter.clear();
            }
            KeyCode::Backspace => drop(self.choice.filter.pop()),
            KeyCode::Char(letter) => self.choice.filter.push(letter),
            _ => {}
        }
        self.offset = 0;
    }

    /// No more lines than fit, none wider than the terminal.
    pub fn lines(&mut self, columns: usize, height: usize, style: Style) -> Vec<String> {
        let [first, second] = summary(&self.frame);
        let mut lines = vec![style.state(self.frame.health.state, &cut(&first, columns)), cut(&second, columns)];
        lines.push(self.tabs(columns, style));
        self.room = height.saturating_sub(FRAME).max(1);
        if self.is_helping {
            lines.extend(HELP.iter().map(|line| cut(line, columns)));
        } else {
            self.rows(&mut lines, columns, style);
        }
        lines.truncate(height.saturating_sub(1));
        lines.resize(height.saturating_sub(1), String::new());
        lines.push(style.faint(&cut(&self.foot(), columns)));
        lines.truncate(height);
        lines
    }

    fn tabs(&self, columns: usize, style: Style) -> String {
        let (mut out, mut used) = (String::new(), 0);
        for (place, by) in By::EACH.into_iter().enumerate() {
            let count = rows(&self.frame, by, &self.choice).rows.len();
            let title = format!("{} {} {count}", place + 1, by.title());
            let title = if by == self.by { format!("[{title}]") } else { format!(" {title} ") };
            let title = cut(&title, columns.saturating_sub(used));
            used += width(&title);
            out.push_str(&match by {
                by if by == self.by => style.heading(&title),
                By::Problem if count > 0 => style.bad(&title),
                _ => style.faint(&title),
            });
        }
        out
    }

    fn rows(&mut self, lines: &mut Vec<String>, columns: usize, style: Style) {
        let Rows { heads, rows } = rows(&self.frame, self.by, &self.choice);
        if rows.is_empty() {
            let nothing = if self.by == By::Problem { "nothing is wrong" } else { "nothing in this interval" };
            lines.push(cut(nothing, columns));
            return;
        }
        self.offset = self.offset.min(rows.len().saturating_sub(self.room));
        let is_text = matches!(self.by, By::Vip | By::Problem);
        let last = heads.len().saturating_sub(1);
        let widths: Vec<usize> = (0..heads.len())
            .map(|column| {
                let cells = rows.iter().filter_map(|(_, cells)| cells.get(column)).map(|cell| width(cell));
                cells.max().unwrap_or(0).max(width(heads[column])).min(60)
            })
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut out = String::new();
            for (column, cell) in cells.enumerate() {
                let cell = if column == last { cell.to_owned() } else { cut(cell, widths[column]) };
                let padding = " ".repeat(widths[column].saturating_sub(width(&cell)));
                match is_text || column == last {
                    true => out.push_str(&format!("{cell}{padding}  ")),
                    false => out.push_str(&format!("{padding}{cell}  ")),
                }
            }
            cut(out.trim_end(), columns)
        };
        lines.push(style.heading(&line(&mut heads.iter().copied())));
        for (state, cells) in rows.iter().skip(self.offset).take(self.room) {
            let text = line(&mut cells.iter().map(String::as_str));
            lines.push(if *state == State::Up { text } else { style.state(*state, &text) });
        }
    }

    fn foot(&self) -> String {
        if self.is_editing {
            return format!("filter: {}_", self.choice.filter);
        }
        let reversed = if self.choice.is_reversed { ", reversed" } else { "" };
        let mut parts = vec![format!("sorted by {}{reversed}", self.choice.sort.title())];
        if !self.choice.filter.is_empty() {
            parts.push(format!("only {:?}", self.choice.filter));
        }
        if self.is_still {
            parts.push("standing still".to_owned());
        }
        if self.is_lost {
            parts.push("edged is gone: these are its last figures".to_owned());
        }
        parts.push("? for help".to_owned());
        parts.join("  ")
    }
}

/// So many columns of it.
fn cut(text: &str, columns: usize) -> String {
    let (mut out, mut used) = (String::new(), 0);
    for letter in text.chars() {
        used += width(letter.encode_utf8(&mut [0; 4]));
        if used > columns {
            break;
        }
        out.push(letter);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::top::table::tests::frame;

    fn screen() -> Screen {
        let choice = Choice { by: None, sort: Sort::Requests, is_reversed: false, filter: String::new() };
        Screen::new(choice, frame())
    }

    fn drawn(screen: &mut Screen) -> String {
        screen.lines(120, 16, Style::default()).join("\n")
    }

    fn press(screen: &mut Screen, keys: &str) -> bool {
        keys.chars().any(|key| {
            let code = match key {
                '\n' => KeyCode::Enter,
                '\t' => KeyCode::Tab,
                key => KeyCode::Char(key),
            };
            screen.key(KeyEvent::new(code, KeyModifiers::NONE))
        })
    }

    #[test]
    fn what_is_wrong_comes_first_and_keys_lead_on() {
        let mut screen = screen();
        let text = drawn(&mut screen);
        assert!(text.contains("rack-a up  generation 3") && text.contains("VIP 192.0.2.1"), "{text}");
        assert!(!press(&mut screen, "\t"));
        let text = drawn(&mut screen);
        assert!(text.find("a.example").unwrap() < text.find("b.example").unwrap(), "{text}");
        press(&mut screen, "s");
        let text = drawn(&mut screen);
        assert!(
            text.find("b.example").unwrap() < text.find("a.example").unwrap() && text.contains("by errors"),
            "{text}"
        );
        press(&mut screen, "/A.EX\n");
        let text = drawn(&mut screen);
        assert!(text.contains("a.example") && !text.contains("b.example") && text.contains("only \"A.EX\""), "{text}");
        // Standing still, nothing new is shown.
        press(&mut screen, " ");
        let mut other = frame();
        other.edge = "rack-b".to_owned();
        screen.take(other);
        assert!(drawn(&mut screen).contains("rack-a"));
        press(&mut screen, "?");
        assert!(drawn(&mut screen).contains("stand still"));
        press(&mut screen, "x7");
        assert!(drawn(&mut screen).contains("nothing in this interval"), "the filter holds for VIPs too");
        screen.lose();
        assert!(drawn(&mut screen).contains("edged is gone"));
        assert!(press(&mut screen, "q"));
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(screen.key(interrupt));
    }

    #[test]
    fn it_fits_any_terminal() {
        for (columns, height) in [(1, 1), (20, 3), (80, 24), (300, 100)] {
            let mut screen = screen();
            for _ in 0..8 {
                let lines = screen.lines(columns, height, Style::default());
                assert_eq!(lines.len(), height);
                assert!(lines.iter().all(|line| width(line) <= columns), "{columns}: {lines:#?}");
                screen.key(KeyEvent::new(KeyCode::PageDown, KeyModifiers::NONE));
                press(&mut screen, "\t");
            }
        }
    }
}

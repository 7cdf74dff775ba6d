//! `edgectl top`: how busy an edge is, as it changes. On a terminal a screen that keys steer ([`screen`]), elsewhere or with
//! `--batch` one text per frame.

mod screen;
pub mod table;

use std::io::{IsTerminal as _, Write};
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;

use crossterm::event::{self, Event, KeyEventKind};
use crossterm::{cursor, queue, terminal as console};

use self::screen::Screen;
use self::table::{Choice, text};
use super::args::{Format, Top};
use super::client::{Client, ClientError};
use super::log::{each, shown};
use super::run::{RunError, SENSELESS, Terminal, write};
use super::style::Style;
use crate::control::top::{Ask, Frame};

/// Between two looks at keys and frames.
const LOOK: Duration = Duration::from_millis(50);

pub fn run(client: &Client, top: &Top, format: Format, terminal: &mut Terminal<'_>) -> Result<u8, RunError> {
    let interval_ms = u64::try_from(top.interval.as_millis()).unwrap_or(u64::MAX);
    let ask = Ask { interval_ms, rows: top.rows };
    let body = serde_json::to_vec(&ask).unwrap_or_default();
    let choice =
        Choice { by: top.by, sort: top.sort, is_reversed: top.reverse, filter: top.filter.clone().unwrap_or_default() };
    let is_plain = top.batch || top.count.is_some() || format != Format::Human;
    if !is_plain && terminal.is_terminal && std::io::stdin().is_terminal() {
        return live(client.clone(), body, choice, terminal);
    }
    let mut left = top.count.unwrap_or(u64::MAX);
    each(client, "/v1/top", body, |bytes| {
        let style = terminal.style;
        let page = shown(bytes, format, |frame: &Frame| text(frame, &choice, style));
        write(terminal, page.as_bytes())?;
        left -= 1;
        // Enough has been seen, as with `head`.
        if left == 0 { Err(RunError::Output(std::io::ErrorKind::BrokenPipe.into())) } else { Ok(()) }
    })?;
    Ok(0)
}

type Frames = Receiver<Result<Frame, ClientError>>;

/// Until it is ended by a key.
fn live(client: Client, body: Vec<u8>, choice: Choice, terminal: &mut Terminal<'_>) -> Result<u8, RunError> {
    let (send, frames) = sync_channel(1);
    // Ends with its edged, or with this program.
    let reader = std::thread::Builder::new().name("frames".to_owned()).spawn(move || {
        let told = client.lines("/v1/top", body, |line| {
            let is_taken = serde_json::from_slice(line).is_ok_and(|frame| send.send(Ok(frame)).is_ok());
            if is_taken { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        if let Err(error) = told {
            // Perhaps nobody looks any more.
            let _ = send.send(Err(error));
        }
    });
    reader.map_err(RunError::Output)?;
    // Before the screen is taken: that edged cannot be reached is told as ever.
    let Ok(first) = frames.recv() else { return Ok(SENSELESS) };
    let screen = Screen::new(choice, first?);
    let style = terminal.style;
    let taken = Taken::new(&mut *terminal.out).map_err(RunError::Output)?;
    show(screen, &frames, style, &mut *taken.0).map_err(RunError::Output)?;
    Ok(0)
}

/// The terminal, given back as it was however this ends.
struct Taken<'t>(&'t mut dyn Write);

impl<'t> Taken<'t> {
    fn new(out: &'t mut dyn Write) -> std::io::Result<Self> {
        console::enable_raw_mode()?;
        let taken = Self(out);
        let mut bytes = Vec::new();
        queue!(bytes, console::EnterAlternateScreen, cursor::Hide)?;
        taken.0.write_all(&bytes)?;
        taken.0.flush()?;
        Ok(taken)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut bytes = Vec::new();
        // Nothing is left to do where any of this fails.
        let _ = queue!(bytes, cursor::Show, console::LeaveAlternateScreen);
        let _ = self.0.write_all(&bytes).and_then(|()| self.0.flush());
        let _ = console::disable_raw_mode();
    }
}

fn show(mut screen: Screen, frames: &Frames, style: Style, out: &mut dyn Write) -> std::io::Result<()> {
    loop {
        let (columns, height) = match console::size()? {
            // A serial console does not know.
            (0, _) | (_, 0) => (80, 24),
            known => known,
        };
        let mut bytes = Vec::new();
        for (row, line) in (0..).zip(screen.lines(columns.into(), height.into(), style)) {
            queue!(bytes, cursor::MoveTo(0, row))?;
            bytes.extend_from_slice(line.as_bytes());
            queue!(bytes, console::Clear(console::ClearType::UntilNewLine))?;
        }
        out.write_all(&bytes)?;
        out.flush()?;
        // Until there is something else to show.
        loop {
            if event::poll(LOOK)? {
                match event::read()? {
                    Event::Key(key) if key.kind != KeyEventKind::Release && screen.key(key) => return Ok(()),
                    _ => break,
                }
            }
            match frames.try_recv() {
                Ok(Ok(frame)) => {
                    screen.take(frame);
                    break;
                }
                Ok(Err(_)) => {
                    screen.lose();
                    break;
                }
                // It is said already.
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
            }
        }
    }
}

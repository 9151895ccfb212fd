//! `lbctl top`: the rates of a running lbd, again and again, on a screen or as lines.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    time::{Duration, Instant},
};

use crossterm::{
    cursor::{Hide, MoveTo, Show},
    event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    execute,
    terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen},
};

use crate::{
    api::{
        client::{self, AskError},
        top::{self, Frame, Order},
    },
    base::{
        query::{Query, Reply},
        status::Status,
    },
};

/// What ends it before its time.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("{0}")]
    Refused(String),
    #[error("cannot draw on this terminal: {0}")]
    Terminal(#[from] io::Error),
}

/// How it is to be shown.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Between two frames.
    pub interval: Duration,
    /// Frames; `None`: until somebody ends it.
    pub count: Option<u64>,
    /// An object a line.
    pub json: bool,
}

/// Leaves the terminal as it was, however it ends.
struct Screen;

impl Screen {
    fn new() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        let screen = Self;
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
        let _ = terminal::disable_raw_mode();
    }
}

/// What a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Quit,
    By(Order),
    None,
}

fn wish(code: KeyCode, control: bool) -> Wish {
    match code {
        KeyCode::Char('q') | KeyCode::Esc => Wish::Quit,
        KeyCode::Char('c') if control => Wish::Quit,
        KeyCode::Char('n') => Wish::By(Order::Address),
        KeyCode::Char('a') => Wish::By(Order::Active),
        KeyCode::Char('c') => Wish::By(Order::Connections),
        KeyCode::Char('p') => Wish::By(Order::Packets),
        KeyCode::Char('b') => Wish::By(Order::Bits),
        _ => Wish::None,
    }
}

/// Asks and shows until it is ended. On a terminal keys are heard; else frames are written one below the other.
///
/// # Errors
/// When lbd does not answer, or the terminal cannot be drawn on. A closed pipe is no error.
pub fn run(socket: &Path, options: Options) -> Result<(), Error> {
    let live = io::stdout().is_terminal() && io::stdin().is_terminal() && !options.json;
    let (mut before, mut at) = (status(socket)?, Instant::now());
    // Not earlier: an error stands better on the usual screen.
    let screen = if live { Some(Screen::new()?) } else { None };
    let (mut order, mut shown) = (Order::default(), 0);
    while options.count.is_none_or(|count| shown < count) {
        let due = at + options.interval;
        match screen {
            Some(_) => match listen(due)? {
                Wish::Quit => return Ok(()),
                Wish::By(by) => {
                    order = by;
                    continue;
                }
                Wish::None => {}
            },
            None => std::thread::sleep(due.saturating_duration_since(Instant::now())),
        }
        let (now, then) = (status(socket)?, Instant::now());
        let frame = top::frame(&before, &now, then - at);
        (before, at) = (now, then);
        let written = if live {
            draw(&frame, order, options.interval).map(|()| true)
        } else {
            write(&frame, order, options.json)
        };
        if !written? {
            return Ok(());
        }
        shown += 1;
    }
    Ok(())
}

fn status(socket: &Path) -> Result<Status, Error> {
    match client::ask(socket, &Query::Status)? {
        Reply::Status(status) => Ok(*status),
        Reply::Error(why) => Err(Error::Refused(why)),
        _ => Err(Error::Refused("lbd answered something else than its status".to_owned())),
    }
}

/// The next key that means something; none by `due`.
fn listen(due: Instant) -> io::Result<Wish> {
    loop {
        if !event::poll(due.saturating_duration_since(Instant::now()))? {
            return Ok(Wish::None);
        }
        if let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
        {
            match wish(key.code, key.modifiers.contains(KeyModifiers::CONTROL)) {
                Wish::None => {}
                wish => return Ok(wish),
            }
        }
    }
}

fn draw(frame: &Frame, order: Order, interval: Duration) -> io::Result<()> {
    let (width, height) = terminal::size()?;
    let mut out = io::stdout().lock();
    execute!(out, MoveTo(0, 0))?;
    let head = format!(
        "every {} s · q quits · sort: n by address, a active, c connections, p packets, b bits",
        interval.as_secs_f64()
    );
    let text = top::render(frame, order);
    let lines = std::iter::once(head.as_str()).chain(text.lines());
    for line in lines.take(usize::from(height).saturating_sub(1)) {
        let line: String = line.chars().take(usize::from(width)).collect();
        write!(out, "{line}")?;
        execute!(out, Clear(ClearType::UntilNewLine))?;
        write!(out, "\r\n")?;
    }
    execute!(out, Clear(ClearType::FromCursorDown))?;
    out.flush()
}

/// `false`: nobody reads on.
fn write(frame: &Frame, order: Order, json: bool) -> io::Result<bool> {
    let text = if json {
        serde_json::to_string(frame).map_err(io::Error::other)? + "\n"
    } else {
        top::render(frame, order) + "\n"
    };
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_c_ends_it_and_c_alone_does_not() {
        assert_eq!(wish(KeyCode::Char('c'), true), Wish::Quit);
        assert_eq!(wish(KeyCode::Char('c'), false), Wish::By(Order::Connections));
        assert_eq!(wish(KeyCode::Char('q'), false), Wish::Quit);
        assert_eq!(wish(KeyCode::Char('x'), false), Wish::None);
    }
}

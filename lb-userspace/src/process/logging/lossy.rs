//! Standard error and the journal without ever waiting for their reader.

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::AsFd as _,
        unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    },
    sync::atomic::{AtomicU64, Ordering},
};

use socket2::Socket;
use tracing_subscriber::fmt::MakeWriter;

use super::journal::{self, Journal};

/// Where the lines go.
#[derive(Debug)]
enum Way {
    /// A pipe or a terminal, opened again: the flag belongs to an open file, and that of standard
    /// error is shared with the process that started us.
    Opened(File),
    Socket(Socket),
    /// A datagram a line, in the journal's own form.
    Journal(Journal),
    /// A file, or what could not be opened again: waits at most for the disk.
    Plain,
}

/// Writes whole lines, or drops them when there is no room; the next line that fits is preceded
/// by one that counts those lost. A pipe holds 64 KiB, the journal's socket `net.unix.max_dgram_qlen`
/// lines and the sender's send buffer.
#[derive(Debug)]
pub(super) struct Lossy {
    way: Way,
    /// Since the last line that says so.
    lost: AtomicU64,
}

impl Lossy {
    /// For standard error as it is now.
    pub fn stderr() -> Self {
        Self { way: way(), lost: AtomicU64::new(0) }
    }

    /// For the journal; lines have to be in its form.
    pub fn journal(journal: Journal) -> Self {
        Self { way: Way::Journal(journal), lost: AtomicU64::new(0) }
    }

    fn put(&self, line: &[u8]) -> io::Result<usize> {
        match &self.way {
            Way::Opened(file) => (&*file).write(line),
            Way::Socket(socket) => {
                socket.send_with_flags(line, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
            }
            Way::Journal(journal) => journal.send(line),
            Way::Plain => io::stderr().write_all(line).map(|()| line.len()),
        }
    }
}

fn way() -> Way {
    let Ok(file) = io::stderr().as_fd().try_clone_to_owned().map(File::from) else {
        return Way::Plain;
    };
    let Ok(kind) = file.metadata().map(|it| it.file_type()) else { return Way::Plain };
    if kind.is_socket() {
        return Way::Socket(Socket::from(std::os::fd::OwnedFd::from(file)));
    }
    if !kind.is_fifo() && !kind.is_char_device() {
        return Way::Plain;
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let opened = File::options().write(true).custom_flags(flags).open("/proc/self/fd/2");
    opened.map_or(Way::Plain, Way::Opened)
}

impl Write for &Lossy {
    /// One line. Always says that all of it was written.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let lost = self.lost.load(Ordering::Relaxed);
        if let Way::Journal(journal) = &self.way {
            // A datagram of its own: the next line is lost too when there was room for one only.
            if lost > 0 && journal.send(&journal::lost(lost)).is_ok() {
                self.lost.fetch_sub(lost, Ordering::Relaxed);
            }
            // No line overtakes the notice of those lost before it.
            if self.lost.load(Ordering::Relaxed) > 0 || journal.send(line).is_err() {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
            return Ok(line.len());
        }
        let notice = match lost {
            0 => String::new(),
            lost => format!("lbd: {}\n", super::lost_text(lost)),
        };
        // In one piece, so that the notice does not take the room of the line.
        let all = [notice.as_bytes(), line].concat();
        // What is longer than a pipe takes at once may be cut; that counts as lost.
        if self.put(&all).is_ok_and(|len| len == all.len()) {
            self.lost.fetch_sub(lost, Ordering::Relaxed);
        } else {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lossy {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::os::{fd::OwnedFd, unix::net::UnixStream};

    use super::*;

    /// Fills the way without waiting, reads it empty and goes on.
    fn check(way: Way, mut reader: impl io::Read) {
        let lossy = Lossy { way, lost: AtomicU64::new(0) };
        let line = format!("{}\n", "x".repeat(99));
        let mut written = 0;
        while lossy.lost.load(Ordering::Relaxed) == 0 {
            (&lossy).write_all(line.as_bytes()).expect("never an error");
            written += 1;
            assert!(written < 1_000_000, "the bound was not reached");
        }
        for _ in 0..9 {
            (&lossy).write_all(line.as_bytes()).expect("never an error");
        }
        let mut whole = vec![0; (written - 1) * line.len()];
        reader.read_exact(&mut whole).expect("what fitted");
        assert_eq!(whole, line.repeat(written - 1).as_bytes());
        for text in ["again\n", "and again\n"] {
            (&lossy).write_all(text.as_bytes()).expect("never an error");
        }
        drop(lossy);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).expect("text");
        assert_eq!(
            rest,
            "lbd: 10 log lines were lost: nobody read them in time\nagain\nand again\n"
        );
    }

    #[test]
    fn a_full_pipe_loses_lines_and_says_how_many() {
        let (reader, writer) = io::pipe().expect("pipe");
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writer));
        let file = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(path);
        drop(writer);
        check(Way::Opened(file.expect("opened again")), reader);
    }

    #[test]
    fn a_stuck_journal_loses_lines_and_keeps_the_order() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let reader = std::os::unix::net::UnixDatagram::bind(&path).expect("bound");
        let lossy = Lossy::journal(Journal::at(path).expect("made"));
        let mut written = 0;
        while lossy.lost.load(Ordering::Relaxed) == 0 {
            (&lossy).write_all(format!("MESSAGE={written}\n").as_bytes()).expect("never an error");
            written += 1;
            assert!(written < 100_000, "the bound was not reached");
        }
        for _ in 0..9 {
            (&lossy).write_all(b"MESSAGE=lost\n").expect("never an error");
        }
        let mut buffer = [0; 4096];
        let mut read = || {
            let len = reader.recv(&mut buffer).expect("a datagram");
            String::from_utf8_lossy(&buffer[..len]).into_owned()
        };
        for line in 0..written - 1 {
            assert_eq!(read(), format!("MESSAGE={line}\n"));
        }
        for line in ["MESSAGE=again\n", "MESSAGE=and again\n"] {
            (&lossy).write_all(line.as_bytes()).expect("never an error");
        }
        let notice = read();
        assert!(notice.contains("\nMESSAGE=10 log lines were lost"), "{notice}");
        assert!(notice.contains("\nF_LOST=10\n"), "{notice}");
        assert_eq!((read().as_str(), read().as_str()), ("MESSAGE=again\n", "MESSAGE=and again\n"));
    }

    #[test]
    fn so_does_a_full_socket() {
        let (reader, writer) = UnixStream::pair().expect("pair");
        check(Way::Socket(Socket::from(OwnedFd::from(writer))), reader);
    }
}

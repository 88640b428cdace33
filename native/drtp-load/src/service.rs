//! The local service: one thread, one loop, so that it costs little beside what is measured. Datagrams, which come back
//! as they are, have a thread of their own that sleeps while there are none.
//!
//! The visitor's first byte says what it wants: `e` an echo of what follows, `d` the pattern without end, `u` to have
//! its own pattern checked and, after its FIN, the number of bytes as 8 octets, little end first.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::pattern::{PIECE_MAX, Pattern};

const LISTENER: Token = Token(usize::MAX);
/// Turns of one visitor before others have theirs.
const TURNS: usize = 4;

#[derive(Clone, Copy, PartialEq)]
enum Wish {
    Unsaid,
    Echo,
    Download,
    Upload,
}

struct Visitor {
    stream: TcpStream,
    wish: Wish,
    /// Bytes sent (download) or checked (upload).
    offset: u64,
    /// Echo that the socket has not taken.
    waiting: Vec<u8>,
    finished: bool,
}

enum Step {
    Again,
    Later,
    Over,
}

/// Serves until standard input ends.
pub fn serve() -> io::Result<()> {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    listener.listen(4096)?;
    listener.set_nonblocking(true)?;
    let mut listener = TcpListener::from_std(listener.into());
    crate::udp::echo(listener.local_addr()?)?;
    println!("{{\"port\": {}}}", listener.local_addr()?.port());
    // The harness closes our standard input when it is done with us, or dies.
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
    let poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    Service {
        poll,
        listener,
        visitors: Vec::new(),
        free: Vec::new(),
        pattern: Pattern::new(),
        buffer: vec![0; PIECE_MAX],
    }
    .run()
}

struct Service {
    poll: Poll,
    listener: TcpListener,
    visitors: Vec<Option<Visitor>>,
    free: Vec<usize>,
    pattern: Pattern,
    buffer: Vec<u8>,
}

impl Service {
    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut runnable: Vec<usize> = Vec::new();
        loop {
            let timeout = (!runnable.is_empty()).then_some(std::time::Duration::ZERO);
            self.poll.poll(&mut events, timeout)?;
            let mut turn = std::mem::take(&mut runnable);
            for event in &events {
                if event.token() == LISTENER {
                    self.accept()?;
                } else {
                    turn.push(Self::woken(event));
                }
            }
            turn.sort_unstable();
            turn.dedup();
            runnable.extend(turn.into_iter().filter(|&index| self.advance(index)));
        }
    }

    fn woken(event: &Event) -> usize {
        event.token().0
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let (mut stream, _) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let _ = stream.set_nodelay(true);
            let index = self.free.pop().unwrap_or_else(|| {
                self.visitors.push(None);
                self.visitors.len() - 1
            });
            self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
            self.visitors[index] =
                Some(Visitor { stream, wish: Wish::Unsaid, offset: 0, waiting: Vec::new(), finished: false });
        }
    }

    /// Whether the visitor has more to do at once.
    fn advance(&mut self, index: usize) -> bool {
        let Some(visitor) = self.visitors[index].as_mut() else { return false };
        for _ in 0..TURNS {
            let step = match visitor.wish {
                Wish::Unsaid => Self::listen(visitor),
                Wish::Echo => Self::echo(visitor, &mut self.buffer),
                Wish::Download => Self::download(visitor, &self.pattern),
                Wish::Upload => Self::upload(visitor, &self.pattern, &mut self.buffer),
            };
            match step.unwrap_or(Step::Over) {
                Step::Again => {}
                Step::Later => return false,
                Step::Over => {
                    self.visitors[index] = None;
                    self.free.push(index);
                    return false;
                }
            }
        }
        true
    }

    fn listen(visitor: &mut Visitor) -> io::Result<Step> {
        let mut first = [0];
        match visitor.stream.read(&mut first) {
            Ok(0) => return Ok(Step::Over),
            Ok(_) => {}
            Err(error) => return later(error),
        }
        visitor.wish = match first[0] {
            b'e' => Wish::Echo,
            b'd' => Wish::Download,
            b'u' => Wish::Upload,
            _ => return Ok(Step::Over),
        };
        Ok(Step::Again)
    }

    fn echo(visitor: &mut Visitor, buffer: &mut [u8]) -> io::Result<Step> {
        if !visitor.waiting.is_empty() {
            return match visitor.stream.write(&visitor.waiting) {
                Ok(count) => {
                    visitor.waiting.drain(..count);
                    Ok(Step::Again)
                }
                Err(error) => later(error),
            };
        }
        if visitor.finished {
            return Ok(Step::Over);
        }
        match visitor.stream.read(buffer) {
            Ok(0) => visitor.finished = true,
            Ok(count) => {
                let written = match visitor.stream.write(&buffer[..count]) {
                    Ok(written) => written,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                    Err(error) => return Err(error),
                };
                visitor.waiting.extend_from_slice(&buffer[written..count]);
            }
            Err(error) => return later(error),
        }
        Ok(Step::Again)
    }

    fn download(visitor: &mut Visitor, pattern: &Pattern) -> io::Result<Step> {
        match visitor.stream.write(pattern.piece(visitor.offset, PIECE_MAX)) {
            Ok(count) => {
                visitor.offset += count as u64;
                Ok(Step::Again)
            }
            Err(error) => later(error),
        }
    }

    fn upload(visitor: &mut Visitor, pattern: &Pattern, buffer: &mut [u8]) -> io::Result<Step> {
        match visitor.stream.read(buffer) {
            Ok(0) => {
                visitor.stream.write_all(&visitor.offset.to_le_bytes())?;
                Ok(Step::Over)
            }
            Ok(count) if buffer[..count] == *pattern.piece(visitor.offset, count) => {
                visitor.offset += count as u64;
                Ok(Step::Again)
            }
            Ok(_) => {
                // Without an answer the visitor knows that something was wrong.
                eprintln!("drtp-load: a wrong byte after {} of an upload", visitor.offset);
                Ok(Step::Over)
            }
            Err(error) => later(error),
        }
    }
}

fn later(error: io::Error) -> io::Result<Step> {
    if error.kind() == io::ErrorKind::WouldBlock { Ok(Step::Later) } else { Err(error) }
}

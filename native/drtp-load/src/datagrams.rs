//! Datagrams to and fro: each of some flows keeps a window of them on the way and checks each one that comes back.
//!
//! A datagram is its number (8 octets) and the pattern from there on. Whatever is passed over by a later number, or has
//! not come back while its flow was silent for a while, is lost; the window goes on with new ones.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use crate::arguments::Arguments;
use crate::pattern::Pattern;
use crate::udp::{Inbox, Socket};

/// A flow that hears nothing for this long has lost what it waits for.
const SILENCE: Duration = Duration::from_millis(200);
const NUMBER_BYTES: usize = 8;

struct Flow {
    socket: Socket,
    /// Number of the next one to send, and of the next one to come back.
    next: u64,
    due: u64,
    heard: Instant,
}

#[derive(Default, Clone, Copy)]
struct Counts {
    came: u64,
    lost: u64,
    /// Came back after a later one.
    late: u64,
}

/// Prints datagrams a second that came back, and how many were lost; the first tenth of the time is left out.
pub fn run(arguments: &Arguments) -> Result<(), String> {
    let time = arguments.time()?;
    let bytes: usize = arguments.number("bytes", 64)?;
    if bytes < NUMBER_BYTES {
        return Err(format!("bytes={bytes}: a datagram has at least its number, {NUMBER_BYTES}"));
    }
    let window = arguments.number("window", 32)?;
    let segments = arguments.number("segments", crate::udp::SEGMENTS_MAX)?;
    let flows = arguments.number("flows", 4)?;
    let mut crowd = Crowd::open(arguments.address, flows, (bytes, window, segments)).map_err(|e| e.to_string())?;
    crowd.exchange(time / 10)?;
    let before = crowd.counts;
    let began = Instant::now();
    crowd.exchange(time)?;
    let seconds = began.elapsed().as_secs_f64();
    let (came, lost) = (crowd.counts.came - before.came, crowd.counts.lost - before.lost);
    if came == 0 {
        return Err("no datagram came back".to_owned());
    }
    let figures = serde_json::json!({
        "per_s": came as f64 / seconds, "count": came, "all": crowd.counts.came, "lost": lost,
        "late": crowd.counts.late - before.late, "loss": lost as f64 / (came + lost) as f64, "seconds": seconds,
    });
    println!("{figures}");
    Ok(())
}

struct Crowd {
    poll: Poll,
    to: SocketAddr,
    flows: Vec<Flow>,
    inbox: Inbox,
    outbox: Vec<u8>,
    pattern: Pattern,
    bytes: usize,
    window: u64,
    segments: usize,
    counts: Counts,
}

impl Crowd {
    fn open(to: SocketAddr, count: usize, shape: (usize, u64, usize)) -> std::io::Result<Self> {
        let poll = Poll::new()?;
        let any = SocketAddr::new(if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() }, 0);
        let mut flows = Vec::with_capacity(count);
        for index in 0..count {
            let mut socket = Socket::bind(any)?;
            poll.registry().register(&mut socket.socket, Token(index), Interest::READABLE | Interest::WRITABLE)?;
            flows.push(Flow { socket, next: 0, due: 0, heard: Instant::now() });
        }
        let (bytes, window, segments) = shape;
        let (inbox, outbox, pattern) = (Inbox::new(), Vec::new(), Pattern::new());
        Ok(Self { poll, to, flows, inbox, outbox, pattern, bytes, window, segments, counts: Counts::default() })
    }

    fn exchange(&mut self, time: Duration) -> Result<(), String> {
        let (began, mut events) = (Instant::now(), Events::with_capacity(1_024));
        while began.elapsed() < time {
            for index in 0..self.flows.len() {
                self.receive(index)?;
                self.send(index).map_err(|error| format!("datagram: {error}"))?;
            }
            self.poll.poll(&mut events, Some(SILENCE / 4)).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn receive(&mut self, index: usize) -> Result<(), String> {
        let Self { flows, inbox, pattern, bytes, counts, .. } = self;
        let Flow { socket, next, due, heard } = &mut flows[index];
        let mut wrong = None;
        let mut take = |_from: SocketAddr, read: &[u8], each: usize| {
            for datagram in read.chunks(each.max(1)) {
                match number(datagram, *bytes, pattern).filter(|number| number < next) {
                    None => wrong = Some("a wrong datagram"),
                    Some(number) if number < *due => counts.late += 1,
                    Some(number) => {
                        (counts.came, counts.lost) = (counts.came + 1, counts.lost + number - *due);
                        *due = number + 1;
                    }
                }
            }
        };
        let mut any = false;
        while socket.receive(inbox, &mut take).map_err(|error| error.to_string())? {
            any = true;
        }
        if any {
            *heard = Instant::now();
        } else if heard.elapsed() > SILENCE && *due < *next {
            counts.lost += *next - *due;
            (*due, *heard) = (*next, Instant::now());
        }
        wrong.map_or(Ok(()), |what| Err(what.to_owned()))
    }

    fn send(&mut self, index: usize) -> std::io::Result<()> {
        let Flow { socket, next, due, .. } = &mut self.flows[index];
        let at_once = socket.segments(self.bytes, self.segments) as u64;
        while *next - *due < self.window {
            let count = at_once.min(self.window - (*next - *due));
            self.outbox.clear();
            for number in *next..*next + count {
                self.outbox.extend_from_slice(&number.to_le_bytes());
                self.outbox.extend_from_slice(self.pattern.piece(number, self.bytes - NUMBER_BYTES));
            }
            if !socket.send(self.to, &self.outbox, self.bytes)? {
                break;
            }
            *next += count;
        }
        Ok(())
    }
}

/// The number of a datagram that is as it was sent.
fn number(datagram: &[u8], bytes: usize, pattern: &Pattern) -> Option<u64> {
    let (number, rest) = datagram.split_at_checked(NUMBER_BYTES)?;
    let number = u64::from_le_bytes(number.try_into().ok()?);
    (datagram.len() == bytes && rest == pattern.piece(number, rest.len())).then_some(number)
}

//! Keep-alive requests: each of many connections asks 100 bytes and waits for the same 100 bytes.
//!
//! `rate=0` asks again at once (closed loop, as `wrk` does). With a rate, requests are due at an even pace whatever the
//! answers do, and a latency counts from when its request was due: a stall shows in every request that it delayed.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::arguments::Arguments;
use crate::bulk::Flows;
use crate::figures::Histogram;
use crate::pattern::Pattern;

const REQUEST_BYTES: usize = 100;
/// An answer that takes longer is lost.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Connections that are being opened at a time, so that no listen queue overflows.
const OPENING: usize = 64;

struct Visitor {
    stream: TcpStream,
    number: u64,
    asked: Option<Instant>,
    got: usize,
}

/// Prints requests a second and their latencies; `bulk` flows run beside, `stalled` visitors download and never read.
pub fn run(arguments: &Arguments) -> Result<(), String> {
    let time = arguments.time()?;
    let _stalled = stalled(arguments.address, arguments.number("stalled", 0)?)?;
    let bulk = Flows::start(arguments.address, arguments.number("bulk", 0)?, false);
    let mut crowd = Crowd::open(arguments.address, arguments.number("connections", 1)?).map_err(|e| e.to_string())?;
    let rate: f64 = arguments.number("rate", 0.0)?;
    crowd.ask(time / 10, rate)?;
    crowd.latencies = Histogram::new();
    let (from, began) = (bulk.bytes(), Instant::now());
    crowd.ask(time, rate)?;
    let (moved, seconds) = (bulk.bytes() - from, began.elapsed().as_secs_f64());
    bulk.stop()?;
    let figures = serde_json::json!({
        "per_s": crowd.latencies.total() as f64 / seconds, "count": crowd.latencies.total(), "seconds": seconds,
        "latency": crowd.latencies.latency(), "bulk_gbit_s": moved as f64 * 8.0 / seconds / 1e9,
    });
    println!("{figures}");
    Ok(())
}

fn stalled(address: SocketAddr, count: usize) -> Result<Vec<std::net::TcpStream>, String> {
    let open = || {
        let mut stream = std::net::TcpStream::connect_timeout(&address, ANSWER_MAX)?;
        stream.write_all(b"d")?;
        Ok(stream)
    };
    (0..count).map(|_| open().map_err(|error: io::Error| format!("stalled visitor: {error}"))).collect()
}

struct Crowd {
    poll: Poll,
    visitors: Vec<Visitor>,
    latencies: Histogram,
    pattern: Pattern,
    /// Visitors that may ask, when requests come at a pace.
    ready: VecDeque<usize>,
}

impl Crowd {
    fn open(address: SocketAddr, count: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut visitors: Vec<Visitor> = Vec::with_capacity(count);
        for index in 0..count {
            // A connection that the system has completed waits in no queue of the listener's program for long.
            let mut stream = TcpStream::from_std({
                let stream = std::net::TcpStream::connect_timeout(&address, ANSWER_MAX)?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                stream
            });
            stream.write_all(b"e")?;
            poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
            visitors.push(Visitor { stream, number: index as u64, asked: None, got: 0 });
            if index % OPENING == OPENING - 1 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let ready = (0..count).collect();
        Ok(Self { poll, visitors, latencies: Histogram::new(), pattern: Pattern::new(), ready })
    }

    /// Asks for `time`, then waits for the last answers.
    fn ask(&mut self, time: Duration, rate: f64) -> Result<(), String> {
        let began = Instant::now();
        let mut events = Events::with_capacity(1024);
        let mut due = 0_u64;
        loop {
            let now = Instant::now();
            let over = now - began >= time;
            if !over {
                let wanted = if rate > 0.0 { ((now - began).as_secs_f64() * rate) as u64 + 1 } else { u64::MAX };
                while due < wanted {
                    let Some(index) = self.ready.pop_front() else { break };
                    let at = if rate > 0.0 { began + Duration::from_secs_f64(due as f64 / rate) } else { now };
                    self.send(index, at)?;
                    due += 1;
                }
            } else if self.ready.len() == self.visitors.len() {
                return Ok(());
            } else if now - began > time + ANSWER_MAX {
                return Err(format!("{} answers did not come", self.visitors.len() - self.ready.len()));
            }
            let paced = rate > 0.0 && !over;
            if paced {
                // The poll below counts in whole milliseconds, which would show in every latency.
                std::thread::sleep(Duration::from_micros(50));
            }
            let pause = if paced { Duration::ZERO } else { Duration::from_millis(100) };
            self.poll.poll(&mut events, Some(pause)).map_err(|error| error.to_string())?;
            let tokens: Vec<usize> = events.iter().map(|event| event.token().0).collect();
            for index in tokens {
                self.receive(index)?;
            }
        }
    }

    fn send(&mut self, index: usize, due: Instant) -> Result<(), String> {
        let visitor = &mut self.visitors[index];
        let request = self.pattern.piece(visitor.number * REQUEST_BYTES as u64, REQUEST_BYTES);
        visitor.asked = Some(due);
        match visitor.stream.write(request) {
            Ok(REQUEST_BYTES) => Ok(()),
            Ok(count) => Err(format!("a socket took {count} bytes of a request")),
            Err(error) => Err(format!("request: {error}")),
        }
    }

    fn receive(&mut self, index: usize) -> Result<(), String> {
        let visitor = &mut self.visitors[index];
        let mut buffer = [0; REQUEST_BYTES];
        loop {
            let count = match visitor.stream.read(&mut buffer[..REQUEST_BYTES - visitor.got]) {
                Ok(0) => return Err("a connection ended".to_owned()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(format!("answer: {error}")),
            };
            let offset = visitor.number * REQUEST_BYTES as u64 + visitor.got as u64;
            if buffer[..count] != *self.pattern.piece(offset, count) {
                return Err("a wrong byte in an answer".to_owned());
            }
            visitor.got += count;
            if visitor.got == REQUEST_BYTES {
                let asked = visitor.asked.take().ok_or("an answer without a request")?;
                self.latencies.note(asked.elapsed());
                visitor.got = 0;
                visitor.number += 7919;
                self.ready.push_back(index);
                return Ok(());
            }
        }
    }
}

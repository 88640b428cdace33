//! Names to addresses, off the driver thread: a few threads, a bounded queue, and answers that come by waking the driver.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use mio::Waker;

/// A stuck resolver blocks its thread for long; four of them keep the others going.
const THREADS: usize = 4;
/// Names that wait. Beyond it a dial fails at once rather than late.
const QUEUE_MAX: usize = 256;

struct Question {
    host: String,
    port: u16,
}

pub(super) struct Answer {
    pub(super) dial: usize,
    pub(super) serial: u64,
    pub(super) addresses: Result<Vec<SocketAddr>, String>,
}

/// Addresses of one name, or why there are none.
type Found = ((String, u16), Result<Vec<SocketAddr>, String>);

pub(super) struct Resolver {
    questions: Option<SyncSender<Question>>,
    found_in: Sender<Found>,
    found: Receiver<Found>,
    /// Dials (with their serials) by the name they wait for: a burst of visitors asks for one name once.
    waiting: HashMap<(String, u16), Vec<(usize, u64)>>,
    waker: Arc<Waker>,
}

impl Resolver {
    /// Threads start with the first question: literals need none.
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        let (found_in, found) = channel();
        Self { questions: None, found_in, found, waiting: HashMap::new(), waker }
    }

    /// Asks; the error is for people.
    pub(super) fn ask(&mut self, dial: usize, serial: u64, host: &str, port: u16) -> Result<(), String> {
        if self.questions.is_none() {
            self.questions = Some(self.start()?);
        }
        let name = (host.to_owned(), port);
        if let Some(others) = self.waiting.get_mut(&name) {
            others.push((dial, serial));
            return Ok(());
        }
        let question = Question { host: host.to_owned(), port };
        match self.questions.as_ref().map(|questions| questions.try_send(question)) {
            Some(Ok(())) => {
                self.waiting.insert(name, vec![(dial, serial)]);
                Ok(())
            }
            Some(Err(TrySendError::Full(_))) => Err("too many names are being resolved".into()),
            _ => Err("the resolver has ended".into()),
        }
    }

    /// One answer for each dial that waited for a name that is known now.
    pub(super) fn answers(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        for (name, addresses) in self.found.try_iter() {
            let dials = self.waiting.remove(&name).unwrap_or_default();
            let answer = |(dial, serial)| Answer { dial, serial, addresses: addresses.clone() };
            answers.extend(dials.into_iter().map(answer));
        }
        answers
    }

    fn start(&self) -> Result<SyncSender<Question>, String> {
        let (questions, queue) = sync_channel::<Question>(QUEUE_MAX);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..THREADS {
            let (queue, found, waker) = (Arc::clone(&queue), self.found_in.clone(), Arc::clone(&self.waker));
            let thread = std::thread::Builder::new().name("drtp-resolve".into());
            thread.spawn(move || serve(&queue, &found, &waker)).map_err(|error| error.to_string())?;
        }
        Ok(questions)
    }
}

/// Ends when the driver, which holds the other end, is gone.
fn serve(queue: &Mutex<Receiver<Question>>, found: &Sender<Found>, waker: &Waker) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(question) = next else { return };
        let addresses = (question.host.as_str(), question.port).to_socket_addrs();
        let addresses = addresses.map(Iterator::collect).map_err(|error| error.to_string());
        if found.send(((question.host, question.port), addresses)).is_err() {
            return;
        }
        // A driver that cannot be woken is on its way out.
        let _ = waker.wake();
    }
}

/// Both families in turn, IPv6 first (RFC 8305), without repeats.
pub(super) fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (v6, v4): (Vec<_>, Vec<_>) = addresses.into_iter().partition(SocketAddr::is_ipv6);
    let longest = v6.len().max(v4.len());
    let turns = (0..longest).flat_map(|at| [v6.get(at), v4.get(at)]).flatten();
    let mut ordered: Vec<SocketAddr> = Vec::new();
    for address in turns {
        if !ordered.contains(address) {
            ordered.push(*address);
        }
    }
    ordered
}

/// A literal address; brackets around IPv6 are taken.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

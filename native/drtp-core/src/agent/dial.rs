//! Dialling: names resolved elsewhere, addresses judged after that, families raced, one deadline over all of it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::Interest;
use mio::net::{TcpStream, UdpSocket};

use super::link::Reached;
use super::policy::{declares_loopback, permitted};
use super::resolve::{interleave, literal};
use super::{Agent, What};
use crate::driver::batch::connected;
use crate::driver::own_token;
use crate::driver::socket::would_block;
use crate::message::{Carries, ResetCode};

/// The next address is tried beside the first after this (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// First lane to a POP, by link.
    Link(usize),
    /// A further lane of a link's session.
    Lane { link: usize, session: usize, serial: u64, number: u8 },
    /// Does a way that is preferred to a link's present one lead there? By link, and its serial.
    Better { link: usize, serial: u64, way: usize },
    /// A visitor, by relay.
    Visitor { relay: usize, service: usize },
    /// Is the local service there? By service.
    Probe(usize),
}

pub(super) struct Dial {
    purpose: Purpose,
    serial: u64,
    queue: VecDeque<SocketAddr>,
    attempts: Vec<usize>,
    started: Instant,
    until: Instant,
    error: String,
    code: ResetCode,
    /// Local targets are judged; POPs are named by the plan and proven by their certificate.
    judged: Option<bool>,
    /// A datagram needs no answer before it: the first address that may be used is the one.
    carries: Carries,
}

pub(super) struct Attempt {
    stream: TcpStream,
    dial: usize,
    address: SocketAddr,
}

impl Agent {
    /// Starts a dial to a POP's way's first hop, or to a local service; its end comes by `dialled` or `dial_failed`.
    pub(super) fn dial(&mut self, purpose: Purpose, host: &str, port: u16, within: Duration) {
        let carries = match purpose {
            Purpose::Visitor { service, .. } | Purpose::Probe(service) => self.services[service].spec.carries(),
            Purpose::Link(link) if self.is_quic(link, None) => Carries::Datagrams,
            Purpose::Better { link, way, .. } if self.is_quic(link, Some(way)) => Carries::Datagrams,
            Purpose::Link(_) | Purpose::Lane { .. } | Purpose::Better { .. } => Carries::Bytes,
        };
        let now = self.core.now();
        let serial = self.core.table.next_serial();
        let local = matches!(purpose, Purpose::Visitor { .. } | Purpose::Probe(_));
        let dial = self.dials.insert(Dial {
            purpose,
            serial,
            queue: VecDeque::new(),
            attempts: Vec::new(),
            started: now,
            until: now + within,
            error: "no address".into(),
            code: ResetCode::Unresolved,
            judged: local.then(|| declares_loopback(host)),
            carries,
        });
        if let Purpose::Visitor { relay, .. } = purpose {
            self.dial_of.insert(relay, dial);
        }
        self.look_at_dials(now + within);
        if let Some(ip) = literal(host) {
            self.resolved(dial, serial, Ok(vec![SocketAddr::new(ip, port)]));
        } else if let Err(error) = self.resolver.ask(dial, serial, host, port) {
            self.dials[dial].error = error;
            self.fail_dial(dial);
        }
    }

    pub(super) fn resolved(&mut self, dial: usize, serial: u64, addresses: Result<Vec<SocketAddr>, String>) {
        let Some(state) = self.dials.get_mut(dial).filter(|state| state.serial == serial) else { return };
        match addresses {
            Ok(addresses) => {
                for address in interleave(addresses).into_iter().take(ADDRESSES_MAX) {
                    let verdict = state.judged.map_or(Ok(()), |loopback| permitted(address.ip(), loopback));
                    match verdict {
                        Ok(()) => state.queue.push_back(address),
                        Err(why) => {
                            state.error = format!("{} is never dialled: {why}", address.ip());
                            state.code = ResetCode::TargetForbidden;
                        }
                    }
                }
            }
            Err(error) => state.error = error,
        }
        self.try_next(dial);
    }

    /// Tries the next address; the dial fails when none is left and none is under way.
    fn try_next(&mut self, dial: usize) {
        let now = self.core.now();
        while let Some(state) = self.dials.get_mut(dial) {
            let serial = state.serial;
            let Some(address) = state.queue.pop_front() else {
                if state.attempts.is_empty() {
                    self.fail_dial(dial);
                }
                return;
            };
            let more = !state.queue.is_empty();
            let tried = match state.carries {
                Carries::Bytes | Carries::Sealed => match self.attempt(dial, address) {
                    Ok(Some(stream)) => return self.won(dial, None, stream, address),
                    Ok(None) => Ok(()),
                    Err(error) => Err(error),
                },
                Carries::Datagrams | Carries::SealedDatagrams => match connected(address) {
                    Ok(socket) => return self.connected(dial, socket, address),
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = tried {
                if let Some(state) = self.dials.get_mut(dial) {
                    (state.error, state.code) = (format!("{address}: {error}"), ResetCode::Refused);
                }
                continue;
            }
            if more {
                self.later(now + STAGGER, What::DialStep(dial, serial));
            }
            return;
        }
    }

    fn connected(&mut self, dial: usize, socket: UdpSocket, address: SocketAddr) {
        let Some(dial) = self.end_dial(dial, None) else { return };
        match dial.purpose {
            Purpose::Visitor { relay, service } => self.flow_connected(relay, service, socket),
            Purpose::Probe(service) => self.datagrams_probed(service),
            Purpose::Link(link) => self.link_connected(link, Reached::Udp(socket), address),
            Purpose::Better { link, serial, way } => {
                self.better_connected(link, serial, way, Reached::Udp(socket), address);
            }
            Purpose::Lane { .. } => {}
        }
    }

    /// Begins to connect. A service on this very host has answered by then: its stream needs no further turn.
    fn attempt(&mut self, dial: usize, address: SocketAddr) -> std::io::Result<Option<TcpStream>> {
        let mut stream = TcpStream::connect(address)?;
        let local = self.dials[dial].judged.is_some();
        if local && address.ip().is_loopback() && stream.peer_addr().is_ok() {
            return Ok(Some(stream));
        }
        let slot = self.attempts.vacant_entry();
        let index = slot.key();
        self.core.poll.registry().register(&mut stream, own_token(index), Interest::WRITABLE)?;
        slot.insert(Attempt { stream, dial, address });
        self.dials[dial].attempts.push(index);
        Ok(None)
    }

    pub(super) fn dial_step(&mut self, dial: usize, serial: u64) {
        if self.dials.get(dial).is_some_and(|state| state.serial == serial && !state.queue.is_empty()) {
            self.try_next(dial);
        }
    }

    fn look_at_dials(&mut self, at: Instant) {
        if self.dials_looked_at.is_none_or(|armed| at < armed) {
            self.dials_looked_at = Some(at);
            self.later(at, What::Dials);
        }
    }

    pub(super) fn end_late_dials(&mut self) {
        let now = self.core.now();
        // A timer that an earlier one overtook finds nothing of its own, and arms nothing.
        if self.dials_looked_at.is_none_or(|at| at > now) {
            return;
        }
        self.dials_looked_at = None;
        let late: Vec<usize> =
            self.dials.iter().filter(|(_, dial)| dial.until <= now).map(|(index, _)| index).collect();
        for dial in late {
            if let Some(state) = self.dials.get_mut(dial) {
                (state.error, state.code) = ("no answer in time".into(), ResetCode::Timeout);
                self.fail_dial(dial);
            }
        }
        if let Some(next) = self.dials.iter().map(|(_, dial)| dial.until).min() {
            self.look_at_dials(next);
        }
    }

    /// A socket under way has news.
    pub(super) fn attempt_news(&mut self, index: usize) {
        let Some(attempt) = self.attempts.get(index) else { return };
        let failure = match attempt.stream.take_error() {
            Ok(None) => match attempt.stream.peer_addr() {
                Ok(_) => return self.attempt_won(index),
                // Not connected yet: the event was about something else.
                Err(error) if error.kind() == std::io::ErrorKind::NotConnected || would_block(&error) => return,
                Err(error) => error,
            },
            Ok(Some(error)) | Err(error) => error,
        };
        let Some(attempt) = self.attempts.try_remove(index) else { return };
        if let Some(dial) = self.dials.get_mut(attempt.dial) {
            dial.attempts.retain(|other| *other != index);
            (dial.error, dial.code) = (format!("{}: {failure}", attempt.address), ResetCode::Refused);
            if dial.attempts.is_empty() || !dial.queue.is_empty() {
                self.try_next(attempt.dial);
            }
        }
    }

    fn attempt_won(&mut self, index: usize) {
        let Some(mut attempt) = self.attempts.try_remove(index) else { return };
        if self.core.poll.registry().deregister(&mut attempt.stream).is_err() {
            return self.fail_dial(attempt.dial);
        }
        self.won(attempt.dial, Some(index), attempt.stream, attempt.address);
    }

    fn won(&mut self, dial: usize, attempt: Option<usize>, stream: TcpStream, address: SocketAddr) {
        let Some(dial) = self.end_dial(dial, attempt) else { return };
        let took_ms = self.core.now().saturating_duration_since(dial.started).as_secs_f64() * 1e3;
        self.dialled(dial.purpose, stream, address, took_ms);
    }

    /// Forgets a dial and the attempts that lost.
    fn end_dial(&mut self, dial: usize, winner: Option<usize>) -> Option<Dial> {
        let state = self.dials.try_remove(dial)?;
        for attempt in state.attempts.iter().filter(|attempt| Some(**attempt) != winner) {
            self.attempts.try_remove(*attempt);
        }
        if let Purpose::Visitor { relay, .. } = state.purpose {
            self.dial_of.remove(&relay);
        }
        Some(state)
    }

    fn fail_dial(&mut self, dial: usize) {
        if let Some(dial) = self.end_dial(dial, None) {
            self.dial_failed(dial.purpose, &dial.error, dial.code);
        }
    }

    /// The visitor went away before its service answered.
    pub(super) fn cancel_dial(&mut self, relay: usize) {
        if let Some(dial) = self.dial_of.remove(&relay) {
            self.end_dial(dial, None);
        }
    }

    /// Everything that was dialled for a service that is not any more.
    pub(super) fn cancel_dials_of(&mut self, service: usize) {
        let mine = |purpose: Purpose| matches!(purpose, Purpose::Probe(s) if s == service);
        let dials: Vec<usize> = self.dials.iter().filter(|(_, d)| mine(d.purpose)).map(|(index, _)| index).collect();
        for dial in dials {
            self.end_dial(dial, None);
        }
    }

    /// A link is gone, or starts anew.
    pub(super) fn cancel_dials_to(&mut self, link: usize) {
        let mine = |purpose: Purpose| match purpose {
            Purpose::Link(index) | Purpose::Lane { link: index, .. } | Purpose::Better { link: index, .. } => {
                index == link
            }
            _ => false,
        };
        let dials: Vec<usize> = self.dials.iter().filter(|(_, d)| mine(d.purpose)).map(|(index, _)| index).collect();
        for dial in dials {
            self.end_dial(dial, None);
        }
    }
}

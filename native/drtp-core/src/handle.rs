//! The two faces that hosts hold. Each owns a driver thread and speaks to it by commands.

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::{Poll, Waker};

use crate::access::Countries;
use crate::agent::Agent;
use crate::config::{AgentConfig, GatewayConfig, Identity, ServerConfig};
use crate::driver::WAKE_TOKEN;
use crate::error::CoreError;
use crate::event::{Event, Events};
use crate::identity::Role;
use crate::report::{ApplyOutcome, Stats};
use crate::server::{self, Server};
use crate::tls::Credentials;

/// How long `stats` waits for a busy driver before it answers with the last known ones.
const STATS_WAIT: Duration = Duration::from_millis(500);

/// What a host asks of its driver.
pub(crate) enum Command {
    Apply(Vec<u8>, SyncSender<ApplyOutcome>),
    Stats(Flows, SyncSender<Stats>),
    Rotate(Box<Identity>, SyncSender<Result<(), CoreError>>),
    Drain(Duration),
    Close,
}

/// Whether a reader of statistics wants the recent flows, too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flows {
    With,
    Without,
}

/// What driver and host share without a queue.
pub(crate) struct Shared {
    pub(crate) events: Events,
    pub(crate) ticks: AtomicU64,
}

/// The host's end of a driver thread.
struct Handle {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    last_stats: Mutex<Arc<Stats>>,
}

/// The driver's end.
pub(crate) struct Inbox {
    pub(crate) commands: Receiver<Command>,
    pub(crate) shared: Arc<Shared>,
}

impl Handle {
    /// Starts `run` on a thread of its own.
    fn start<F>(name: &str, waker: Arc<Waker>, run: F) -> Result<Self, CoreError>
    where
        F: FnOnce(Inbox) + Send + 'static,
    {
        let (commands, receiver) = channel();
        let events = Events::new().map_err(|e| CoreError::io("event descriptor", e))?;
        let shared = Arc::new(Shared { events, ticks: AtomicU64::new(0) });
        let inbox = Inbox { commands: receiver, shared: Arc::clone(&shared) };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(inbox))
            .map_err(|e| CoreError::io("driver thread", e))?;
        Ok(Self { commands, waker, shared, thread: Mutex::new(Some(thread)), last_stats: Mutex::default() })
    }

    fn send(&self, command: Command) -> Result<(), CoreError> {
        self.commands.send(command).map_err(|_| CoreError::Closed)?;
        self.waker.wake().map_err(|e| CoreError::io("driver wake-up", e))
    }

    fn apply(&self, delta_json: &[u8]) -> ApplyOutcome {
        let (answer, outcome) = sync_channel(1);
        let sent = self.send(Command::Apply(delta_json.to_vec(), answer));
        let closed = || ApplyOutcome { error: Some(CoreError::Closed.to_string()), ..ApplyOutcome::default() };
        if sent.is_err() { closed() } else { outcome.recv().unwrap_or_else(|_| closed()) }
    }

    fn stats(&self, flows: Flows) -> Arc<Stats> {
        let (answer, stats) = sync_channel(1);
        let fresh = self.send(Command::Stats(flows, answer)).ok().and_then(|()| stats.recv_timeout(STATS_WAIT).ok());
        let mut last = self.last_stats.lock().unwrap_or_else(PoisonError::into_inner);
        let stats = fresh.unwrap_or_else(|| Stats { stale: true, ..Stats::clone(&last) });
        let (ticks, events_dropped) = (self.shared.ticks.load(Ordering::Relaxed), self.shared.events.dropped());
        *last = Arc::new(Stats { ticks, events_dropped, ..stats });
        Arc::clone(&last)
    }

    fn rotate(&self, identity: Identity) -> Result<(), CoreError> {
        let (answer, outcome) = sync_channel(1);
        self.send(Command::Rotate(Box::new(identity), answer))?;
        outcome.recv().unwrap_or(Err(CoreError::Closed))
    }

    fn close(&self) {
        // A driver that has ended already has nothing left to close.
        let _ = self.send(Command::Close);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic of the driver was printed by its own thread.
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

macro_rules! face {
    ($name:ident) => {
        impl $name {
            /// Takes a delta: `{"whole": bool, "upsert": {key: entry}, "remove": [key]}`, entries as in `drtp.api.snapshots`;
            /// for an agent `"targets"` beside them, where its pins have changed.
            ///
            /// Idempotent. Returns once the driver has put it in force, milliseconds at most.
            pub fn apply(&self, delta_json: &[u8]) -> ApplyOutcome {
                self.handle.apply(delta_json)
            }

            /// Takes up to `max` events, oldest first. Never waits.
            pub fn events(&self, max: usize) -> Vec<Event> {
                self.handle.shared.events.take(max)
            }

            /// Readable while events wait. Owned by the core: poll it, never read or close it.
            pub fn event_fd(&self) -> RawFd {
                self.handle.shared.events.fd()
            }

            /// Counters and gauges. Waits for the driver for half a second at most.
            pub fn stats(&self) -> Arc<Stats> {
                self.handle.stats(Flows::With)
            }

            /// The same without the recent flows: all that whoever shows no list of them wants.
            pub fn counts(&self) -> Arc<Stats> {
                self.handle.stats(Flows::Without)
            }

            /// A new certificate for new handshakes; live lanes go on. On error the old one stays in force.
            pub fn rotate(&self, identity: Identity) -> Result<(), CoreError> {
                self.handle.rotate(identity)
            }

            /// Starts draining and returns: peers are told, no new visitor is taken, streams finish or are reset after
            /// `deadline`. `stats().draining` with `streams == 0` says that it is done.
            pub fn drain(&self, deadline: Duration) {
                // A driver that has ended has nothing to drain.
                let _ = self.handle.send(Command::Drain(deadline));
            }

            /// Ends the driver and closes every socket; streams that are still open are reset. Idempotent.
            pub fn close(&self) {
                self.handle.close();
            }
        }
    };
}

/// The POP side: accepts agents, and visitors at one endpoint per connection.
pub struct TunnelServer {
    handle: Handle,
    agent_addresses: Vec<SocketAddr>,
}

impl TunnelServer {
    /// Binds the agents' listeners and starts the driver.
    pub fn new(config: ServerConfig) -> Result<Self, CoreError> {
        let credentials = Credentials::new(&config.identity)?.with_web(config.web.as_ref())?;
        credentials.own.must_be_own(Role::Pop)?;
        let countries = config.country_database.as_deref().map(Countries::open).transpose();
        let countries = countries.map_err(|error| CoreError::Config(format!("country database {error}")))?;
        let (poll, waker) = poll_with_waker()?;
        let (agent_addresses, doors) = server::bind(&config, &poll)?;
        let run = move |inbox| Server::new(config, (credentials, countries), poll, inbox, doors).run();
        Ok(Self { handle: Handle::start("drtp-pop", waker, run)?, agent_addresses })
    }

    /// Where agents dial in, as bound, in the order of the configuration.
    pub fn agent_addresses(&self) -> Vec<SocketAddr> {
        self.agent_addresses.clone()
    }
}

face!(TunnelServer);

/// The private side: keeps sessions with POPs and dials the local service for each visitor.
pub struct TunnelAgent {
    handle: Handle,
}

impl TunnelAgent {
    /// Starts the driver; it dials when a plan is applied.
    pub fn new(config: AgentConfig) -> Result<Self, CoreError> {
        let credentials = Credentials::new(&config.identity)?;
        credentials.own.must_be_own(Role::Agent)?;
        let (poll, waker) = poll_with_waker()?;
        let news = Arc::clone(&waker);
        let run = move |inbox| Agent::new(config, credentials, poll, inbox, news).run();
        Ok(Self { handle: Handle::start("drtp-agent", waker, run)? })
    }
}

face!(TunnelAgent);

/// The visitors' side of UDP: listens, and brings each visitor's flow to a POP.
pub struct TunnelGateway {
    handle: Handle,
}

impl TunnelGateway {
    /// Starts the driver; it listens and dials when a table is applied.
    pub fn new(config: GatewayConfig) -> Result<Self, CoreError> {
        let credentials = Credentials::new(&config.identity)?;
        credentials.own.must_be_own(Role::Gateway)?;
        let (poll, waker) = poll_with_waker()?;
        let news = Arc::clone(&waker);
        let run = move |inbox| Agent::new(config.into(), credentials, poll, inbox, news).run();
        Ok(Self { handle: Handle::start("drtp-gateway", waker, run)? })
    }
}

face!(TunnelGateway);

/// The callers' side of `connect`: listens on local ports, and brings each connection sealed to an agent of its service.
pub struct TunnelConnector {
    handle: Handle,
}

impl TunnelConnector {
    /// Starts the driver; it listens and dials when a plan is applied.
    pub fn new(config: GatewayConfig) -> Result<Self, CoreError> {
        let credentials = Credentials::new(&config.identity)?;
        credentials.own.must_be_own(Role::Connector)?;
        let (poll, waker) = poll_with_waker()?;
        let news = Arc::clone(&waker);
        let run = move |inbox| Agent::new(config.into(), credentials, poll, inbox, news).run();
        Ok(Self { handle: Handle::start("drtp-connector", waker, run)? })
    }
}

face!(TunnelConnector);

fn poll_with_waker() -> Result<(Poll, Arc<Waker>), CoreError> {
    let poll = Poll::new().map_err(|error| CoreError::io("poll", error))?;
    let waker = Waker::new(poll.registry(), WAKE_TOKEN).map_err(|error| CoreError::io("waker", error))?;
    Ok((poll, Arc::new(waker)))
}

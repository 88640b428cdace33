//! What the core tells its host, without ever waiting for it: a bounded queue and a descriptor that wakes the host's loop.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use serde::Serialize;

use crate::report::FlowRecord;

/// One fact. JSON: `{"type": "sessionUp", …}`, camelCase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Event {
    /// POP: an agent's session is live.
    SessionUp {
        /// Agent uid.
        agent: String,
        /// Its epoch.
        epoch: u64,
        /// Address it was seen from.
        peer: String,
        /// Connections it serves here now.
        connections: Vec<String>,
    },
    /// POP: it is gone; its visitors were reset.
    SessionDown {
        /// Agent uid.
        agent: String,
        /// Why, for people.
        reason: String,
    },
    /// POP: an agent was refused. Agent: a POP refused this agent; it tries again.
    Refused {
        /// Who: an agent uid at the POP, a server uid at the agent; "" if it showed none.
        subject: String,
        /// Why, for people.
        reason: String,
    },
    /// POP: an endpoint is bound (and listening, or ready to listen as soon as an agent is there).
    RouteBound {
        /// Entry key.
        key: String,
        /// Connection uid.
        connection: String,
        /// `address:port`; "" if it has only a Unix socket.
        bound: String,
        /// The Unix socket for gateways on this machine.
        path: Option<String>,
    },
    /// POP: an endpoint could not be bound or listened on; others go on.
    RouteFailed {
        /// Entry key.
        key: String,
        /// Connection uid.
        connection: String,
        /// Why.
        message: String,
    },
    /// Gateway: a flow of datagrams is over.
    FlowEnded {
        /// Its books.
        flow: Box<FlowRecord>,
    },
    /// Agent: another instance with a newer epoch (or a clone with the same one) serves. Terminal: nothing is tried again.
    Fenced {
        /// Server uid that said so.
        server: String,
        /// What it said.
        message: String,
    },
    /// Agent: the local service answered.
    LocalUp {
        /// Service `<namespace>/<name>`.
        service: String,
        /// Connection uid.
        connection: String,
    },
    /// Agent: the local service cannot be reached.
    LocalDown {
        /// Service `<namespace>/<name>`.
        service: String,
        /// Connection uid.
        connection: String,
        /// Why, for people.
        message: String,
    },
    /// Agent: the session with a POP is live.
    TunnelUp {
        /// Server uid.
        server: String,
        /// Address dialled: its own, or a proxy's.
        peer: String,
        /// The way taken: `direct`, `connect` or `socks5`, and `+websocket`.
        way: String,
    },
    /// Agent: it is not; the agent goes on trying unless `Fenced`.
    TunnelDown {
        /// Server uid.
        server: String,
        /// Why, for people.
        message: String,
    },
}

impl Event {
    /// What the event is about: a newer one about the same subject stands for the older.
    fn subject(&self) -> (u8, &str) {
        match self {
            Event::SessionUp { agent, .. } | Event::SessionDown { agent, .. } => (0, agent),
            Event::Refused { subject, .. } => (1, subject),
            Event::RouteBound { key, .. } | Event::RouteFailed { key, .. } => (2, key),
            Event::Fenced { .. } => (3, ""),
            Event::FlowEnded { flow } => (6, &flow.stream_id),
            Event::LocalUp { connection, .. } | Event::LocalDown { connection, .. } => (4, connection),
            Event::TunnelUp { server, .. } | Event::TunnelDown { server, .. } => (5, server),
        }
    }
}

/// Most events kept for a host that does not read. Beyond it, subjects coalesce, then the oldest goes.
const EVENTS_MAX: usize = 4_096;

struct Queue {
    events: VecDeque<Event>,
    dropped: u64,
}

/// The bounded queue between the driver and the host.
pub(crate) struct Events {
    queue: Mutex<Queue>,
    wake_tx: UnixStream,
    wake_rx: UnixStream,
}

impl Events {
    pub(crate) fn new() -> std::io::Result<Self> {
        let (wake_rx, wake_tx) = UnixStream::pair()?;
        wake_rx.set_nonblocking(true)?;
        wake_tx.set_nonblocking(true)?;
        let queue = Mutex::new(Queue { events: VecDeque::new(), dropped: 0 });
        Ok(Self { queue, wake_tx, wake_rx })
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Queue> {
        // The queue is whole between statements, so a panic elsewhere cannot leave it broken.
        self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Never blocks on the host and never grows past its cap.
    pub(crate) fn push(&self, event: Event) {
        let mut queue = self.locked();
        if queue.events.len() >= EVENTS_MAX {
            let place = queue.events.iter().position(|old| old.subject() == event.subject()).unwrap_or(0);
            queue.events.remove(place);
            queue.dropped += 1;
        }
        let first = queue.events.is_empty();
        queue.events.push_back(event);
        drop(queue);
        if first {
            // A full pipe is readable already, which is all that is wanted of it.
            let _ = (&self.wake_tx).write(&[1]);
        }
    }

    /// Takes up to `max`; the descriptor stays readable while more wait.
    pub(crate) fn take(&self, max: usize) -> Vec<Event> {
        let mut queue = self.locked();
        let count = queue.events.len().min(max);
        let taken: Vec<Event> = queue.events.drain(..count).collect();
        if queue.events.is_empty() {
            let mut sink = [0_u8; 64];
            while matches!((&self.wake_rx).read(&mut sink), Ok(n) if n > 0) {}
        }
        taken
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.locked().dropped
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.wake_rx.as_raw_fd()
    }
}

//! Two streams of a POP that are one way: what comes on one goes out on the other, credit minded and ends exact, and no
//! socket is between them. The bytes are sealed; a POP passes them on as they are.

use std::num::NonZeroU32;

use super::table::Table;
use super::{Core, Read};
use crate::driver::relay::Phase;

/// A relay's index as its mate keeps it: 0 is nobody.
fn mated(relay: usize) -> Option<NonZeroU32> {
    u32::try_from(relay + 1).ok().and_then(NonZeroU32::new)
}

pub(super) fn unmated(mate: NonZeroU32) -> usize {
    mate.get() as usize - 1
}

impl Table {
    /// From now on the two are one way. Both have their streams; what came before goes on at once.
    pub(crate) fn join_streams(&mut self, near: usize, far: usize) {
        for (one, other) in [(near, far), (far, near)] {
            let state = &mut self.relays[one];
            (state.mate, state.phase) = (mated(other), Phase::Open);
            self.flush_later(one);
        }
    }
}

impl Core {
    /// Something waits at a relay, or its stream has ended: its mate takes it as a reader takes from a socket.
    pub(super) fn feed_mate(&mut self, index: usize) {
        let Some(mate) = self.table.relays.get(index).and_then(|relay| relay.mate).map(unmated) else { return };
        if let Some(state) = self.table.relays.get_mut(mate) {
            state.readable = true;
        }
        self.read_soon(mate);
    }

    /// Up to `room` bytes that wait at the mate go into the relay's own stream.
    pub(super) fn read_mate(&mut self, index: usize, room: usize) -> Read {
        let Some(mate) = self.table.relays.get(index).and_then(|relay| relay.mate).map(unmated) else {
            return Read::Stop;
        };
        let now = self.table.now;
        let Some(state) = self.table.relays.get_mut(mate).filter(|relay| !relay.dead) else { return Read::Stop };
        let (from_session, from_stream) = (state.session, state.stream);
        let mut backlog = state.backlog.take();
        let mut sent = 0;
        if let Some(backlog) = backlog.as_mut() {
            let count = backlog.waiting().len().min(room);
            sent = self.table.send_from(index, &backlog.waiting()[..count]);
            backlog.took(sent);
        }
        let state = &mut self.table.relays[mate];
        state.backlog = backlog;
        state.bytes_written += sent as u64;
        let (empty, ended) = (!state.has_pending(), state.fin_wanted && !state.fin_done);
        let own = &mut self.table.relays[index];
        own.bytes_read += sent as u64;
        own.bulk = super::relays::classify(own.bulk, sent);
        own.readable = !empty;
        let own_session = own.session;
        self.table.touch(own_session);
        if sent > 0 {
            self.table.unpark(mate, sent as u64);
            if let Some(session) = self.table.session(from_session) {
                session.consumed(from_stream, sent as u64, now);
            }
            self.table.touch(from_session);
            self.table.reclaim(mate);
        }
        if !empty {
            return Read::More;
        }
        if ended {
            self.table.relays[mate].fin_done = true;
            self.finish_reading(index);
            self.end_if_complete(mate);
        }
        Read::Stop
    }
}

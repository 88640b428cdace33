//! The streams of a session, side by side: a hash table of them would keep room for half as many again, empty.

use slab::Slab;

use super::ById;
use super::stream::Stream;

/// Streams by id.
#[derive(Debug, Default)]
pub(super) struct StreamTable {
    places: ById<u32>,
    streams: Slab<Entry>,
}

#[derive(Debug)]
struct Entry {
    id: u32,
    stream: Stream,
}

impl StreamTable {
    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    pub(super) fn contains(&self, id: u32) -> bool {
        self.places.contains_key(&id)
    }

    pub(super) fn get(&self, id: u32) -> Option<&Stream> {
        let place = *self.places.get(&id)?;
        self.streams.get(place as usize).map(|entry| &entry.stream)
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Stream> {
        let place = *self.places.get(&id)?;
        self.streams.get_mut(place as usize).map(|entry| &mut entry.stream)
    }

    /// The id is not in use.
    pub(super) fn insert(&mut self, id: u32, stream: Stream) {
        let place = self.streams.insert(Entry { id, stream });
        self.places.insert(id, place as u32);
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<Stream> {
        let place = self.places.remove(&id)?;
        self.streams.try_remove(place as usize).map(|entry| entry.stream)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Stream)> {
        self.streams.iter().map(|(_, entry)| (entry.id, &entry.stream))
    }
}

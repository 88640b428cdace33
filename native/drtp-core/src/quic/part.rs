//! Whole frames out of one QUIC stream's bytes, cut anywhere.

use super::Fault;
use crate::frame::{HEADER_BYTES, Kind, put_header};

/// No frame but DATA is longer; a longer one's header goes to the session alone, which refuses it.
const GATHERED_MAX: usize = 64 * 1024;

/// What a frame's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) stream: u32,
    pub(super) kind: u8,
    pub(super) length: usize,
}

impl Head {
    pub(super) fn of([a, b, c, d, kind, x, y, z]: [u8; HEADER_BYTES]) -> Self {
        let length = u32::from_be_bytes([0, x, y, z]) as usize;
        Self { stream: u32::from_be_bytes([a, b, c, d]), kind, length }
    }

    pub(super) fn is(self, kind: Kind) -> bool {
        self.kind == kind as u8
    }
}

/// The frame of which a part has come. DATA is handed on as it comes, each piece as a frame of its own; of any other
/// nothing is handed on before all is there.
#[derive(Debug, Default)]
pub(super) struct Part {
    bytes: Vec<u8>,
    /// Of a DATA frame that has begun.
    data_left: usize,
    data_of: u32,
}

impl Part {
    /// Nothing of a frame waits for its rest.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.data_left == 0
    }

    /// Takes bytes; `whole` gets frames, `judge` is asked about each of them by its header, before it goes there.
    pub(super) fn feed(
        &mut self,
        mut input: &[u8],
        whole: &mut Vec<u8>,
        judge: &mut impl FnMut(Head) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        while !input.is_empty() {
            if self.data_left > 0 {
                let (piece, rest) = input.split_at(input.len().min(self.data_left));
                put_header(whole, self.data_of, Kind::Data, piece.len());
                whole.extend_from_slice(piece);
                self.data_left -= piece.len();
                input = rest;
                continue;
            }
            if self.bytes.len() < HEADER_BYTES {
                let (head, rest) = input.split_at(input.len().min(HEADER_BYTES - self.bytes.len()));
                self.bytes.extend_from_slice(head);
                input = rest;
            }
            let Some(bytes) = self.bytes.first_chunk::<HEADER_BYTES>() else { return Ok(()) };
            let head = Head::of(*bytes);
            if self.bytes.len() == HEADER_BYTES {
                judge(head)?;
                if head.is(Kind::Data) && head.length > 0 {
                    self.bytes.clear();
                    (self.data_of, self.data_left) = (head.stream, head.length);
                    continue;
                }
            }
            let length = if head.length > GATHERED_MAX { 0 } else { head.length };
            let missing = HEADER_BYTES + length - self.bytes.len();
            let (body, rest) = input.split_at(input.len().min(missing));
            self.bytes.extend_from_slice(body);
            input = rest;
            if body.len() == missing {
                whole.append(&mut self.bytes);
            }
        }
        Ok(())
    }
}

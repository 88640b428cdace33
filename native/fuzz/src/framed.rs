//! Datagrams inside a sealed stream: any bytes, cut anywhere, read the same; what was read is written and is the same bytes.

use drtp_core::frame::DATAGRAM_BYTES_MAX;
use drtp_core::framed::{HEAD_BYTES, TooLong, first, put};

/// The first byte says how long a piece is; the rest is the stream.
pub fn framed(input: &[u8]) {
    let Some((piece, stream)) = input.split_first() else { return };
    let (whole, end) = read(stream, stream.len().max(1));
    assert_eq!((&whole, end), (&read(stream, usize::from(*piece).max(1)).0, end), "a cut changes what is read");
    let mut again = Vec::new();
    for datagram in &whole {
        assert!(datagram.len() <= DATAGRAM_BYTES_MAX, "no socket takes it");
        put(&mut again, datagram);
    }
    assert!(stream.starts_with(&again), "written otherwise than it was read");
}

/// Every datagram, and the error that ended it. Nothing of the stream is held but one that is not whole.
fn read(stream: &[u8], piece: usize) -> (Vec<Vec<u8>>, Option<TooLong>) {
    let (mut seen, mut held) = (Vec::new(), Vec::new());
    for part in stream.chunks(piece) {
        held.extend_from_slice(part);
        loop {
            match first(&held) {
                Ok(None) => break,
                Ok(Some(datagram)) => {
                    seen.push(datagram.to_vec());
                    held.drain(..HEAD_BYTES + seen[seen.len() - 1].len());
                }
                Err(error) => return (seen, Some(error)),
            }
        }
        assert!(held.len() < HEAD_BYTES + DATAGRAM_BYTES_MAX, "more is held than any datagram takes");
    }
    (seen, None)
}

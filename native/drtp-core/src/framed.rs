//! Datagrams in a stream of bytes: each behind its length, two bytes, the high one first (as RFC 4571). Of no bytes is one, too.

use crate::frame::DATAGRAM_BYTES_MAX;

/// What stands in front of each datagram.
pub const HEAD_BYTES: usize = 2;

/// Longer than any datagram: whoever wrote that writes no frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a datagram of {0} bytes")]
pub struct TooLong(pub usize);

/// Appends one datagram of at most [`DATAGRAM_BYTES_MAX`] bytes.
pub fn put(out: &mut Vec<u8>, datagram: &[u8]) {
    debug_assert!(datagram.len() <= DATAGRAM_BYTES_MAX, "no UDP socket gives so many");
    out.extend_from_slice(&(datagram.len() as u16).to_be_bytes());
    out.extend_from_slice(datagram);
}

/// The first datagram of `bytes`, which takes [`HEAD_BYTES`] more than its own; `None` while it is not whole.
pub fn first(bytes: &[u8]) -> Result<Option<&[u8]>, TooLong> {
    let Some((head, body)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*head));
    // Judged before the body has come: nobody waits for what is never taken.
    if length > DATAGRAM_BYTES_MAX { Err(TooLong(length)) } else { Ok(body.get(..length)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All that is whole, as a reader finds it who gets `wire` in pieces; and what was left.
    fn read(wire: &[u8], pieces: &[usize]) -> (Vec<Vec<u8>>, usize) {
        let (mut seen, mut held, mut at) = (Vec::new(), Vec::new(), 0);
        for piece in pieces.iter().copied().chain(std::iter::repeat(4_096)) {
            let end = (at + piece).min(wire.len());
            held.extend_from_slice(&wire[at..end]);
            while let Some(datagram) = first(&held).unwrap() {
                seen.push(datagram.to_vec());
                let taken = HEAD_BYTES + datagram.len();
                held.drain(..taken);
            }
            at = end;
            if at == wire.len() {
                break;
            }
        }
        (seen, held.len())
    }

    #[test]
    fn what_is_longer_than_any_datagram_is_refused_by_its_length_alone() {
        assert_eq!(first(&65_508_u16.to_be_bytes()), Err(TooLong(65_508)));
        assert_eq!(first(&[0xff; 9]), Err(TooLong(65_535)));
        assert_eq!(first(&65_507_u16.to_be_bytes()), Ok(None));
        assert_eq!(first(&[]), Ok(None));
        assert_eq!(first(&[0xff]), Ok(None));
        assert_eq!(first(&[0, 0, 9]), Ok(Some([].as_slice())));
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_datagrams(
            sizes in proptest::collection::vec(prop_oneof![Just(0_usize), Just(1), 0_usize..2_000, Just(65_507)], 0..20),
            pieces in proptest::collection::vec(1_usize..3_000, 0..50),
            lost in 0_usize..3_000,
        ) {
            let sent: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(at, size)| vec![at as u8; *size]).collect();
            let mut wire = Vec::new();
            sent.iter().for_each(|datagram| put(&mut wire, datagram));
            prop_assert_eq!(read(&wire, &pieces), (sent.clone(), 0));
            wire.truncate(wire.len() - lost.min(wire.len()));
            let (seen, left) = read(&wire, &pieces);
            prop_assert_eq!(seen.as_slice(), &sent[..seen.len()]);
            let taken: usize = seen.iter().map(|datagram| HEAD_BYTES + datagram.len()).sum();
            prop_assert_eq!(taken + left, wire.len());
        }
    }
}

//! The frame parser: any bytes, cut anywhere, read the same; what was read is written and read again unchanged.

use drtp_core::frame::{Frame, FrameError, Item, Parser, put};

/// What a lane brought, DATA pieces gathered: how they were cut is the wire's affair.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Datagram { stream: u32, bytes: Vec<u8> },
    Data { stream: u32, announced: u32, bytes: Vec<u8> },
    Frame { stream: u32, frame: Frame },
    Skipped,
}

/// The first byte says how long a piece is; the rest is the wire.
pub fn frames(input: &[u8]) {
    let Some((piece, wire)) = input.split_first() else { return };
    let (whole, end) = read(wire, wire.len().max(1));
    assert_eq!((&whole, end), (&read(wire, usize::from(*piece).max(1)).0, end), "a cut changes what is read");
    for seen in whole {
        if let Seen::Frame { stream, frame } = seen {
            written_is_read(stream, &frame);
        }
    }
}

/// Everything in `wire`, handed over in pieces, and the error that ended it.
fn read(wire: &[u8], piece: usize) -> (Vec<Seen>, Option<FrameError>) {
    let (mut parser, mut seen) = (Parser::default(), Vec::new());
    for mut input in wire.chunks(piece) {
        loop {
            match parser.next(&mut input) {
                Ok(None) => break,
                Ok(Some(item)) => note(&mut seen, item),
                Err(error) => return (seen, Some(error)),
            }
        }
        assert!(input.is_empty(), "the parser asks for more and leaves bytes behind");
    }
    (seen, None)
}

fn note(seen: &mut Vec<Seen>, item: Item<'_>) {
    match (item, seen.last_mut()) {
        (Item::Data { stream, bytes, announced: Some(announced) }, _) => {
            seen.push(Seen::Data { stream, announced, bytes: bytes.to_vec() });
        }
        (Item::Data { stream, bytes, announced: None }, Some(Seen::Data { stream: of, announced, bytes: got })) => {
            got.extend_from_slice(bytes);
            assert!(stream == *of && got.len() <= *announced as usize, "a body longer than its header says");
        }
        (Item::Data { .. }, _) => panic!("a piece of a body that never began"),
        (Item::Datagram { stream, bytes }, _) => seen.push(Seen::Datagram { stream, bytes: bytes.into_owned() }),
        (Item::Frame { stream, frame }, _) => seen.push(Seen::Frame { stream, frame }),
        (Item::Skipped, _) => seen.push(Seen::Skipped),
    }
}

fn written_is_read(stream: u32, frame: &Frame) {
    let again = through_the_wire(stream, frame);
    // A goodbye's words are cut when they are written: the second time nothing is left to cut.
    let expected = if matches!(frame, Frame::GoAway(_)) { through_the_wire(stream, &again) } else { frame.clone() };
    assert_eq!(again, expected);
}

fn through_the_wire(stream: u32, frame: &Frame) -> Frame {
    let mut wire = Vec::new();
    put(&mut wire, stream, frame);
    match read(&wire, wire.len()) {
        (seen, None) => match seen.as_slice() {
            [Seen::Frame { stream: read, frame }] if *read == stream => frame.clone(),
            other => panic!("{frame:?} was read as {other:?}"),
        },
        (_, Some(error)) => panic!("{frame:?} was written so that it cannot be read: {error}"),
    }
}

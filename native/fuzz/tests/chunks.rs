//! How bytes are cut changes nothing: any frames, any cuts, by proptest; fuzzing asks the same of any bytes.

use drtp_core::frame::{Frame, put, put_data, put_datagram};
use drtp_fuzz::frames;
use proptest::prelude::*;

fn frame() -> impl Strategy<Value = (u32, Option<Frame>, Vec<u8>)> {
    let control = prop_oneof![
        Just(Frame::Fin),
        any::<u32>().prop_map(Frame::Rst),
        any::<u32>().prop_map(Frame::StopSending),
        any::<u64>().prop_map(Frame::Window),
        any::<u64>().prop_map(Frame::Ping),
        (any::<u8>(), any::<u64>()).prop_map(|(lane, offset)| Frame::Move { lane, offset }),
    ];
    let body = proptest::collection::vec(any::<u8>(), 0..300);
    (any::<u32>(), prop_oneof![control.prop_map(Some), Just(None)], body)
}

proptest! {
    #[test]
    fn chunking_changes_nothing(talk in proptest::collection::vec(frame(), 0..20), piece in any::<u8>(), tail in 0_usize..9) {
        let mut wire = vec![piece];
        for (stream, frame, body) in &talk {
            match frame {
                Some(frame) => put(&mut wire, *stream, frame),
                None if stream % 2 == 0 => put_datagram(&mut wire, *stream, body),
                None => put_data(&mut wire, *stream, body),
            }
        }
        wire.truncate((wire.len() - tail.min(wire.len() - 1)).max(1));
        frames(&wire);
    }
}

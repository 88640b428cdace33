//! What payloads consist of: a stream of bytes in which every offset has its own value, up to a period that no
//! power-of-two buffer size divides. A lost, doubled, swapped or foreign piece shows.

/// The period: a prime, so that pieces of any usual size start at ever new places in it.
const PERIOD: usize = 65_521;
/// Room for a piece that starts anywhere in the period.
pub const PIECE_MAX: usize = 256 * 1024;

/// The stream's bytes, long enough to take a piece from any offset without a seam.
pub struct Pattern(Vec<u8>);

impl Pattern {
    /// The same for everybody.
    pub fn new() -> Self {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let period: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect();
        Self(period.iter().copied().cycle().take(PERIOD + PIECE_MAX).collect())
    }

    /// `length` bytes of the stream from `offset` on; `length` is at most `PIECE_MAX`.
    pub fn piece(&self, offset: u64, length: usize) -> &[u8] {
        let start = (offset % PERIOD as u64) as usize;
        &self.0[start..start + length]
    }
}

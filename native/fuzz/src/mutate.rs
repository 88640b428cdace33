//! Mutations for runs without coverage: few, and such as break parsers. The same seed gives the same inputs.

/// Values at the edges of their types.
const EDGES: [&[u8]; 8] =
    [&[0], &[0xff], &[0x7f, 0xff], &[0xff, 0xff], &[0xff; 3], &[0xff; 4], &[0x80, 0, 0, 0], &[0xff; 8]];
/// Longer inputs say nothing new to these targets.
const INPUT_BYTES_MAX: usize = 4_096;

/// Makes inputs out of a corpus.
pub struct Mutator<'a> {
    corpus: &'a [Vec<u8>],
    random: u64,
}

impl<'a> Mutator<'a> {
    /// `corpus` is not empty.
    pub fn new(corpus: &'a [Vec<u8>], seed: u64) -> Self {
        Self { corpus, random: seed | 1 }
    }

    /// One to four changes to an input of the corpus.
    pub fn mutant(&mut self) -> Vec<u8> {
        let mut input = self.pick().to_vec();
        for _ in 0..=self.below(4) {
            self.change(&mut input);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn pick(&mut self) -> &'a [u8] {
        let at = self.below(self.corpus.len());
        &self.corpus[at]
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        match self.below(6) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.random as u8,
            2 => {
                let edge = EDGES[self.below(EDGES.len())];
                let end = (at + edge.len()).min(input.len());
                input.splice(at..end, edge.iter().copied());
            }
            3 => {
                let end = at + self.below(input.len() - at + 1);
                input.drain(at..end);
            }
            4 => {
                let end = at + self.below((input.len() - at).min(64) + 1);
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            _ => {
                let other = self.pick();
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }

    /// xorshift: mutations need no better.
    fn below(&mut self, end: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as usize % end.max(1)
    }
}

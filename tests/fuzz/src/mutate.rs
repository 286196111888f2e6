//! Damage: small changes of bytes, words of the language at wrong places, parts of one input in another.

/// A source of numbers (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 if that is 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// One of the items.
    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }

    /// A part of a length: where it begins and ends. Short ones are likelier.
    fn part(&mut self, length: usize) -> (usize, usize) {
        let start = self.below(length + 1);
        let limit = [1, 4, 16, 64, length.max(1)][self.below(5)];
        (start, length.min(start + 1 + self.below(limit)))
    }
}

/// Longer inputs find nothing that shorter ones don't.
const LONGEST: usize = 64 << 10;
const NUMBERS: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    i64::MAX as u64,
    u64::MAX,
    1 << 40,
];

/// Changes the input in a few places. `others` lends parts.
pub(crate) fn mutate(
    random: &mut Random,
    input: &mut Vec<u8>,
    others: &[Vec<u8>],
    words: &[&[u8]],
) {
    for _ in 0..=random.below(6) {
        let (start, end) = random.part(input.len());
        let start = start.min(end);
        match random.below(10) {
            0 => {
                if let Some(byte) = input.get_mut(start) {
                    *byte ^= 1 << (start % 8);
                }
            }
            1 => {
                let byte = random.next() as u8;
                input[start..end].fill(byte);
            }
            2 => {
                input.drain(start..end);
            }
            3 => {
                let copy = input[start..end].to_vec();
                let at = random.below(input.len() + 1);
                input.splice(at..at, copy);
            }
            4 | 5 => {
                let word = random.pick(words).copied().unwrap_or_default().to_vec();
                let end = if random.below(2) == 0 { start } else { end };
                input.splice(start..end, word);
            }
            6 => {
                let other = random.pick(others).map(Vec::as_slice).unwrap_or_default();
                let (from, to) = random.part(other.len());
                let piece = other[from.min(to)..to].to_vec();
                input.splice(start..end, piece);
            }
            7 => {
                let number = random.pick(&NUMBERS).copied().unwrap_or_default();
                let piece = match random.below(4) {
                    0 => number.to_string().into_bytes(),
                    1 => number.to_le_bytes()[..=random.below(8)].to_vec(),
                    2 => number.to_be_bytes()[random.below(8)..].to_vec(),
                    _ => varint(number),
                };
                input.splice(start..end, piece);
            }
            8 => {
                // The same again and again: depth, and lists that are too long.
                let piece = input[start..end].to_vec();
                let times = 1 << random.below(9);
                input.splice(start..start, piece.repeat(times));
            }
            _ => {
                if let Some(byte) = input.get_mut(start) {
                    *byte = byte.wrapping_add([1, 0xff, 16][random.below(3)]);
                }
            }
        }
        input.truncate(LONGEST);
    }
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

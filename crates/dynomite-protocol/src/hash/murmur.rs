//! Dynomite's `MurmurHash2`: the seed depends on the length of the key.

const M: u32 = 0x5bd1_e995;
const R: u32 = 24;

fn mix(word: u32) -> u32 {
    let k = word.wrapping_mul(M);
    (k ^ (k >> R)).wrapping_mul(M)
}

pub(super) fn murmur(key: &[u8]) -> u32 {
    // Lengths are counted in 32 bits by the original too.
    #[allow(clippy::cast_possible_truncation)]
    let length = key.len() as u32;
    let mut h = 0xdead_beef_u32.wrapping_mul(length) ^ length;

    let mut words = key.chunks_exact(4);
    for word in &mut words {
        let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        h = h.wrapping_mul(M) ^ mix(word);
    }
    let tail = words.remainder();
    if !tail.is_empty() {
        for (index, byte) in tail.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * index);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

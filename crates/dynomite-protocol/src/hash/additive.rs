//! The byte-wise hashes: one at a time, the FNV family, hsieh.

const FNV_64_START: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_64_PRIME: u64 = 0x0100_0000_01b3;
const FNV_32_START: u32 = 2_166_136_261;
const FNV_32_PRIME: u32 = 16_777_619;

/// Of the originals only one at a time reads `char`, which is signed on the machines Dynomite ran
/// on.
fn signed(byte: u8) -> u32 {
    i32::from(byte.cast_signed()).cast_unsigned()
}

#[allow(clippy::cast_possible_truncation)]
fn low(number: u64) -> u32 {
    number as u32
}

pub(super) fn one_at_a_time(key: &[u8]) -> u32 {
    let mut h = 0_u32;
    for byte in key {
        h = h.wrapping_add(signed(*byte));
        h = h.wrapping_add(h << 10);
        h ^= h >> 6;
    }
    h = h.wrapping_add(h << 3);
    h ^= h >> 11;
    h.wrapping_add(h << 15)
}

pub(super) fn fnv1_64(key: &[u8]) -> u32 {
    low(key.iter().fold(FNV_64_START, |h, byte| {
        h.wrapping_mul(FNV_64_PRIME) ^ u64::from(*byte)
    }))
}

pub(super) fn fnv1a_64(key: &[u8]) -> u32 {
    key.iter().fold(low(FNV_64_START), |h, byte| {
        (h ^ u32::from(*byte)).wrapping_mul(low(FNV_64_PRIME))
    })
}

pub(super) fn fnv1_32(key: &[u8]) -> u32 {
    key.iter().fold(FNV_32_START, |h, byte| {
        h.wrapping_mul(FNV_32_PRIME) ^ u32::from(*byte)
    })
}

pub(super) fn fnv1a_32(key: &[u8]) -> u32 {
    key.iter().fold(FNV_32_START, |h, byte| {
        (h ^ u32::from(*byte)).wrapping_mul(FNV_32_PRIME)
    })
}

fn pair(bytes: &[u8]) -> u32 {
    u32::from(u16::from_le_bytes([bytes[0], bytes[1]]))
}

pub(super) fn hsieh(key: &[u8]) -> u32 {
    let mut h = 0_u32;
    let mut words = key.chunks_exact(4);
    for word in &mut words {
        h = h.wrapping_add(pair(word));
        h = (h << 16) ^ ((pair(&word[2..]) << 11) ^ h);
        h = h.wrapping_add(h >> 11);
    }
    match words.remainder() {
        tail @ [_, _, third] => {
            h = h.wrapping_add(pair(tail));
            h ^= h << 16;
            h ^= u32::from(*third) << 18;
            h = h.wrapping_add(h >> 11);
        }
        tail @ [_, _] => {
            h = h.wrapping_add(pair(tail));
            h ^= h << 11;
            h = h.wrapping_add(h >> 17);
        }
        [byte] => {
            h = h.wrapping_add(u32::from(*byte));
            h ^= h << 10;
            h = h.wrapping_add(h >> 1);
        }
        _ => {}
    }
    if key.is_empty() {
        return 0;
    }
    h ^= h << 3;
    h = h.wrapping_add(h >> 5);
    h ^= h << 4;
    h = h.wrapping_add(h >> 17);
    h ^= h << 25;
    h.wrapping_add(h >> 6)
}

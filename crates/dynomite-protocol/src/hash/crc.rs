//! The two checksums, computed from their polynomials.

const fn table16() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0_u32;
    while index < 256 {
        let mut crc = index << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            };
            bit += 1;
        }
        table[index as usize] = crc & 0xffff;
        index += 1;
    }
    table
}

const fn table32() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0_u32;
    while index < 256 {
        let mut crc = index;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 0 {
                crc >> 1
            } else {
                (crc >> 1) ^ 0xedb8_8320
            };
            bit += 1;
        }
        table[index as usize] = crc;
        index += 1;
    }
    table
}

static TABLE_16: [u32; 256] = table16();
static TABLE_32: [u32; 256] = table32();

/// The accumulator is never cut to 16 bits; rings are laid out by that.
pub(super) fn crc16(key: &[u8]) -> u32 {
    key.iter().fold(0, |crc: u32, byte| {
        (crc << 8) ^ TABLE_16[(((crc >> 8) ^ u32::from(*byte)) & 0xff) as usize]
    })
}

pub(super) fn crc32(key: &[u8]) -> u32 {
    !key.iter().fold(u32::MAX, |crc, byte| {
        (crc >> 8) ^ TABLE_32[((crc ^ u32::from(*byte)) & 0xff) as usize]
    })
}

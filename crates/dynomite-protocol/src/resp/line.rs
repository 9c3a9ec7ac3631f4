//! Lines that end in CR LF, and the numbers in them.

use super::ProtocolError;

/// Where a line ends: the range of its text is `start..end`, the next one begins at `next`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) end: usize,
    pub(super) next: usize,
}

/// Finds the line that begins at `start`; `None` when its end has not arrived.
pub(super) fn find(
    bytes: &[u8],
    start: usize,
    max: usize,
    too_long: &ProtocolError,
) -> Result<Option<Line>, ProtocolError> {
    let window = &bytes[start..bytes.len().min(start + max)];
    match window.iter().position(|&byte| byte == b'\r') {
        Some(length) => match bytes.get(start + length + 1) {
            Some(b'\n') => Ok(Some(Line {
                end: start + length,
                next: start + length + 2,
            })),
            Some(_) => Err(ProtocolError::MissingEnd),
            None => Ok(None),
        },
        None if window.len() == max => Err(too_long.clone()),
        None => Ok(None),
    }
}

/// Reads a decimal number with an optional minus; nothing else is allowed.
pub(super) fn number(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    let mut value = 0_i64;
    for &byte in digits {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_sub(i64::from(byte - b'0'))?;
    }
    if negative {
        Some(value)
    } else {
        value.checked_neg()
    }
}

//! Writers of replies and requests.

use bytes::{BufMut, Bytes, BytesMut};

fn header(out: &mut BytesMut, kind: u8, number: i64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.put_u8(kind);
    if number < 0 {
        out.put_u8(b'-');
    }
    out.put_slice(&digits[at..]);
    out.put_slice(b"\r\n");
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// Appends the head of an array of `length` elements.
pub fn array(out: &mut BytesMut, length: usize) {
    header(out, b'*', count(length));
}

/// Appends a bulk string.
pub fn bulk(out: &mut BytesMut, bytes: &[u8]) {
    header(out, b'$', count(bytes.len()));
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

/// Appends an integer.
pub fn integer(out: &mut BytesMut, number: i64) {
    header(out, b':', number);
}

/// An integer reply.
pub fn integer_reply(number: i64) -> Bytes {
    let mut out = BytesMut::with_capacity(16);
    integer(&mut out, number);
    out.freeze()
}

/// A bulk string reply.
pub fn bulk_reply(bytes: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(bytes.len() + 16);
    bulk(&mut out, bytes);
    out.freeze()
}

/// A status reply. CR and LF in the text become blanks, so that a text taken from outside cannot
/// forge a second reply.
pub fn status_reply(text: &str) -> Bytes {
    line(b'+', text)
}

/// An error reply; `text` begins with its code, such as `ERR`.
pub fn error_reply(text: &str) -> Bytes {
    line(b'-', text)
}

fn line(kind: u8, text: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(text.len() + 3);
    out.put_u8(kind);
    for byte in text.bytes() {
        out.put_u8(if matches!(byte, b'\r' | b'\n') {
            b' '
        } else {
            byte
        });
    }
    out.put_slice(b"\r\n");
    out.freeze()
}

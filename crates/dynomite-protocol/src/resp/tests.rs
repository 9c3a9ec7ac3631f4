use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::limits::Limits;

fn parse_all(chunks: &[&[u8]], limits: &Limits) -> Result<Vec<Request>, ProtocolError> {
    let mut parser = RequestParser::default();
    let mut buffer = BytesMut::new();
    let mut found = Vec::new();
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        while let Some(request) = parser.parse(&mut buffer, limits)? {
            found.push(request);
        }
    }
    Ok(found)
}

fn words(request: &Request) -> Vec<Vec<u8>> {
    request.args_from(0).map(<[u8]>::to_vec).collect()
}

const STREAM: &[u8] =
    b"*3\r\n$3\r\nSET\r\n$3\r\nfoo\r\n$0\r\n\r\nPING  hi\r\n*0\r\n\r\n*1\r\n$4\r\nPING\r\n";

#[test]
fn requests_are_found_however_the_stream_is_cut() {
    let whole = parse_all(&[STREAM], &Limits::REQUEST).unwrap();
    assert_eq!(whole.len(), 3);
    assert_eq!(words(&whole[0]), [b"SET".to_vec(), b"foo".to_vec(), vec![]]);
    assert_eq!(words(&whole[1]), [b"PING".to_vec(), b"hi".to_vec()]);
    assert_eq!(whole[1].raw().as_ref(), b"*2\r\n$4\r\nPING\r\n$2\r\nhi\r\n");
    for cut in 0..STREAM.len() {
        let (first, second) = STREAM.split_at(cut);
        assert_eq!(
            parse_all(&[first, second], &Limits::REQUEST).unwrap(),
            whole,
            "cut at {cut}"
        );
    }
    let single: Vec<&[u8]> = STREAM.chunks(1).collect();
    assert_eq!(parse_all(&single, &Limits::REQUEST).unwrap(), whole);
}

#[test]
fn what_is_no_request_is_named() {
    let table: &[(&[u8], ProtocolError)] = &[
        (b"*x\r\n", ProtocolError::ArrayLength),
        (b"*1048577\r\n", ProtocolError::ArrayLength),
        (b"*99999999999999999999\r\n", ProtocolError::ArrayLength),
        (b"*1\r\n+PING\r\n", ProtocolError::ExpectedBulk('+')),
        (b"*1\r\n$-1\r\n", ProtocolError::BulkLength),
        (b"*1\r\n$9999999999\r\n", ProtocolError::BulkLength),
        (b"*1\r\n$ 4\r\nPING\r\n", ProtocolError::BulkLength),
        (b"*1\r\n$4\r\nPINGxx", ProtocolError::MissingEnd),
        (b"*1\r\r", ProtocolError::MissingEnd),
        (
            b"*11111111111111111111111111111111111111",
            ProtocolError::LengthLine,
        ),
    ];
    for (bytes, expected) in table {
        assert_eq!(
            parse_all(&[bytes], &Limits::REQUEST),
            Err(expected.clone()),
            "{bytes:?}"
        );
    }
    let endless = vec![b'x'; crate::limits::MAX_LINE];
    assert_eq!(
        parse_all(&[&endless], &Limits::REQUEST),
        Err(ProtocolError::LineTooLong)
    );
}

#[test]
fn a_request_above_the_limit_is_refused_before_it_arrives() {
    let limits = Limits {
        max_bytes: 64,
        max_args: 4,
    };
    assert_eq!(
        parse_all(&[b"*1\r\n$65\r\n"], &limits),
        Err(ProtocolError::BulkLength)
    );
    assert_eq!(
        parse_all(
            &[b"*2\r\n$40\r\n0123456789012345678901234567890123456789\r\n$20\r\n"],
            &limits
        ),
        Err(ProtocolError::TooLarge(64))
    );
    assert_eq!(
        parse_all(&[b"*5\r\n"], &limits),
        Err(ProtocolError::ArrayLength)
    );
}

fn replies(chunks: &[&[u8]]) -> Result<Vec<Bytes>, ProtocolError> {
    let mut parser = ReplyParser::default();
    let mut buffer = BytesMut::new();
    let mut found = Vec::new();
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        while let Some(reply) = parser.parse(&mut buffer, &Limits::REPLY)? {
            found.push(reply);
        }
    }
    Ok(found)
}

#[test]
fn replies_are_found_however_the_stream_is_cut() {
    let stream: &[u8] = b"+OK\r\n:-5\r\n$-1\r\n$2\r\n\r\n\r\n*-1\r\n*0\r\n\
        *2\r\n*2\r\n$1\r\na\r\n:1\r\n*0\r\n-ERR no\r\n";
    let expected: Vec<&[u8]> = vec![
        b"+OK\r\n",
        b":-5\r\n",
        b"$-1\r\n",
        b"$2\r\n\r\n\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"*2\r\n*2\r\n$1\r\na\r\n:1\r\n*0\r\n",
        b"-ERR no\r\n",
    ];
    for cut in 0..stream.len() {
        let (first, second) = stream.split_at(cut);
        assert_eq!(replies(&[first, second]).unwrap(), expected, "cut at {cut}");
    }
    let single: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(replies(&single).unwrap(), expected);
}

#[test]
fn what_is_no_reply_is_refused() {
    for bytes in [
        &b"hello\r\n"[..],
        b"%1\r\n",
        b"$-2\r\n",
        b"*-2\r\n",
        b":x\r\n",
        b"$1\r\nabc\r\n",
        b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
    ] {
        assert!(replies(&[bytes]).is_err(), "{bytes:?}");
    }
}

#[test]
fn a_reply_can_be_looked_into() {
    let reply = Bytes::from_static(b"*3\r\n$1\r\na\r\n*1\r\n:1\r\n$-1\r\n");
    let elements = reply::elements(&reply).unwrap();
    assert_eq!(elements, [&b"$1\r\na\r\n"[..], b"*1\r\n:1\r\n", b"$-1\r\n"]);
    assert_eq!(reply::integer(b":-12\r\n"), Some(-12));
    assert_eq!(reply::integer(b"+OK\r\n"), None);
    assert_eq!(reply::elements(&Bytes::from_static(b"*-1\r\n")), None);
}

#[test]
fn an_error_text_cannot_forge_a_second_reply() {
    assert_eq!(
        write::error_reply("ERR a\r\n+OK").as_ref(),
        b"-ERR a  +OK\r\n"
    );
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(args in prop::collection::vec(
        prop::collection::vec(any::<u8>(), 0..40), 1..12), cut in any::<prop::sample::Index>())
    {
        let request = Request::from_args(&args);
        let bytes = request.raw().clone();
        let (first, second) = bytes.split_at(cut.index(bytes.len()));
        let found = parse_all(&[first, second], &Limits::REQUEST).unwrap();
        prop_assert_eq!(&found[..], &[request][..]);
        prop_assert_eq!(words(&found[0]), args);
    }

    #[test]
    fn no_bytes_make_a_parser_fail_to_return(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_all(&[&bytes], &Limits::REQUEST);
        let _ = replies(&[&bytes]);
    }

    #[test]
    fn bytes_that_look_like_resp_make_no_parser_fail(
        bytes in prop::collection::vec(prop::sample::select(b"*$:+-\r\n0123456789a".to_vec()), 0..80))
    {
        let _ = parse_all(&[&bytes], &Limits::REQUEST);
        let _ = replies(&[&bytes]);
    }
}

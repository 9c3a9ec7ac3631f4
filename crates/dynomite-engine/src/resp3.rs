//! Answers in RESP3, for clients that asked for it: the stores speak RESP2, and what RESP3 says
//! by types must be said again here.

use bytes::{Bytes, BytesMut};
use dynomite_protocol::resp::{Request, reply, write};

/// What an answer is in RESP3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The same, but for nulls.
    Plain,
    /// A flat list of names and values: a map.
    Map,
    /// A list of pairs: a map.
    MapOfPairs,
    /// A list without an order: a set.
    Set,
    /// A number in a string: a double.
    Double,
    /// A list of those.
    Doubles,
    /// Two elements, the second a double.
    SecondDouble,
    /// A flat list of members and scores: pairs with a double.
    ScoredPairs,
    /// A flat list of names and values: pairs.
    Pairs,
    /// A key, and pairs of member and score.
    KeyAndScoredPairs,
}

fn has(request: &Request, word: &[u8]) -> bool {
    request
        .args_from(2)
        .any(|arg| arg.eq_ignore_ascii_case(word))
}

/// What the answer to a request is.
pub(crate) fn shape_of(request: &Request) -> Shape {
    let name = request.arg(0).to_ascii_lowercase();
    let if_word = |word: &[u8], shape| {
        if has(request, word) {
            shape
        } else {
            Shape::Plain
        }
    };
    match name.as_slice() {
        b"hgetall" | b"hello" | b"config" => Shape::Map,
        b"command" if request.arg(1).eq_ignore_ascii_case(b"docs") => Shape::Map,
        b"xread" => Shape::MapOfPairs,
        b"smembers" | b"sinter" | b"sunion" | b"sdiff" => Shape::Set,
        b"spop" if request.len() > 2 => Shape::Set,
        b"zscore" | b"zincrby" => Shape::Double,
        b"zadd" => if_word(b"incr", Shape::Double),
        b"zmscore" => Shape::Doubles,
        b"zrank" | b"zrevrank" => if_word(b"withscore", Shape::SecondDouble),
        b"zpopmin" | b"zpopmax" if request.len() == 2 => Shape::SecondDouble,
        b"zpopmin" | b"zpopmax" => Shape::ScoredPairs,
        b"zrange" | b"zrevrange" | b"zrangebyscore" | b"zrevrangebyscore" | b"zinter"
        | b"zunion" | b"zdiff" | b"zrandmember" => if_word(b"withscores", Shape::ScoredPairs),
        b"zmpop" => Shape::KeyAndScoredPairs,
        b"hrandfield" => if_word(b"withvalues", Shape::Pairs),
        _ => Shape::Plain,
    }
}

/// The answer as RESP3. One that does not have the expected shape (an error, a null) only has its
/// nulls rewritten.
pub(crate) fn convert(answer: &Bytes, shape: Shape) -> Bytes {
    let mut out = BytesMut::with_capacity(answer.len() + 16);
    if shaped(&mut out, answer, shape).is_none() {
        out.clear();
        if !has_null(answer) {
            return answer.clone();
        }
        plain(&mut out, answer);
    }
    out.freeze()
}

fn has_null(answer: &[u8]) -> bool {
    answer
        .windows(5)
        .any(|window| window == b"$-1\r\n" || window == b"*-1\r\n")
}

fn plain(out: &mut BytesMut, answer: &Bytes) {
    match answer.as_ref() {
        b"$-1\r\n" | b"*-1\r\n" => out.extend_from_slice(b"_\r\n"),
        _ => match reply::elements(answer) {
            None => out.extend_from_slice(answer),
            Some(elements) => {
                write::array(out, elements.len());
                for element in &elements {
                    plain(out, element);
                }
            }
        },
    }
}

/// Writes an aggregate's head under another type.
fn head(out: &mut BytesMut, kind: u8, length: usize) {
    let start = out.len();
    write::array(out, length);
    out[start] = kind;
}

/// Writes a number that stands in a string as a double.
fn double(out: &mut BytesMut, element: &Bytes) -> Option<()> {
    if element.as_ref() == b"$-1\r\n" {
        out.extend_from_slice(b"_\r\n");
        return Some(());
    }
    let text = element.strip_prefix(b"$")?;
    let start = 1 + text.iter().position(|&byte| byte == b'\n')?;
    out.extend_from_slice(b",");
    out.extend_from_slice(&text[start..]);
    Some(())
}

fn shaped(out: &mut BytesMut, answer: &Bytes, shape: Shape) -> Option<()> {
    match shape {
        Shape::Plain => return None,
        Shape::Double => return double(out, answer),
        _ => {}
    }
    let elements = reply::elements(answer)?;
    match shape {
        Shape::Map => {
            head(out, b'%', elements.len() / 2);
            for element in &elements {
                plain(out, element);
            }
        }
        Shape::MapOfPairs => {
            head(out, b'%', elements.len());
            for pair in &elements {
                for element in &reply::elements(pair)? {
                    plain(out, element);
                }
            }
        }
        Shape::Set => {
            head(out, b'~', elements.len());
            for element in &elements {
                plain(out, element);
            }
        }
        Shape::Doubles => {
            write::array(out, elements.len());
            for element in &elements {
                double(out, element)?;
            }
        }
        Shape::SecondDouble => {
            write::array(out, elements.len());
            if let [first, second] = &elements[..] {
                plain(out, first);
                double(out, second)?;
            }
        }
        Shape::ScoredPairs => pairs(out, &elements, true)?,
        Shape::Pairs => pairs(out, &elements, false)?,
        Shape::KeyAndScoredPairs => {
            let [key, members] = &elements[..] else {
                return None;
            };
            write::array(out, 2);
            plain(out, key);
            let members = reply::elements(members)?;
            write::array(out, members.len());
            for member in &members {
                shaped(out, member, Shape::SecondDouble)?;
            }
        }
        Shape::Plain | Shape::Double => return None,
    }
    Some(())
}

fn pairs(out: &mut BytesMut, elements: &[Bytes], scored: bool) -> Option<()> {
    write::array(out, elements.len() / 2);
    for pair in elements.chunks_exact(2) {
        write::array(out, 2);
        plain(out, &pair[0]);
        if scored {
            double(out, &pair[1])?;
        } else {
            plain(out, &pair[1]);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(words: &str, answer: &'static str) -> String {
        let words: Vec<&str> = words.split(' ').collect();
        let shape = shape_of(&Request::from_args(&words));
        let answer = Bytes::from_static(answer.as_bytes());
        String::from_utf8(convert(&answer, shape).to_vec()).unwrap()
    }

    #[test]
    fn answers_get_the_types_redis_gives_them() {
        for (words, resp2, resp3) in [
            ("GET k", "$1\r\nv\r\n", "$1\r\nv\r\n"),
            ("GET k", "$-1\r\n", "_\r\n"),
            ("GET k", "-ERR x\r\n", "-ERR x\r\n"),
            (
                "MGET a b",
                "*2\r\n$-1\r\n$1\r\nv\r\n",
                "*2\r\n_\r\n$1\r\nv\r\n",
            ),
            ("LPOP k 2", "*-1\r\n", "_\r\n"),
            (
                "HGETALL k",
                "*2\r\n$1\r\nf\r\n$1\r\nv\r\n",
                "%1\r\n$1\r\nf\r\n$1\r\nv\r\n",
            ),
            ("hgetall k", "*0\r\n", "%0\r\n"),
            ("HGETALL k", "-WRONGTYPE x\r\n", "-WRONGTYPE x\r\n"),
            ("SMEMBERS k", "*1\r\n$1\r\na\r\n", "~1\r\n$1\r\na\r\n"),
            ("SPOP k", "$1\r\na\r\n", "$1\r\na\r\n"),
            ("SPOP k 1", "*1\r\n$1\r\na\r\n", "~1\r\n$1\r\na\r\n"),
            ("ZSCORE k m", "$3\r\n1.5\r\n", ",1.5\r\n"),
            ("ZSCORE k m", "$-1\r\n", "_\r\n"),
            ("ZADD k INCR 1 m", "$1\r\n2\r\n", ",2\r\n"),
            ("ZADD k 1 m", ":1\r\n", ":1\r\n"),
            (
                "ZMSCORE k a b",
                "*2\r\n$1\r\n1\r\n$-1\r\n",
                "*2\r\n,1\r\n_\r\n",
            ),
            ("ZRANGE k 0 -1", "*1\r\n$1\r\na\r\n", "*1\r\n$1\r\na\r\n"),
            (
                "ZRANGE k 0 -1 WITHSCORES",
                "*2\r\n$1\r\na\r\n$1\r\n1\r\n",
                "*1\r\n*2\r\n$1\r\na\r\n,1\r\n",
            ),
            (
                "ZPOPMIN k",
                "*2\r\n$1\r\na\r\n$1\r\n1\r\n",
                "*2\r\n$1\r\na\r\n,1\r\n",
            ),
            ("ZPOPMIN k", "*0\r\n", "*0\r\n"),
            (
                "ZPOPMIN k 1",
                "*2\r\n$1\r\na\r\n$1\r\n1\r\n",
                "*1\r\n*2\r\n$1\r\na\r\n,1\r\n",
            ),
            (
                "ZMPOP 1 k MIN",
                "*2\r\n$1\r\nk\r\n*1\r\n*2\r\n$1\r\na\r\n$1\r\n1\r\n",
                "*2\r\n$1\r\nk\r\n*1\r\n*2\r\n$1\r\na\r\n,1\r\n",
            ),
            ("ZMPOP 1 k MIN", "*-1\r\n", "_\r\n"),
            (
                "HRANDFIELD k 1 WITHVALUES",
                "*2\r\n$1\r\nf\r\n$1\r\nv\r\n",
                "*1\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n",
            ),
            (
                "XREAD STREAMS s 0",
                "*1\r\n*2\r\n$1\r\ns\r\n*0\r\n",
                "%1\r\n$1\r\ns\r\n*0\r\n",
            ),
        ] {
            assert_eq!(converted(words, resp2), resp3, "{words}");
        }
    }
}

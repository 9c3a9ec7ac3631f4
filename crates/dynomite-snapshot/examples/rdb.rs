//! Verifies an RDB, or copies the keys of one token, as the sidecar does it; for measuring and for
//! looking at a file.
//!
//! ```text
//! rdb verify < dump.rdb
//! rdb filter TOKEN TOKENS < dump.rdb > part.rdb      TOKENS: of the rack, with commas between
//! ```

use std::io::{Read, Write, stdin, stdout};
use std::time::Instant;

use dynomite_protocol::hash::Placement;
use dynomite_protocol::token::Token;
use dynomite_snapshot::filter::Filter;
use dynomite_snapshot::ownership::Ownership;
use dynomite_snapshot::rdb::Verifier;
use jiff::Timestamp;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let begin = Instant::now();
    let bytes = match arguments[..] {
        ["verify"] => verify()?,
        ["filter", token, tokens] => filter(token, tokens)?,
        _ => return Err("rdb verify < FILE, or rdb filter TOKEN TOKENS < FILE > FILE".into()),
    };
    let seconds = begin.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = bytes as f64 / seconds / 1e6;
    eprintln!("{bytes} bytes in {seconds:.2} s, {rate:.0} MB/s");
    Ok(())
}

fn verify() -> Result<u64, Failure> {
    let mut verifier = Verifier::new(Timestamp::now());
    pieces(|piece| Ok(verifier.update(piece)?))?;
    let summary = verifier.finish()?;
    eprintln!("{summary:#?}");
    Ok(summary.bytes)
}

fn filter(token: &str, tokens: &str) -> Result<u64, Failure> {
    let tokens: Vec<Token> = tokens
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let target = Ownership::new(&tokens, token.parse()?);
    let mut filter = Filter::new(Placement::default(), target, None, Timestamp::now());
    let mut out = Vec::new();
    let mut bytes = 0;
    pieces(|piece| {
        bytes += piece.len() as u64;
        filter.push(piece, &mut out)?;
        stdout().write_all(&out)?;
        out.clear();
        Ok(())
    })?;
    let filtered = filter.finish(&mut out)?;
    stdout().write_all(&out)?;
    eprintln!("{filtered:#?}");
    Ok(bytes)
}

fn pieces(mut take: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match stdin().read(&mut buffer)? {
            0 => return Ok(()),
            length => take(&buffer[..length])?,
        }
    }
}

//! A place on the ring: an unsigned 32-bit number.

use std::fmt;
use std::str::FromStr;

/// A token: where a key hashes to, and where the range of a node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Token(pub u32);

/// Why a text is not a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("token `{text}` is not a whole number from 0 to 4294967295")]
pub struct InvalidToken {
    text: String,
}

impl FromStr for Token {
    type Err = InvalidToken;

    /// Reads unsigned decimal digits only. The C engine folds what it cannot read to 0 or to a
    /// neighbour, which silently gives two nodes one token; so anything else is refused here.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits => Ok(Self(number)),
            _ => Err(InvalidToken {
                text: text.chars().take(40).collect(),
            }),
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_numbers_of_32_bits_are_tokens() {
        assert_eq!("0".parse(), Ok(Token(0)));
        assert_eq!("4294967295".parse(), Ok(Token(u32::MAX)));
        for wrong in [
            "",
            "-5",
            "+5",
            "abc",
            "4294967296",
            " 1",
            "1,2",
            "0x1",
            "1.0",
        ] {
            assert!(wrong.parse::<Token>().is_err(), "{wrong}");
        }
    }
}

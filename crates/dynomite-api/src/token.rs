//! A position on the ring, and the formula that spreads the nodes of a rack over it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A position on Dynomite's ring: an unsigned 32-bit number.
///
/// The node with the smallest token at or above a key's hash owns the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(pub u32);

/// The size of the token space that the formula divides, `2^32 - 1`, as in Dynomite-manager.
const SPACE: u64 = u32::MAX as u64;

/// Where Dynomite-manager begins its rings: the absolute Java hash of "etimonyD".
const OFFSET: u64 = 1_383_429_731;

/// Why a text is not a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenError {
    /// The text that was given.
    pub text: String,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a token: give a whole number from 0 to {}",
            self.text,
            u32::MAX
        )
    }
}

impl std::error::Error for TokenError {}

impl Token {
    /// The token of node `index` in a rack of `nodes`, spread evenly.
    ///
    /// This is Dynomite-manager's formula
    /// `(floor((2^32-1) / nodes) * index + 1383429731) mod (2^32-1)`, so a ring
    /// that it ran can move over with its data. Returns `None` when `nodes` is
    /// zero or `index` is not below it.
    pub fn evenly_spread(index: u32, nodes: u32) -> Option<Self> {
        if index >= nodes {
            return None;
        }
        let position = (SPACE / u64::from(nodes) * u64::from(index) + OFFSET) % SPACE;
        u32::try_from(position).ok().map(Self)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(value) if digits => Ok(Self(value)),
            _ => Err(TokenError {
                text: text.to_owned(),
            }),
        }
    }
}

#[cfg(feature = "crd")]
impl schemars::JsonSchema for Token {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Token".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "integer",
            "format": "int64",
            "minimum": 0,
            "maximum": u32::MAX,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of Dynomite-manager itself, for rings of 1, 2, 3, 4 and 6.
    #[test]
    fn formula_gives_the_tokens_of_dynomite_manager() {
        let table: &[(u32, &[u32])] = &[
            (1, &[1_383_429_731]),
            (2, &[1_383_429_731, 3_530_913_378]),
            (3, &[1_383_429_731, 2_815_085_496, 4_246_741_261]),
            (
                4,
                &[1_383_429_731, 2_457_171_554, 3_530_913_377, 309_687_905],
            ),
            (
                6,
                &[
                    1_383_429_731,
                    2_099_257_613,
                    2_815_085_495,
                    3_530_913_377,
                    4_246_741_259,
                    667_601_846,
                ],
            ),
        ];
        for (nodes, expected) in table {
            let got: Vec<u32> = (0..*nodes)
                .map(|i| {
                    Token::evenly_spread(i, *nodes)
                        .expect("index below nodes")
                        .0
                })
                .collect();
            assert_eq!(&got, expected, "ring of {nodes}");
        }
        assert_eq!(Token::evenly_spread(0, 0), None);
        assert_eq!(Token::evenly_spread(3, 3), None);
    }

    #[test]
    fn text_is_refused_unless_it_is_a_plain_u32() {
        for bad in ["", "-5", "+5", "abc", "4294967296", " 1", "0x10"] {
            assert!(bad.parse::<Token>().is_err(), "{bad:?}");
        }
        assert_eq!("4294967295".parse(), Ok(Token(u32::MAX)));
        assert_eq!("0".parse(), Ok(Token(0)));
    }
}

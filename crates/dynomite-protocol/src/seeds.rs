//! Seeds: the other nodes of a ring, one `host:port:rack:datacenter:token` each.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::limits::{MAX_SEEDS, MAX_SEEDS_LIST};
use crate::token::{InvalidToken, Token};

/// A node as its peers know it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seed {
    /// Address or host name, an IPv6 address without its brackets.
    pub host: String,
    /// Peer port.
    pub port: u16,
    /// Rack.
    pub rack: String,
    /// Datacenter.
    pub datacenter: String,
    /// The one token of the node.
    pub token: Token,
}

/// Why a text is not a seed or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSeed {
    /// Fields are missing.
    #[error("seed `{0}` is not host:port:rack:datacenter:token")]
    Shape(String),
    /// The host has characters that no host has.
    #[error("seed `{0}` has no usable host; IPv6 addresses stand in brackets")]
    Host(String),
    /// The port is not from 1 to 65535.
    #[error("seed `{0}` has no usable port")]
    Port(String),
    /// Rack or datacenter is empty or has a blank.
    #[error("seed `{0}` has no usable rack or datacenter name")]
    Name(String),
    /// Several tokens, or none.
    #[error("seed `{seed}`: {why} (a node has exactly one token)")]
    Token {
        /// The whole seed.
        seed: String,
        /// What is wrong with the token.
        why: InvalidToken,
    },
    /// The list is larger than any ring.
    #[error("seeds list has more than {MAX_SEEDS} entries or {MAX_SEEDS_LIST} bytes")]
    TooMany,
    /// Two nodes at one place.
    #[error("seeds list has two nodes with token {token} in rack {rack} of {datacenter}")]
    Duplicate {
        /// Their datacenter.
        datacenter: String,
        /// Their rack.
        rack: String,
        /// Their token.
        token: Token,
    },
}

impl FromStr for Seed {
    type Err = InvalidSeed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || text.chars().take(120).collect::<String>();
        let mut fields = text.rsplitn(5, ':');
        let (Some(token), Some(datacenter), Some(rack), Some(port), Some(host)) = (
            fields.next(),
            fields.next(),
            fields.next(),
            fields.next(),
            fields.next(),
        ) else {
            return Err(InvalidSeed::Shape(shown()));
        };
        let host = host_name(host).ok_or_else(|| InvalidSeed::Host(shown()))?;
        let port = port.parse().ok().filter(|&port| port > 0);
        let name = |name: &str| {
            !name.is_empty()
                && !name
                    .chars()
                    .any(|c| c.is_whitespace() || c.is_control() || c == '|')
        };
        if !name(rack) || !name(datacenter) {
            return Err(InvalidSeed::Name(shown()));
        }
        Ok(Self {
            host: host.to_owned(),
            port: port.ok_or_else(|| InvalidSeed::Port(shown()))?,
            rack: rack.to_owned(),
            datacenter: datacenter.to_owned(),
            token: token
                .parse()
                .map_err(|why| InvalidSeed::Token { seed: shown(), why })?,
        })
    }
}

/// A host without brackets, if it can be one.
pub(crate) fn host_name(text: &str) -> Option<&str> {
    if let Some(inner) = text.strip_prefix('[') {
        let inner = inner.strip_suffix(']')?;
        return inner.parse::<Ipv6Addr>().is_ok().then_some(inner);
    }
    let plain = !text.is_empty()
        && text.len() <= 253
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    (plain || text.parse::<Ipv6Addr>().is_ok()).then_some(text)
}

/// Shows a host and port, IPv6 addresses in brackets.
pub fn endpoint(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = endpoint(&self.host, self.port);
        write!(
            f,
            "{endpoint}:{}:{}:{}",
            self.rack, self.datacenter, self.token
        )
    }
}

/// Reads a list as seeds providers give it: seeds joined by `|`. Line ends around it do not
/// count, and an empty text is an empty list. One bad entry refuses the whole list, because half a
/// ring must not be taken for the ring.
pub fn parse_list(text: &str) -> Result<Vec<Seed>, InvalidSeed> {
    if text.len() > MAX_SEEDS_LIST {
        return Err(InvalidSeed::TooMany);
    }
    let seeds: Vec<Seed> = text
        .split('|')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    check_list(&seeds)?;
    Ok(seeds)
}

/// Refuses lists with two nodes at one place of the ring.
pub fn check_list(seeds: &[Seed]) -> Result<(), InvalidSeed> {
    if seeds.len() > MAX_SEEDS {
        return Err(InvalidSeed::TooMany);
    }
    let mut places = std::collections::HashSet::new();
    for seed in seeds {
        if !places.insert((&seed.datacenter, &seed.rack, seed.token)) {
            return Err(InvalidSeed::Duplicate {
                datacenter: seed.datacenter.clone(),
                rack: seed.rack.clone(),
                token: seed.token,
            });
        }
    }
    Ok(())
}

/// Writes a list as seeds providers give it.
pub fn print_list(seeds: &[Seed]) -> String {
    let entries: Vec<String> = seeds.iter().map(Seed::to_string).collect();
    entries.join("|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_read_by_address_and_by_name() {
        for (text, host) in [
            ("10.0.0.1:8101:rack1:dc1:437425602", "10.0.0.1"),
            ("[fd00::7]:8101:rack1:dc1:437425602", "fd00::7"),
            (
                "ring-dc1-a-0.ring-nodes.ns.svc.cluster.local:8101:rack1:dc1:437425602",
                "ring-dc1-a-0.ring-nodes.ns.svc.cluster.local",
            ),
        ] {
            let seed: Seed = text.parse().unwrap();
            assert_eq!(seed.host, host);
            assert_eq!(
                (seed.port, seed.rack.as_str(), seed.datacenter.as_str()),
                (8101, "rack1", "dc1")
            );
            assert_eq!(seed.token, Token(437_425_602));
            assert_eq!(seed.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_seed_is_refused() {
        for wrong in [
            "10.0.0.1:8101:rack1:dc1",
            ":8101:rack1:dc1:1",
            "10.0.0.1:0:rack1:dc1:1",
            "10.0.0.1:65536:rack1:dc1:1",
            "10.0.0.1:8101::dc1:1",
            "10.0.0.1:8101:rack 1:dc1:1",
            "10.0.0.1:8101:rack1:dc1:1,2",
            "10.0.0.1:8101:rack1:dc1:4294967296",
            "[10.0.0.1]:8101:rack1:dc1:1",
            "ho st:8101:rack1:dc1:1",
        ] {
            assert!(wrong.parse::<Seed>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_list_is_whole_or_refused() {
        let list = "a:1:r1:d:1|b:1:r2:d:1|c:1:r1:e:1";
        let seeds = parse_list(&format!("{list}\r\n")).unwrap();
        assert_eq!(seeds.len(), 3);
        assert_eq!(print_list(&seeds), list);
        assert_eq!(parse_list("\n").unwrap(), []);
        assert!(parse_list("a:1:r1:d:1|oops").is_err());
        assert!(matches!(
            parse_list("a:1:r1:d:1|b:1:r1:d:1"),
            Err(InvalidSeed::Duplicate { .. })
        ));
    }
}

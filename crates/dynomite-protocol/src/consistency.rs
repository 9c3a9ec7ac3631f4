//! Consistency levels and their names.

use std::fmt;
use std::str::FromStr;

/// How many replicas of the local datacenter must agree before a client gets its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// The owner in the local rack answers; the others get writes without being waited for.
    #[default]
    DcOne,
    /// More than half of the racks must answer without an error.
    DcQuorum,
    /// More than half of the racks must give the same answer.
    DcSafeQuorum,
}

/// Why a text names no usable level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown consistency `{0}`: use DC_ONE, DC_QUORUM or DC_SAFE_QUORUM")]
pub struct UnknownConsistency(String);

impl FromStr for Consistency {
    type Err = UnknownConsistency;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "dc_one" => Ok(Self::DcOne),
            "dc_quorum" => Ok(Self::DcQuorum),
            "dc_safe_quorum" => Ok(Self::DcSafeQuorum),
            _ => Err(UnknownConsistency(text.chars().take(40).collect())),
        }
    }
}

impl Consistency {
    /// The name as configuration files and the admin port write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::DcOne => "DC_ONE",
            Self::DcQuorum => "DC_QUORUM",
            Self::DcSafeQuorum => "DC_SAFE_QUORUM",
        }
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_any_case_and_written_in_capitals() {
        for level in [
            Consistency::DcOne,
            Consistency::DcQuorum,
            Consistency::DcSafeQuorum,
        ] {
            assert_eq!(level.name().parse(), Ok(level));
            assert_eq!(level.name().to_lowercase().parse(), Ok(level));
        }
        assert!("DC_EACH_SAFE_QUORUM".parse::<Consistency>().is_err());
    }
}

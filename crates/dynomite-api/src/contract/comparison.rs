//! The comparison of a token's replicas, key by key: what the operator orders, what nodes ask each other, what they found.

use std::fmt;

use jiff::Timestamp;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Donor;

/// How many keys one question may name.
pub const COMPARE_KEYS_MAX: usize = 256;

/// How many keys one replica is asked to bring level at once; each may cost it a
/// question to the others and a copy of a value.
pub const COMPARE_LEVEL_MAX: usize = 16;

/// The largest question or answer, bytes: keys as JSON writes them, or one value.
pub const COMPARE_BODY_MAX: usize = 4 << 20;

/// A word to the replicas of a token: one of them, the leader, compares all their
/// keys, and each brings its own store level with what the rule says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompareOrder {
    /// The pod this is for.
    pub pod_uid: String,
    /// Counts the comparisons of this token.
    pub round: u64,
    /// Of which incarnations of the replicas this is; another one is due when
    /// they are others.
    pub basis: String,
    /// The node that compares.
    pub leader: String,
    /// All replicas of the token, this node among them, in the order in which
    /// their values count where no majority agrees.
    pub replicas: Vec<Donor>,
    /// Whether differences are repaired, or only told.
    pub repair: bool,
}

/// What a node says of comparisons.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompareReport {
    /// The round of the order that the node holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordered: Option<u64>,
    /// The comparison that this node led last, or leads now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<CompareRound>,
    /// How many keys still differed when a comparison that this node led had gone
    /// through all of them; one that goes on does not take it back.
    #[serde(default)]
    pub left: u64,
    /// How many keys of its own store the node has repaired since its sidecar started.
    #[serde(default)]
    pub repaired_here: u64,
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompareRound {
    /// [`CompareOrder::round`].
    pub round: u64,
    /// [`CompareOrder::basis`].
    pub basis: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended, however it did; absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Why it ended early, one word and a sentence; absent when it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<Broken>,
    /// What was found.
    pub found: CompareTally,
}

/// Why something ended early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// One word, `CamelCase`.
    pub reason: String,
    /// The same for people.
    pub message: String,
}

/// Keys, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompareTally {
    /// Looked at.
    pub compared: u64,
    /// Not comparable: too large, about to expire, of a type nobody knows.
    pub skipped: u64,
    /// Different, and the same on every replica at two looks.
    pub different: u64,
    /// Replaced by the value that counts, or deleted; each replica that had
    /// another one counts.
    pub repaired: u64,
    /// Different and not repaired.
    pub left: u64,
    /// Whether the round ended before it had seen all keys, because so many differ.
    pub more: bool,
}

/// A question from one replica to another, as the body of `POST /v1/compare`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompareQuestion {
    /// The round that both have been told of.
    pub round: u64,
    /// What is asked.
    pub ask: CompareAsk,
}

/// What one replica asks another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CompareAsk {
    /// Some keys from a place in the store; the answer is [`CompareKeys`].
    Keys {
        /// `0` at first, then what the answer said.
        cursor: String,
    },
    /// What it has of these keys; the answer is a list of [`KeyVote`]s, which
    /// may be shorter: then ask again for the others.
    Votes {
        /// The keys.
        keys: Vec<Key>,
    },
    /// The value of a key, if it still is this one. The answer is what the
    /// store's `DUMP` gives, or 409.
    Value {
        /// The key.
        key: Key,
        /// What it was.
        is: KeyVote,
    },
    /// To look at these keys, and bring its own store level where it holds
    /// another value than the one that counts; the answer is a [`Leveled`].
    Level {
        /// The keys, with what the replicas had, in the order of
        /// [`CompareOrder::replicas`].
        keys: Vec<(Key, Vec<KeyVote>)>,
    },
}

/// Some keys of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompareKeys {
    /// From where to go on; `0` when these were the last.
    pub cursor: String,
    /// The keys.
    pub keys: Vec<Key>,
}

/// What came of an attempt to bring keys level.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leveled {
    /// Keys repaired.
    pub repaired: u64,
    /// Keys that are as they were: written meanwhile, or refused by the store.
    pub left: u64,
    /// Why the last of those was left; empty when none was.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// What a replica has of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum KeyVote {
    /// Nothing.
    Absent,
    /// Nothing, from a store that may have evicted it.
    Abstains,
    /// Something that cannot be compared now.
    Unknown,
    /// A value.
    Value {
        /// A digest of type and content, whatever their encoding.
        digest: String,
        /// When it expires, Unix time in milliseconds; absent: never.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<i64>,
    },
}

/// A key: any bytes. In JSON each byte is the character of that number, so that
/// what is text stays legible.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub Vec<u8>);

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = self.0.iter().map(|byte| char::from(*byte)).collect();
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("characters up to U+00FF, one for each byte")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Key, E> {
                let bytes = text.chars().map(u8::try_from).collect::<Result<_, _>>();
                bytes.map(Key).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_any_bytes_comes_back_and_text_stays_legible() {
        let all = Key((0..=255).collect());
        let json = serde_json::to_string(&all).expect("serialises");
        assert_eq!(serde_json::from_str::<Key>(&json).expect("reads"), all);
        let json = serde_json::to_string(&Key(b"user:1".to_vec())).expect("serialises");
        assert_eq!(json, "\"user:1\"");
        assert!(serde_json::from_str::<Key>("\"\u{2603}\"").is_err());
    }
}

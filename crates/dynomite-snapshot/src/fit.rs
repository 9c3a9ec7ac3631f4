//! Whether data can be restored onto a ring, and how: decided before anything is touched.
//!
//! | tokens of data and ring | what happens |
//! |---|---|
//! | the same | each node loads its token's snapshot |
//! | other tokens, or another number of nodes | each node loads the keys that it owns from all snapshots that have some |
//! | data without tokens: a file of any store | each node loads the keys that it owns |
//!
//! Racks do not matter: each holds all the data.

use std::collections::BTreeSet;
use std::fmt;

use dynomite_protocol::hash::Placement;
use dynomite_protocol::token::Token;

use crate::manifest::{Manifest, Snapshot};
use crate::ownership::Ownership;
use crate::rdb::Version;

/// The ring that is to have the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Tokens of each of its racks.
    pub tokens: Vec<Token>,
    /// How it places keys.
    pub placement: Placement,
    /// The newest format that its stores read.
    pub reads: Version,
    /// Only the nodes of these tokens; of all when empty.
    pub only: BTreeSet<Token>,
    /// Memory of one store.
    pub memory: Room,
    /// Room on the disk of one node beside the live data. A node without disk stages nothing:
    /// [`Room::Unlimited`].
    pub disk: Room,
    /// The encryption keys at hand, as their owner calls them.
    pub key_ids: BTreeSet<String>,
}

/// How much room there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Room {
    /// So many bytes.
    Bytes(u64),
    /// No limit is set.
    Unlimited,
    /// Nobody knows, and why. That is no room.
    Unknown(String),
}

/// What each node loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// By ascending token. Nodes of one token in all racks load the same.
    pub nodes: Vec<Load>,
    /// Keys outside of database 0. They are loaded, but no client of Dynomite can ask for them.
    pub unreachable: u64,
}

/// What the nodes of one token load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// The token.
    pub token: Token,
    /// Objects to read, in this order.
    pub parts: Vec<Part>,
    /// Which keys to keep of them; `None` keeps all, and the object can be loaded as it is.
    pub keep: Option<Ownership>,
    /// Bytes that are read from the bucket.
    pub download: u64,
    /// About how many bytes are loaded.
    pub raw: u64,
    /// About how many bytes of memory that takes.
    pub memory: u64,
}

/// An object to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name, as the source of the data calls it.
    pub object: String,
    /// What it was the owner's copy of; `None` when it is not of a ring.
    pub owned: Option<Ownership>,
}

/// A file with data that no manifest speaks of, after it was verified: of Dynomite-manager, or of
/// any store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its key.
    pub object: String,
    /// The token of the node that it is of, if it is of a ring.
    pub token: Option<Token>,
    /// Its bytes.
    pub bytes: u64,
    /// Its format.
    pub rdb: Version,
    /// What the store used for it, as it said.
    pub memory_bytes: Option<u64>,
    /// Keys outside of database 0.
    pub unreachable: u64,
}

/// Why data cannot be restored onto a ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// Keys would lie where nobody looks for them.
    Placement {
        /// Hash function and hash tag of the data.
        data: String,
        /// Those of the ring.
        ring: String,
    },
    /// The stores cannot read it.
    Format {
        /// Of which object.
        object: String,
        /// What it is written in.
        rdb: Version,
        /// What they read.
        reads: Version,
    },
    /// Files of which no one's format covers the others', to be put together.
    Mixed {
        /// The newest.
        newest: Version,
        /// One that it does not cover.
        other: Version,
    },
    /// No node of the ring has it.
    Token(Token),
    /// There is nothing to restore, or no ring.
    Empty(&'static str),
    /// Tokens twice, or data of a ring beside data of none.
    Ambiguous(String),
    /// The key that it is encrypted with is not at hand.
    Key(String),
    /// Not enough room.
    Room {
        /// Memory or disk.
        what: &'static str,
        /// For the node of this token.
        token: Token,
        /// Bytes that it takes.
        needed: u64,
        /// Bytes that there are.
        has: u64,
    },
    /// Nobody knows how much room there is.
    Unknown {
        /// Memory or disk.
        what: &'static str,
        /// Why nobody knows.
        why: String,
    },
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Placement { data, ring } => write!(
                f,
                "the data was placed by {data}, the ring places by {ring}: restore onto a ring \
                 with the same hash and hashTag"
            ),
            Self::Format { object, rdb, reads } => write!(
                f,
                "{object} is written in {rdb}, and the ring's store reads up to {reads}: use an \
                 image of the store's version that wrote it, or a later one"
            ),
            Self::Mixed { newest, other } => write!(
                f,
                "snapshots in {newest} and in {other} cannot be put together: restore onto the \
                 same tokens, back up again there, and re-shard that backup"
            ),
            Self::Token(token) => write!(f, "the ring has no token {token}: name one of its own"),
            Self::Empty(what) => write!(f, "there is no {what}"),
            Self::Ambiguous(why) => f.write_str(why),
            Self::Key(id) => write!(
                f,
                "the encryption key `{id}` is missing: add it to the Secret of \
                 spec.backup.encryption, which may hold old keys beside the new one"
            ),
            Self::Room {
                what,
                token,
                needed,
                has,
            } => write!(
                f,
                "the node of token {token} needs about {needed} bytes of {what} and has {has}: \
                 give it more, or restore onto more nodes"
            ),
            Self::Unknown { what, why } => write!(
                f,
                "nobody knows how much {what} the nodes have ({why}): restore when it is known"
            ),
        }
    }
}

/// One object with data, whatever speaks of it.
struct Material<'a> {
    object: &'a str,
    owned: Option<Ownership>,
    token: Option<Token>,
    stored: u64,
    raw: u64,
    memory: u64,
    rdb: Version,
    unreachable: u64,
}

/// How a backup comes onto a ring, or everything that is against it.
pub fn fits(manifest: &Manifest, wish: &Wish) -> Result<Plan, Vec<Misfit>> {
    let mut misfits = Vec::new();
    match manifest.ring.placement() {
        Ok(placement) if placement == wish.placement => {}
        Ok(placement) => misfits.push(Misfit::Placement {
            data: describe(placement),
            ring: describe(wish.placement),
        }),
        Err(flaw) => misfits.push(Misfit::Ambiguous(flaw.to_string())),
    }
    let keys = manifest.snapshots.iter().filter_map(|snapshot| {
        let encryption = snapshot.encryption.as_ref()?;
        (!wish.key_ids.contains(&encryption.key_id)).then_some(&encryption.key_id)
    });
    let keys: BTreeSet<&String> = keys.collect();
    misfits.extend(keys.into_iter().cloned().map(Misfit::Key));
    let materials = manifest.snapshots.iter().map(|snapshot| {
        let owned = Ownership::new(&manifest.ring.tokens, snapshot.token);
        Material::of(snapshot, owned)
    });
    plan(&materials.collect::<Vec<_>>(), wish, misfits)
}

fn describe(placement: Placement) -> String {
    let tag = placement.hash_tag.map_or_else(
        || "no hash tag".to_owned(),
        |tag| {
            format!(
                "hash tag `{}{}`",
                char::from(tag.open),
                char::from(tag.close)
            )
        },
    );
    format!("{:?} with {tag}", placement.hash)
}

/// How files without a manifest come onto a ring, or everything that is against it. Files with
/// tokens are of all tokens of one ring; that their keys were placed as the ring places them is the
/// word of whoever asks for it, and that files without tokens share no key. Whoever loads them
/// checks both.
pub fn fits_files(files: &[File], wish: &Wish) -> Result<Plan, Vec<Misfit>> {
    let tokens: Vec<Token> = files.iter().filter_map(|file| file.token).collect();
    let mut misfits = Vec::new();
    if tokens.iter().collect::<BTreeSet<_>>().len() != tokens.len() {
        let why = "two files are of one token: name those of one rack and one day";
        misfits.push(Misfit::Ambiguous(why.to_owned()));
    }
    if tokens.len() != files.len() && !tokens.is_empty() {
        let why =
            "some of the files are of a token and some are of none: name the one or the other";
        misfits.push(Misfit::Ambiguous(why.to_owned()));
    }
    let materials = files.iter().map(|file| Material {
        object: &file.object,
        owned: file.token.map(|token| Ownership::new(&tokens, token)),
        token: file.token,
        stored: file.bytes,
        raw: file.bytes,
        memory: file.memory_bytes.unwrap_or(file.bytes),
        rdb: file.rdb,
        unreachable: file.unreachable,
    });
    plan(&materials.collect::<Vec<_>>(), wish, misfits)
}

impl<'a> Material<'a> {
    fn of(snapshot: &'a Snapshot, owned: Ownership) -> Self {
        let elsewhere = snapshot.keys.iter().filter(|(database, _)| **database != 0);
        Self {
            object: &snapshot.object,
            owned: Some(owned),
            token: Some(snapshot.token),
            stored: snapshot.stored.bytes,
            raw: snapshot.raw.bytes,
            // Data takes more room in memory than in the file, never less by much.
            memory: snapshot.memory_bytes.unwrap_or(snapshot.raw.bytes),
            rdb: snapshot.rdb,
            unreachable: elsewhere
                .map(|(_, counts)| counts.total())
                .fold(0, u64::saturating_add),
        }
    }

    /// Of `bytes` of all of it about so many are `target`'s.
    fn share(&self, bytes: u64, target: Option<&Ownership>) -> u64 {
        let Some(target) = target else { return bytes };
        let everything = Ownership::new(&[], Token(0));
        let owned = self.owned.as_ref().unwrap_or(&everything);
        let part = u128::from(bytes) * u128::from(owned.shared(target));
        let part = part.div_ceil(u128::from(owned.shared(owned).max(1)));
        u64::try_from(part).unwrap_or(bytes)
    }
}

fn plan(
    materials: &[Material<'_>],
    wish: &Wish,
    mut misfits: Vec<Misfit>,
) -> Result<Plan, Vec<Misfit>> {
    let tokens: BTreeSet<Token> = wish.tokens.iter().copied().collect();
    if materials.is_empty() {
        misfits.push(Misfit::Empty("data"));
    }
    if tokens.is_empty() {
        misfits.push(Misfit::Empty("node in the ring"));
    }
    misfits.extend(wish.only.difference(&tokens).copied().map(Misfit::Token));
    let of_ring: BTreeSet<Option<Token>> = materials.iter().map(|part| part.token).collect();
    let same = of_ring == tokens.iter().copied().map(Some).collect();
    let wanted = tokens
        .iter()
        .filter(|token| wish.only.is_empty() || wish.only.contains(token));
    let nodes: Vec<Load> = wanted
        .map(|token| load(materials, wish, *token, same, &mut misfits))
        .collect();
    for node in &nodes {
        room(
            "memory",
            &wish.memory,
            node.token,
            node.memory,
            &mut misfits,
        );
        room("disk", &wish.disk, node.token, node.raw, &mut misfits);
    }
    if !misfits.is_empty() {
        let mut unique: Vec<Misfit> = Vec::new();
        for misfit in misfits {
            if !unique.contains(&misfit) {
                unique.push(misfit);
            }
        }
        return Err(unique);
    }
    let unreachable = materials.iter().map(|part| part.unreachable);
    Ok(Plan {
        nodes,
        unreachable: unreachable.fold(0, u64::saturating_add),
    })
}

fn load(
    materials: &[Material<'_>],
    wish: &Wish,
    token: Token,
    same: bool,
    misfits: &mut Vec<Misfit>,
) -> Load {
    let target = Ownership::new(&wish.tokens, token);
    let mut parts: Vec<&Material<'_>> = materials
        .iter()
        .filter(|part| match &part.owned {
            _ if same => part.token == Some(token),
            Some(owned) => owned.shared(&target) > 0,
            None => true,
        })
        .collect();
    // The copy has the header of its first part.
    parts.sort_by_key(|part| (std::cmp::Reverse(part.rdb), part.token));
    for part in &parts {
        if !wish.reads.covers(part.rdb) {
            misfits.push(Misfit::Format {
                object: part.object.to_owned(),
                rdb: part.rdb,
                reads: wish.reads,
            });
        }
    }
    if let Some(newest) = parts.first().map(|part| part.rdb)
        && let Some(other) = parts.iter().find(|part| !newest.covers(part.rdb))
    {
        let other = other.rdb;
        misfits.push(Misfit::Mixed { newest, other });
    }
    let keep = (!same).then_some(target);
    let sum = |each: &dyn Fn(&Material<'_>) -> u64| {
        let all = parts.iter().map(|part| each(part));
        all.fold(0, u64::saturating_add)
    };
    Load {
        token,
        download: sum(&|part| part.stored),
        raw: sum(&|part| part.share(part.raw, keep.as_ref())),
        memory: sum(&|part| part.share(part.memory, keep.as_ref())),
        parts: parts
            .iter()
            .map(|part| Part {
                object: part.object.to_owned(),
                owned: part.owned.clone(),
            })
            .collect(),
        keep,
    }
}

fn room(what: &'static str, room: &Room, token: Token, needed: u64, misfits: &mut Vec<Misfit>) {
    match room {
        Room::Unlimited => {}
        Room::Bytes(has) if needed <= *has => {}
        Room::Bytes(has) => misfits.push(Misfit::Room {
            what,
            token,
            needed,
            has: *has,
        }),
        Room::Unknown(why) => misfits.push(Misfit::Unknown {
            what,
            why: why.clone(),
        }),
    }
}

#[cfg(test)]
mod tests;

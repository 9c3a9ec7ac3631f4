//! Where the objects of a backup lie, and what an object is by its key.
//!
//! ```text
//! PREFIX/NAMESPACE/CLUSTER/UID/20261120T000000Z-00c0ffee00c0ffee-before-upgrade/manifest.json
//!                              └─ start ──────┘ └─ suffix ─────┘ └─ name ─────┘/1383429731-0.rdb.zst
//!                                                                              └ token ─┘ └ attempt
//! ```
//!
//! Two backups never share a directory: the UID tells rings of one name apart, and the suffix, which
//! the caller takes at random, tells backups of one second apart. Within one, each attempt at a
//! token has its own object, so that a late part of a given-up upload harms nothing.

use std::fmt;

use dynomite_protocol::token::Token;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Names and UIDs are at most as long as Kubernetes lets them be.
const MAX_NAME: usize = 253;

/// How a start is written: sorted as text it is sorted by time.
const START: &str = "%Y%m%dT%H%M%SZ";

/// Name of the manifest in the directory of its backup.
const MANIFEST: &str = "manifest.json";

/// Why no key can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It would not be found again.
    #[error(
        "{what} `{text}` cannot be part of an object's key: use 1 to 253 letters, digits, `-`, `.` \
         and `_`, not only dots"
    )]
    Name {
        /// What it names.
        what: &'static str,
        /// The text.
        text: String,
    },
    /// Stores read such prefixes differently.
    #[error(
        "prefix `{0}` cannot begin an object's key: use names with `/` between, as in `team/backups`"
    )]
    Prefix(String),
    /// Four digits of a year.
    #[error("a backup cannot begin at {0}")]
    Start(Timestamp),
}

/// Where the backups of one ring lie.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    prefix: String,
    namespace: String,
    cluster: String,
    uid: String,
}

/// What tells a backup from all others of its ring.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupId {
    started: Timestamp,
    suffix: u64,
    name: String,
}

/// The place of one backup.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Directory {
    /// The ring's.
    pub place: Place,
    /// The backup.
    pub id: BackupId,
}

/// What an object of a backup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// The manifest, which makes a backup of the others.
    Manifest,
    /// The data of one token.
    Snapshot {
        /// Whose data.
        token: Token,
        /// From 0, counted up with each try.
        attempt: u32,
        /// Whether it is compressed.
        compressed: bool,
        /// Whether it is encrypted.
        encrypted: bool,
    },
}

/// What a key in a bucket names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A part of a backup.
    Ours(Directory, Object),
    /// A file of Dynomite-manager.
    Manager(ManagerFile),
    /// Something else, which is nobody's business here.
    Foreign,
}

/// A file of Dynomite-manager, `BASE/DATACENTER/RACK/TOKEN/MILLISECONDS`: an RDB or an append-only
/// file, as its first bytes tell. There is one a day at most, named by the midnight before.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManagerFile {
    /// Datacenter.
    pub datacenter: String,
    /// Rack.
    pub rack: String,
    /// Token.
    pub token: Token,
    /// The midnight.
    pub day: Timestamp,
}

fn name(what: &'static str, text: &str) -> Result<String, Error> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let some = text.bytes().any(|byte| byte != b'.');
    if some && text.len() <= MAX_NAME && text.bytes().all(fine) {
        return Ok(text.to_owned());
    }
    Err(Error::Name {
        what,
        text: text.chars().take(MAX_NAME).collect(),
    })
}

impl Place {
    /// The place of a ring under a prefix, which may be empty.
    pub fn new(prefix: &str, namespace: &str, cluster: &str, uid: &str) -> Result<Self, Error> {
        let trimmed = prefix.trim_matches('/');
        let mut parts = trimmed.split('/');
        if !trimmed.is_empty() && !parts.all(|part| name("prefix", part).is_ok()) {
            return Err(Error::Prefix(prefix.to_owned()));
        }
        Ok(Self {
            prefix: trimmed.to_owned(),
            namespace: name("namespace", namespace)?,
            cluster: name("cluster", cluster)?,
            uid: name("UID", uid)?,
        })
    }

    /// What all keys begin with; empty, or without a `/` at its end.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The UID of the ring.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The namespace of the ring.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name of the ring.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }
}

impl fmt::Display for Place {
    /// What all keys begin with, up to and with a slash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.prefix.is_empty() {
            write!(f, "{}/", self.prefix)?;
        }
        write!(f, "{}/{}/{}/", self.namespace, self.cluster, self.uid)
    }
}

impl BackupId {
    /// A backup that began at `started`, of which whole seconds count; `suffix` is random.
    pub fn new(started: Timestamp, suffix: u64, backup: &str) -> Result<Self, Error> {
        let started = Timestamp::from_second(started.as_second())
            .ok()
            .filter(|at| (0..=9999).contains(&at.to_zoned(TimeZone::UTC).year()))
            .ok_or(Error::Start(started))?;
        Ok(Self {
            started,
            suffix,
            name: name("backup", backup)?,
        })
    }

    /// When it began, in whole seconds.
    pub fn started(&self) -> Timestamp {
        self.started
    }

    /// The name that a person or the schedule gave it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads what [`Display`](fmt::Display) wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '-');
        let (start, suffix, name) = (parts.next()?, parts.next()?, parts.next()?);
        let started = jiff::civil::DateTime::strptime(START, start).ok()?;
        let started = started.to_zoned(TimeZone::UTC).ok()?.timestamp();
        let suffix = u64::from_str_radix(suffix, 16).ok()?;
        let id = Self::new(started, suffix, name).ok()?;
        // One backup has one text, so that equal backups have equal keys.
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let started = self.started.strftime(START);
        write!(f, "{started}-{:016x}-{}", self.suffix, self.name)
    }
}

impl fmt::Display for Object {
    /// The last part of the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest => f.write_str(MANIFEST),
            Self::Snapshot {
                token,
                attempt,
                compressed,
                encrypted,
            } => {
                let compressed = if *compressed { ".zst" } else { "" };
                let encrypted = if *encrypted { ".enc" } else { "" };
                write!(f, "{token}-{attempt}.rdb{compressed}{encrypted}")
            }
        }
    }
}

impl Object {
    /// Reads what [`Display`](fmt::Display) wrote.
    pub fn parse(text: &str) -> Option<Self> {
        if text == MANIFEST {
            return Some(Self::Manifest);
        }
        let (rest, encrypted) = strip(text, ".enc");
        let (rest, compressed) = strip(rest, ".zst");
        let (token, attempt) = rest.strip_suffix(".rdb")?.split_once('-')?;
        let object = Self::Snapshot {
            token: token.parse().ok()?,
            attempt: attempt.parse().ok()?,
            compressed,
            encrypted,
        };
        (object.to_string() == text).then_some(object)
    }
}

fn strip<'a>(text: &'a str, suffix: &str) -> (&'a str, bool) {
    text.strip_suffix(suffix)
        .map_or((text, false), |rest| (rest, true))
}

impl fmt::Display for Directory {
    /// What the keys of the backup begin with, up to and with a slash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}/", self.place, self.id)
    }
}

impl Directory {
    /// The key of one of its objects.
    pub fn key(&self, object: Object) -> String {
        format!("{self}{object}")
    }
}

/// What `key` names, under the prefix that the bucket's user gave.
pub fn find(prefix: &str, key: &str) -> Found {
    let prefix = prefix.trim_matches('/');
    let rest = if prefix.is_empty() {
        Some(key)
    } else {
        key.strip_prefix(prefix)
            .and_then(|rest| rest.strip_prefix('/'))
    };
    let parts: Vec<&str> = rest.map_or_else(Vec::new, |rest| rest.splitn(6, '/').collect());
    let found = match parts[..] {
        [namespace, cluster, uid, backup, object] => {
            ours([prefix, namespace, cluster, uid], backup, object)
        }
        [datacenter, rack, token, day] => manager(datacenter, rack, token, day),
        _ => None,
    };
    found.unwrap_or(Found::Foreign)
}

fn ours(place: [&str; 4], backup: &str, object: &str) -> Option<Found> {
    let [prefix, namespace, cluster, uid] = place;
    let directory = Directory {
        place: Place::new(prefix, namespace, cluster, uid).ok()?,
        id: BackupId::parse(backup)?,
    };
    Some(Found::Ours(directory, Object::parse(object)?))
}

fn manager(datacenter: &str, rack: &str, token: &str, day: &str) -> Option<Found> {
    if datacenter.is_empty() || rack.is_empty() || !day.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(Found::Manager(ManagerFile {
        datacenter: datacenter.to_owned(),
        rack: rack.to_owned(),
        token: token.parse().ok()?,
        day: Timestamp::from_millisecond(day.parse().ok()?).ok()?,
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn directory(prefix: &str, started: i64, suffix: u64, backup: &str) -> Directory {
        let started = Timestamp::from_second(started).expect("in range");
        Directory {
            place: Place::new(prefix, "shop", "ring", "5f2c").expect("fine"),
            id: BackupId::new(started, suffix, backup).expect("fine"),
        }
    }

    #[test]
    fn keys_are_as_documented() {
        let directory = directory(
            "/team/backups/",
            1_795_132_800,
            0x00c0_ffee,
            "before-upgrade",
        );
        assert_eq!(
            directory.key(Object::Manifest),
            "team/backups/shop/ring/5f2c/20261120T000000Z-0000000000c0ffee-before-upgrade/manifest.json"
        );
        let object = Object::Snapshot {
            token: Token(1_383_429_731),
            attempt: 2,
            compressed: true,
            encrypted: true,
        };
        assert!(directory.key(object).ends_with("/1383429731-2.rdb.zst.enc"));
    }

    #[test]
    fn texts_that_would_lead_elsewhere_are_refused() {
        for text in ["", ".", "..", "a/b", "a b", "ü", "a\n", &"x".repeat(254)] {
            assert!(Place::new("", text, "ring", "uid").is_err(), "{text}");
            assert!(Place::new("", "ns", "ring", text).is_err(), "{text}");
            assert!(BackupId::new(Timestamp::UNIX_EPOCH, 0, text).is_err());
        }
        for prefix in ["a//b", "../a", "a/./b", "a b"] {
            assert!(Place::new(prefix, "ns", "ring", "uid").is_err(), "{prefix}");
        }
        assert!(BackupId::new(Timestamp::MIN, 0, "a").is_err());
    }

    #[test]
    fn files_of_the_old_manager_are_known() {
        let key = "backup/us-east-1/us-east-1c/1383429731/1448150400000";
        let Found::Manager(file) = find("backup", key) else {
            panic!("{key} is one");
        };
        assert_eq!(
            (file.datacenter.as_str(), file.rack.as_str()),
            ("us-east-1", "us-east-1c")
        );
        assert_eq!(file.token, Token(1_383_429_731));
        assert_eq!(file.day.to_string(), "2015-11-22T00:00:00Z");
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let ours = directory("p", 0, 1, "a").key(Object::Manifest);
        assert!(matches!(find("p", &ours), Found::Ours(..)));
        for key in [
            String::new(),
            "p".to_owned(),
            "p/".to_owned(),
            "readme.txt".to_owned(),
            format!("x{ours}"),
            format!("{ours}.bak"),
            format!("{ours}/more"),
            ours.replace("p/", "q/"),
            ours.replace("000000Z", "000000"),
            ours.replace("manifest.json", "01-0.rdb"),
            ours.replace("manifest.json", "1-0.rdb.enc.zst"),
            ours.replace("manifest.json", "1-+0.rdb"),
            "p/dc/rack/-1/0".to_owned(),
            "p/dc/rack/1/today".to_owned(),
        ] {
            assert_eq!(find("p", &key), Found::Foreign, "{key}");
        }
    }

    fn some_name() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(b"ab-._01Z".to_vec()), 1..12)
            .prop_map(|bytes| String::from_utf8(bytes).expect("ASCII"))
            .prop_filter("not only dots", |text| {
                text.bytes().any(|byte| byte != b'.')
            })
    }

    fn some_directory() -> impl Strategy<Value = Directory> {
        let id = (0_i64..250_000_000_000, any::<u64>(), some_name());
        let place = (
            prop::collection::vec(some_name(), 0..3),
            some_name(),
            some_name(),
            some_name(),
        );
        (place, id).prop_map(
            |((prefix, namespace, cluster, uid), (started, suffix, backup))| {
                let started = Timestamp::from_second(started).expect("in range");
                Directory {
                    place: Place::new(&prefix.join("/"), &namespace, &cluster, &uid).expect("fine"),
                    id: BackupId::new(started, suffix, &backup).expect("fine"),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn every_key_is_found_again(
            directory in some_directory(),
            token in any::<u32>(),
            attempt in any::<u32>(),
            compressed in any::<bool>(),
            encrypted in any::<bool>(),
        ) {
            let snapshot = Object::Snapshot { token: Token(token), attempt, compressed, encrypted };
            for object in [Object::Manifest, snapshot] {
                let key = directory.key(object);
                let found = find(&directory.place.prefix, &key);
                prop_assert_eq!(found, Found::Ours(directory.clone(), object));
            }
        }

        #[test]
        fn different_backups_never_share_a_key(
            one in some_directory(),
            other in some_directory(),
            // Most of them differ in one thing only: in its second, by chance, in its name, or in
            // the ring.
            alike in prop::option::weighted(0.8, 0_usize..4),
        ) {
            let of = |differs: usize| alike.is_none_or(|only| only == differs);
            let id = (&one.id, &other.id);
            let id = BackupId {
                started: if of(0) { id.1.started } else { id.0.started },
                suffix: if of(1) { id.1.suffix } else { id.0.suffix },
                name: if of(2) { id.1.name.clone() } else { id.0.name.clone() },
            };
            let place = if of(3) { other.place } else { one.place.clone() };
            let other = Directory { place, id };
            if one != other && one.place.prefix == other.place.prefix {
                prop_assert_ne!(one.key(Object::Manifest), other.key(Object::Manifest));
                prop_assert!(!one.to_string().starts_with(&other.to_string()));
            }
        }

        #[test]
        fn any_text_is_some_kind_of_key(text in ".{0,60}") {
            let _ = find("p", &text);
            prop_assert!(!matches!(find("p", &text), Found::Ours(..)) || text.starts_with("p/"));
        }
    }
}

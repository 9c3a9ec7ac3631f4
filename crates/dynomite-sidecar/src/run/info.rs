//! Reads the store's `INFO`.

use std::collections::HashMap;

use dynomite_api::contract::{StoreFacts, StoreRole};
use dynomite_lifecycle::{DonorSight, ReplicaLink, StoreSight};

/// The lines of an `INFO`, by name.
pub(crate) struct Info<'a>(HashMap<&'a str, &'a str>);

impl<'a> Info<'a> {
    pub(crate) fn parse(text: &'a str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(lines.filter_map(|line| line.split_once(':')).collect())
    }

    pub(crate) fn text(&self, name: &str) -> &'a str {
        self.0.get(name).copied().unwrap_or_default()
    }

    pub(crate) fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or_default()
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.text(name) == "1"
    }

    /// Keys of one line such as `db0:keys=3,expires=0,avg_ttl=0`.
    fn keys(line: &str) -> u64 {
        line.split(',')
            .find_map(|part| part.strip_prefix("keys="))
            .and_then(|number| number.parse().ok())
            .unwrap_or_default()
    }

    /// Valkey names itself beside the Redis it is compatible with.
    pub(crate) fn version(&self) -> &'a str {
        match self.text("valkey_version") {
            "" => self.text("redis_version"),
            valkey => valkey,
        }
    }

    fn is_empty(&self) -> bool {
        self.all_keys() == 0
    }

    fn all_keys(&self) -> u64 {
        let databases = self.0.iter().filter(|(name, _)| {
            let number = name.strip_prefix("db");
            number.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
        });
        databases.map(|(_, line)| Self::keys(line)).sum()
    }

    /// Whether a store that writes a log has written it anew since its copy.
    fn is_durable(&self) -> bool {
        let rewrites = self.flag("aof_rewrite_in_progress") || self.flag("aof_rewrite_scheduled");
        let failed = self.text("aof_last_bgrewrite_status") == "err";
        !(self.flag("aof_enabled") && (rewrites || failed))
    }

    /// `None` when this is no `INFO` of a store: without its `run_id`, nothing
    /// in it can be said to be about anything.
    pub(super) fn store(&self, complaint: Option<String>) -> Option<StoreSight> {
        let run_id = self.text("run_id");
        if run_id.is_empty() {
            return None;
        }
        let role = match self.text("role") {
            "master" => StoreRole::Primary,
            "slave" | "replica" => StoreRole::Replica,
            _ => return None,
        };
        let facts = StoreFacts {
            run_id: run_id.to_owned(),
            version: self.version().to_owned(),
            role,
            loading: self.flag("loading") || self.flag("async_loading"),
            keys: Self::keys(self.text("db0")),
            used_memory_bytes: self.number("used_memory"),
            max_memory_bytes: self.number("maxmemory"),
            replication_offset: self.number("master_repl_offset"),
            complaint: complaint.or_else(|| self.out_of_memory()),
        };
        Some(StoreSight {
            facts,
            empty: self.is_empty(),
            all_keys: self.all_keys(),
            durable: self.is_durable(),
            replication_id: self.text("master_replid").to_owned(),
            link: (role == StoreRole::Replica).then(|| self.link()),
            left: self.left(),
        })
    }

    /// The history before its own; it says where that one would have gone on.
    fn left(&self) -> Option<(String, u64)> {
        let next: u64 = self.text("second_repl_offset").parse().ok()?;
        Some((self.text("master_replid2").to_owned(), next.checked_sub(1)?))
    }

    fn link(&self) -> ReplicaLink {
        let total = self.number("master_sync_total_bytes");
        ReplicaLink {
            up: self.text("master_link_status") == "up",
            copying: self.flag("master_sync_in_progress"),
            bytes_done: self.number("master_sync_read_bytes"),
            bytes_total: (total > 0).then_some(total),
            offset: self.number("slave_repl_offset"),
        }
    }

    /// A full store refuses writes and says so only to who writes.
    fn out_of_memory(&self) -> Option<String> {
        let limit = self.number("maxmemory");
        let full = limit > 0
            && self.number("used_memory") >= limit
            && self.text("maxmemory_policy") == "noeviction";
        full.then(|| format!("OOM the store has reached its {limit} bytes and refuses writes"))
    }

    /// For what the store has forked, or is about to, if it has.
    pub(crate) fn forks(&self) -> Option<String> {
        let jobs = [
            ("rdb_bgsave_in_progress", "the store saves"),
            ("aof_rewrite_in_progress", "the store rewrites its log"),
            (
                "aof_rewrite_scheduled",
                "the store is about to rewrite its log",
            ),
            ("loading", "the store loads"),
        ];
        if let Some((_, words)) = jobs.iter().find(|(name, _)| self.flag(name)) {
            return Some((*words).to_owned());
        }
        let copied = self.0.iter().any(|(name, line)| {
            let replica = name
                .strip_prefix("slave")
                .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
            let begins = ["state=wait_bgsave", "state=send_bulk"];
            replica && begins.iter().any(|state| line.contains(state))
        });
        copied.then(|| "another node copies the store".to_owned())
    }

    pub(super) fn donor(&self) -> Option<DonorSight> {
        let run_id = self.text("run_id");
        let replication_id = self.text("master_replid");
        let offset = self.text("master_repl_offset").parse().ok()?;
        if run_id.is_empty() || replication_id.is_empty() {
            return None;
        }
        Some(DonorSight {
            run_id: run_id.to_owned(),
            replication_id: replication_id.to_owned(),
            offset,
            keys: Self::keys(self.text("db0")),
            primary: self.text("role") == "master",
            data_bytes: self.number("used_memory_dataset"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIMARY: &str = "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\n\
        # Memory\r\nused_memory:1000\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n\
        # Persistence\r\nloading:0\r\nasync_loading:0\r\n\
        # Replication\r\nrole:master\r\nmaster_replid:r1\r\nmaster_repl_offset:42\r\n\
        # Keyspace\r\ndb0:keys=3,expires=1,avg_ttl=0\r\n";

    #[test]
    fn a_primary_is_read() {
        let sight = Info::parse(PRIMARY).store(None).expect("is an INFO");
        assert_eq!(sight.facts.run_id, "abc");
        assert_eq!(sight.facts.version, "7.0.15");
        assert_eq!(sight.facts.keys, 3);
        assert_eq!(sight.facts.replication_offset, 42);
        assert!(!sight.empty);
        assert_eq!((sight.link, sight.left), (None, None));
        assert_eq!(sight.facts.complaint, None);
    }

    #[test]
    fn a_replica_follows_its_own_offset() {
        let text = "run_id:abc\r\nrole:slave\r\nmaster_link_status:up\r\n\
            master_sync_in_progress:0\r\nslave_read_repl_offset:99\r\nslave_repl_offset:40\r\n\
            master_replid:r1\r\nmaster_repl_offset:40\r\n";
        let sight = Info::parse(text).store(None).expect("is an INFO");
        let link = sight.link.expect("is a replica");
        assert!(link.up && !link.copying);
        assert_eq!(link.offset, 40, "applied, not read");
        assert!(sight.empty);
    }

    #[test]
    fn a_replica_that_became_a_primary_says_where_it_left_its_donor() {
        let never = "master_replid2:0000\r\nsecond_repl_offset:-1\r\n";
        let once = "master_replid2:r0\r\nsecond_repl_offset:1001\r\n";
        let left = |more: &str| {
            let text = format!("{PRIMARY}{more}");
            Info::parse(&text).store(None).expect("is an INFO").left
        };
        assert_eq!(left(never), None);
        assert_eq!(left(once), Some(("r0".to_owned(), 1000)));
    }

    #[test]
    fn keys_outside_database_0_are_seen_too() {
        let text = PRIMARY.replace("db0", "db3");
        let sight = Info::parse(&text).store(None).expect("is an INFO");
        assert_eq!(sight.facts.keys, 0);
        assert!(!sight.empty);
    }

    #[test]
    fn a_full_store_complains() {
        let text = PRIMARY.replace("maxmemory:0", "maxmemory:900");
        let sight = Info::parse(&text).store(None).expect("is an INFO");
        assert!(
            sight
                .facts
                .complaint
                .is_some_and(|text| text.starts_with("OOM"))
        );
    }

    #[test]
    fn what_is_no_info_says_nothing() {
        for text in [
            "",
            "# Server\r\n",
            "run_id:\r\nrole:master\r\n",
            "run_id:a\r\n",
        ] {
            assert_eq!(Info::parse(text).store(None), None, "{text:?}");
            assert_eq!(Info::parse(text).donor(), None, "{text:?}");
        }
    }
}

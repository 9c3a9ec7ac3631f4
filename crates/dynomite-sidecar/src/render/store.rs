//! The store's configuration: a `redis.conf` in which every argument is quoted.

use std::fmt::Write as _;

use dynomite_api::contract::{NodeDesired, Persistence};

use super::RenderError;
use crate::shared::Site;

/// Where the further settings stand in the resource.
const FILE: &str = "store";

/// The longest value of a further setting, bytes.
const VALUE_LIMIT: usize = 1024;

/// One line of the file: a name and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Directive {
    /// Its name, in lower case.
    name: String,
    /// Its arguments, unquoted.
    arguments: Vec<String>,
}

impl Directive {
    fn new(name: &str, arguments: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            arguments: arguments.iter().map(|&text| text.to_owned()).collect(),
        }
    }
}

/// Settings whose value is several arguments; every other value is one, blanks included.
const SEVERAL_ARGUMENTS: &[&str] = &[
    "client-output-buffer-limit",
    "latency-tracking-info-percentiles",
    "oom-score-adj-values",
];

/// Settings that the sidecar or another part of the resource decides, and why.
const OWNED: &[(&str, &str)] = &[
    ("aclfile", NO_USERS),
    ("appenddirname", FILES),
    ("appendfilename", FILES),
    ("appendonly", "spec.store.persistence decides it"),
    ("bind", ONLY_SOCKET),
    ("bind-source-addr", ONLY_SOCKET),
    ("daemonize", PROCESS),
    ("dbfilename", FILES),
    ("dir", FILES),
    ("enable-debug-command", DANGEROUS),
    ("enable-module-command", DANGEROUS),
    ("enable-protected-configs", DANGEROUS),
    ("include", "every setting stands in the resource"),
    ("loadmodule", DANGEROUS),
    ("logfile", "the log goes to the container's output"),
    ("masterauth", REPLICATION),
    ("masteruser", REPLICATION),
    ("maxmemory", "spec.store.memoryPercent decides it"),
    ("min-replicas-max-lag", NO_STANDING_REPLICAS),
    ("min-replicas-to-write", NO_STANDING_REPLICAS),
    ("min-slaves-max-lag", NO_STANDING_REPLICAS),
    ("min-slaves-to-write", NO_STANDING_REPLICAS),
    ("pidfile", PROCESS),
    ("port", ONLY_SOCKET),
    ("primaryauth", REPLICATION),
    ("primaryuser", REPLICATION),
    ("protected-mode", ONLY_SOCKET),
    (
        "rename-command",
        "the sidecar and the engine need the commands",
    ),
    ("repl-diskless-sync", REPLICATION),
    ("repl-diskless-sync-delay", REPLICATION),
    ("repl-diskless-sync-period", REPLICATION),
    ("replica-announce-ip", REPLICATION),
    ("replica-announce-port", REPLICATION),
    ("replica-read-only", REPLICATION),
    ("replicaof", REPLICATION),
    ("requirepass", NO_USERS),
    ("slave-read-only", REPLICATION),
    ("slaveof", REPLICATION),
    ("supervised", PROCESS),
    ("syslog-enabled", "the log goes to the container's output"),
    ("unixsocket", ONLY_SOCKET),
    ("unixsocketperm", ONLY_SOCKET),
    ("user", NO_USERS),
];

/// Whole families of such settings.
const OWNED_PREFIXES: &[(&str, &str)] = &[
    ("cluster-", "the ring is Dynomite's, not the store's"),
    ("sentinel", "the ring is Dynomite's, not the store's"),
    ("tls-", ONLY_SOCKET),
];

const DANGEROUS: &str = "it lets clients run code in the store or switch its safeguards off";
const FILES: &str = "the sidecar looks after the data directory";
const NO_STANDING_REPLICAS: &str = "a store has a replica only while a peer copies it";
const NO_USERS: &str = "only the engine and the sidecar can reach the store's socket";
const ONLY_SOCKET: &str = "the store listens on a Unix socket inside the pod and nowhere else";
const PROCESS: &str = "the launcher looks after the process";
const REPLICATION: &str = "the sidecar leads replication";

/// The text of the store's configuration.
///
/// # Errors
/// When a further setting is refused; the message says what to change in the
/// resource.
pub(crate) fn store_conf(desired: &NodeDesired, site: &Site) -> Result<String, RenderError> {
    Ok(text(&store_directives(desired, site)?))
}

/// The text of the configuration of a store that only loads a copy, with so many databases.
pub(crate) fn scratch_conf(site: &Site, databases: u32) -> String {
    let mut directives = place(site);
    directives.extend(replication(0));
    directives.extend([
        Directive::new("databases", &[&databases.to_string()]),
        Directive::new("appendonly", &["no"]),
        Directive::new("rdb-del-sync-files", &["yes"]),
        Directive::new("save", &[""]),
    ]);
    text(&directives)
}

fn text(directives: &[Directive]) -> String {
    let mut text = String::new();
    for directive in directives {
        text.push_str(&directive.name);
        for argument in &directive.arguments {
            text.push(' ');
            quote(argument, &mut text);
        }
        text.push('\n');
    }
    text
}

fn store_directives(desired: &NodeDesired, site: &Site) -> Result<Vec<Directive>, RenderError> {
    let mut directives = place(site);
    directives.push(Directive::new(
        "maxmemory",
        &[&desired.store.max_memory_bytes.to_string()],
    ));
    directives.extend(replication(desired.store.max_memory_bytes));
    let saves = desired.store.settings.get("save");
    directives.extend(persistence(desired.store.persistence, saves)?);
    for (name, value) in &desired.store.settings {
        if name == "save" {
            continue;
        }
        let further = further(name, value)?;
        // The resource has the last word over what is only a default here.
        directives.retain(|directive| directive.name != further.name);
        directives.push(further);
    }
    Ok(directives)
}

/// Where the store listens and where it keeps its files.
fn place(site: &Site) -> Vec<Directive> {
    let socket = site.store_private_socket();
    let dir = site.data_dir.join("store");
    vec![
        Directive::new("port", &["0"]),
        Directive::new("unixsocket", &[&socket.to_string_lossy()]),
        Directive::new("unixsocketperm", &["700"]),
        Directive::new("protected-mode", &["yes"]),
        Directive::new("daemonize", &["no"]),
        Directive::new("supervised", &["no"]),
        Directive::new("logfile", &[""]),
        Directive::new("dir", &[&dir.to_string_lossy()]),
        Directive::new("dbfilename", &["dump.rdb"]),
        Directive::new("appendfilename", &["appendonly.aof"]),
    ]
}

/// What a store keeps of its stream for a copy that broke off: as many bytes as
/// clients write in the seconds a connection needs to come back. The default of
/// 1 MiB is some milliseconds of a busy store, and then everything is copied
/// again. It is allocated only while somebody copies, and for some minutes after.
const BACKLOG_SHARE: u64 = 32;
/// The least of it, bytes.
const BACKLOG_LEAST: u64 = 4 << 20;
/// The most of it, bytes.
const BACKLOG_MOST: u64 = 256 << 20;
/// For a store without a limit, bytes.
const BACKLOG_UNLIMITED: u64 = 64 << 20;

/// A copy begins at once and takes no detour over the donor's disk, nor over
/// this node's when it has nothing to lose.
fn replication(max_memory: u64) -> Vec<Directive> {
    let backlog = match max_memory {
        0 => BACKLOG_UNLIMITED,
        bytes => (bytes / BACKLOG_SHARE).clamp(BACKLOG_LEAST, BACKLOG_MOST),
    };
    vec![
        Directive::new("repl-backlog-size", &[&backlog.to_string()]),
        Directive::new("repl-backlog-ttl", &["600"]),
        Directive::new("repl-diskless-sync", &["yes"]),
        Directive::new("repl-diskless-sync-delay", &["0"]),
        Directive::new("repl-diskless-load", &["on-empty-db"]),
        Directive::new("replica-read-only", &["yes"]),
    ]
}

fn persistence(
    persistence: Persistence,
    saves: Option<&String>,
) -> Result<Vec<Directive>, RenderError> {
    let mut directives = match persistence {
        Persistence::None => vec![
            Directive::new("appendonly", &["no"]),
            // What a copy leaves on disk would be loaded as stale data later.
            Directive::new("rdb-del-sync-files", &["yes"]),
        ],
        Persistence::Rdb => vec![Directive::new("appendonly", &["no"])],
        Persistence::Aof => vec![
            Directive::new("appendonly", &["yes"]),
            Directive::new("appendfsync", &["everysec"]),
        ],
    };
    let rules = match (persistence, saves) {
        (Persistence::Rdb, Some(rules)) => rules,
        (Persistence::Rdb, None) => "3600 1 300 100 60 10000",
        (_, None) => "",
        (_, Some(_)) => {
            return Err(RenderError::Owned {
                file: FILE,
                key: "save".to_owned(),
                instead: "it goes with `persistence: rdb` only",
            });
        }
    };
    directives.extend(save_rules(rules)?);
    Ok(directives)
}

/// One line for each rule, because stores before Redis 7 read no more from one.
fn save_rules(rules: &str) -> Result<Vec<Directive>, RenderError> {
    let numbers: Vec<&str> = rules.split_whitespace().collect();
    let digits = |text: &&str| text.parse::<u32>().is_ok_and(|number| number > 0);
    if !numbers.len().is_multiple_of(2) || !numbers.iter().all(digits) {
        let want = "pairs of seconds and changes, as in \"3600 1 300 100\"";
        return Err(wrong("save", rules, want));
    }
    if numbers.is_empty() {
        return Ok(vec![Directive::new("save", &[""])]);
    }
    let lines = numbers.chunks(2);
    Ok(lines.map(|rule| Directive::new("save", rule)).collect())
}

fn further(name: &str, value: &str) -> Result<Directive, RenderError> {
    let lower = name.to_ascii_lowercase();
    let owned = OWNED.iter().find(|(owned, _)| *owned == lower);
    let family = OWNED_PREFIXES
        .iter()
        .find(|(prefix, _)| lower.starts_with(prefix));
    if let Some((_, instead)) = owned.or(family) {
        return Err(RenderError::Owned {
            file: FILE,
            key: name.to_owned(),
            instead,
        });
    }
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(letters) {
        return Err(RenderError::Unknown {
            file: FILE,
            key: name.chars().take(80).collect(),
        });
    }
    if value.len() > VALUE_LIMIT || value.contains('\0') {
        return Err(wrong(name, value, "text below 1 KiB without NUL"));
    }
    let arguments = if SEVERAL_ARGUMENTS.contains(&&*lower) {
        value.split_whitespace().map(str::to_owned).collect()
    } else {
        vec![value.to_owned()]
    };
    if arguments.is_empty() {
        return Err(wrong(name, value, "at least one argument"));
    }
    Ok(Directive {
        name: lower,
        arguments,
    })
}

/// Writes one argument so that a store reads back exactly these bytes.
fn quote(argument: &str, text: &mut String) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:".contains(&byte);
    if !argument.is_empty() && argument.bytes().all(plain) {
        text.push_str(argument);
        return;
    }
    text.push('"');
    for byte in argument.bytes() {
        match byte {
            b'"' | b'\\' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b' '..=b'~' => text.push(char::from(byte)),
            other => {
                // Writing to a string cannot fail.
                let _ = write!(text, "\\x{other:02x}");
            }
        }
    }
    text.push('"');
}

fn wrong(key: &str, value: &str, want: &'static str) -> RenderError {
    RenderError::Value {
        file: FILE,
        key: key.to_owned(),
        value: value.chars().take(80).collect(),
        want,
    }
}

#[cfg(test)]
mod tests {
    use dynomite_api::contract::StoreSettings;
    use proptest::prelude::*;

    use super::*;
    use crate::fixture::{desired, site};

    fn with(persistence: Persistence, settings: &[(&str, &str)]) -> Result<String, RenderError> {
        let mut desired = desired();
        desired.store = StoreSettings {
            persistence,
            max_memory_bytes: 1 << 20,
            settings: settings
                .iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            ..StoreSettings::default()
        };
        store_conf(&desired, &site())
    }

    /// Reads a configuration as Redis does: lines, then arguments in the
    /// manner of its `sdssplitargs`.
    fn parse(text: &str) -> Vec<Vec<Vec<u8>>> {
        text.split('\n')
            .map(|line| line.trim_matches([' ', '\t', '\r', '\n']))
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(arguments)
            .collect()
    }

    fn arguments(line: &str) -> Vec<Vec<u8>> {
        let bytes = line.as_bytes();
        let (mut found, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            if bytes[at].is_ascii_whitespace() {
                at += 1;
                continue;
            }
            let mut argument = Vec::new();
            if bytes[at] != b'"' {
                assert_ne!(
                    bytes[at], b'\'',
                    "a single quote opens another kind of text"
                );
                while at < bytes.len() && !bytes[at].is_ascii_whitespace() {
                    argument.push(bytes[at]);
                    at += 1;
                }
                found.push(argument);
                continue;
            }
            at += 1;
            while bytes[at] != b'"' {
                if bytes[at] == b'\\' && bytes[at + 1] == b'x' {
                    let hex = &line[at + 2..at + 4];
                    argument.push(u8::from_str_radix(hex, 16).unwrap());
                    at += 4;
                } else if bytes[at] == b'\\' {
                    argument.push(match bytes[at + 1] {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'b' => 8,
                        b'a' => 7,
                        other => other,
                    });
                    at += 2;
                } else {
                    argument.push(bytes[at]);
                    at += 1;
                }
            }
            at += 1;
            assert!(at == bytes.len() || bytes[at].is_ascii_whitespace());
            found.push(argument);
        }
        found
    }

    #[test]
    fn a_store_that_keeps_a_log() {
        let want = "\
port 0
unixsocket /run/dynomite/private/store.sock
unixsocketperm 700
protected-mode yes
daemonize no
supervised no
logfile \"\"
dir /data/store
dbfilename dump.rdb
appendfilename appendonly.aof
maxmemory 1048576
repl-backlog-size 4194304
repl-backlog-ttl 600
repl-diskless-sync yes
repl-diskless-sync-delay 0
repl-diskless-load on-empty-db
replica-read-only yes
appendonly yes
appendfsync everysec
save \"\"
";
        assert_eq!(with(Persistence::Aof, &[]).unwrap(), want);
    }

    #[test]
    fn persistence_decides_what_is_written() {
        let saves = |persistence, settings: &[(&str, &str)]| -> Vec<String> {
            let text = with(persistence, settings).unwrap();
            let lines = text.lines().filter(|line| line.starts_with("save"));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(saves(Persistence::None, &[]), ["save \"\""]);
        let defaults = ["save 3600 1", "save 300 100", "save 60 10000"];
        assert_eq!(saves(Persistence::Rdb, &[]), defaults);
        let own = [("save", "900 1  60 5")];
        assert_eq!(saves(Persistence::Rdb, &own), ["save 900 1", "save 60 5"]);
        assert!(with(Persistence::Aof, &own).is_err());
        for bad in ["900", "900 x", "0 1", "-1 2", "900 1\nport 6379"] {
            assert!(with(Persistence::Rdb, &[("save", bad)]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_resource_overrides_defaults_and_nothing_else() {
        let settings = [
            ("appendfsync", "always"),
            ("client-output-buffer-limit", "replica 256mb 64mb 60"),
            ("maxmemory-policy", "allkeys-lru"),
            ("proc-title-template", "{title} now"),
        ];
        let text = with(Persistence::Aof, &settings).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.contains(&"appendfsync always"));
        assert!(!text.contains("everysec"));
        assert!(lines.contains(&"client-output-buffer-limit replica 256mb 64mb 60"));
        assert!(lines.contains(&"proc-title-template \"{title} now\""));
    }

    #[test]
    fn what_the_sidecar_decides_is_refused() {
        let defaults = [
            "appendfsync",
            "repl-backlog-size",
            "repl-backlog-ttl",
            "repl-diskless-load",
            "rdb-del-sync-files",
        ];
        for persistence in [Persistence::None, Persistence::Aof] {
            for line in parse(&with(persistence, &[]).unwrap()) {
                let name = String::from_utf8(line[0].clone()).unwrap();
                let outcome = with(persistence, &[(&name, "1")]);
                let refused = matches!(outcome, Err(RenderError::Owned { .. }));
                assert_eq!(refused, !defaults.contains(&&*name), "{name}");
            }
        }
        for name in [
            "Include",
            "REPLICAOF",
            "tls-port",
            "cluster-enabled",
            "loadmodule",
        ] {
            let outcome = with(Persistence::Aof, &[(name, "1")]);
            assert!(matches!(outcome, Err(RenderError::Owned { .. })), "{name}");
        }
        for name in ["", "a b", "hz\nport", "# x"] {
            let outcome = with(Persistence::Aof, &[(name, "1")]);
            assert!(
                matches!(outcome, Err(RenderError::Unknown { .. })),
                "{name}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_value_reaches_beyond_its_argument(value in any::<String>()) {
            let bare = parse(&with(Persistence::Aof, &[]).unwrap());
            if let Ok(text) = with(Persistence::Aof, &[("proc-title-template", &value)]) {
                let mut lines = parse(&text);
                let last = lines.pop().unwrap();
                prop_assert_eq!(lines, bare);
                prop_assert_eq!(last, vec![b"proc-title-template".to_vec(), value.into_bytes()]);
            } else {
                prop_assert!(value.contains('\0') || value.len() > VALUE_LIMIT);
            }
        }

        #[test]
        fn no_name_reaches_beyond_its_line(name in any::<String>()) {
            let bare = parse(&with(Persistence::Aof, &[]).unwrap());
            if let Ok(text) = with(Persistence::Aof, &[(&name, "1")]) {
                prop_assert_eq!(parse(&text).len(), bare.len() + 1);
            }
        }

        #[test]
        fn several_arguments_are_read_back(words in prop::collection::vec("[^\\s\\x00]{1,8}", 1..5)) {
            let value = words.join(" ");
            let text = with(Persistence::Aof, &[("oom-score-adj-values", &value)]).unwrap();
            let last = parse(&text).pop().unwrap();
            let want: Vec<Vec<u8>> = value.split_whitespace().map(|word| word.as_bytes().to_vec()).collect();
            prop_assert_eq!(&last[1..], &want[..]);
        }
    }
}

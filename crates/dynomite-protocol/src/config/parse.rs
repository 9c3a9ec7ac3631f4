//! From the text of `dynomite.yml` to a checked [`Config`].

use std::str::FromStr;
use std::time::Duration;

use serde_yaml::Value;

use super::value::Entry;
use super::{Config, Endpoint, SeedProvider, StartState};
use crate::consistency::Consistency;
use crate::hash::{Hash, HashTag, Placement};
use crate::limits::{DEFAULT_MAX_REQUEST, MAX_CONFIG_FILE};
use crate::seeds::{self, InvalidSeed, Seed};
use crate::token::Token;

/// Why a file is not a usable configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not YAML.
    #[error("not YAML: {0}")]
    Yaml(String),
    /// Not one root key with directives beneath it.
    #[error("expected one root key, such as `dyn_o_mite:`, with all directives beneath it")]
    Shape,
    /// A directive nobody knows.
    #[error("directive \"{0}\" is unknown")]
    Unknown(String),
    /// A directive that must be there.
    #[error("directive \"{0}\" is missing")]
    Missing(&'static str),
    /// A value that cannot be used.
    #[error("directive \"{key}\" {why}")]
    Value {
        /// The directive.
        key: String,
        /// What is wrong with its value.
        why: String,
    },
    /// The seeds do not make a ring.
    #[error("directive \"dyn_seeds\": {0}")]
    Seeds(InvalidSeed),
}

/// Keys of the C engine that have no effect in it, or none here.
const WITHOUT_EFFECT: &[&str] = &[
    "auto_eject_hosts",
    "client_connections",
    "conn_msg_rate",
    "datastore_connections",
    "distribution",
    "dyn_connections",
    "dyn_port",
    "dyn_read_timeout",
    "dyn_write_timeout",
    "env",
    "local_peer_connections",
    "max_msgs",
    "mbuf_size",
    "pem_key_file",
    "preconnect",
    "recon_iv_file",
    "recon_key_file",
    "redis",
    "remote_peer_connections",
    "server_connections",
    "server_failure_limit",
    "server_retry_timeout",
    "stats_interval",
];

/// What the file said so far; the required keys are not there yet.
struct Draft {
    listen: Option<Endpoint>,
    dyn_listen: Option<Endpoint>,
    server: Option<Endpoint>,
    token: Option<Token>,
    hash: Hash,
    hash_tag: Option<HashTag>,
    rest: Config,
}

impl Draft {
    fn new(pool_name: &str) -> Self {
        let nowhere = Endpoint::Tcp(String::new(), 0);
        Self {
            listen: None,
            dyn_listen: None,
            server: None,
            token: None,
            hash: Hash::default(),
            hash_tag: None,
            rest: Config {
                pool_name: pool_name.to_owned(),
                listen: nowhere.clone(),
                dyn_listen: nowhere.clone(),
                stats_listen: Endpoint::Tcp("0.0.0.0".to_owned(), 22222),
                server: nowhere,
                token: Token(0),
                datacenter: "localdc".to_owned(),
                rack: "localrack".to_owned(),
                seeds: Vec::new(),
                seed_provider: SeedProvider::Simple,
                placement: Placement::default(),
                timeout: Duration::from_secs(5),
                gos_interval: Duration::from_secs(30),
                read_consistency: Consistency::DcOne,
                write_consistency: Consistency::DcOne,
                backlog: 512,
                start_state: StartState::Normal,
                deterministic_writes: true,
                netflix_peers: false,
                max_request_bytes: DEFAULT_MAX_REQUEST,
                max_client_connections: 10_000,
                remarks: Vec::new(),
            },
        }
    }

    fn take(&mut self, entry: &Entry<'_>) -> Result<(), ConfigError> {
        let config = &mut self.rest;
        match entry.key {
            "listen" => self.listen = Some(listener(entry)?),
            "dyn_listen" => self.dyn_listen = Some(tcp_listener(entry)?),
            "stats_listen" => config.stats_listen = tcp_listener(entry)?,
            "servers" => self.server = Some(server(entry)?),
            "tokens" => self.token = Some(parsed(entry)?),
            "datacenter" => config.datacenter = name(entry)?,
            "rack" => config.rack = name(entry)?,
            "dyn_seeds" => config.seeds = seed_list(entry)?,
            "dyn_seed_provider" => config.seed_provider = provider(entry)?,
            "data_store" => data_store(entry)?,
            "hash" => self.hash = parsed(entry)?,
            "hash_tag" => self.hash_tag = Some(hash_tag(entry)?),
            "timeout" => config.timeout = millis(entry, 1)?,
            "gos_interval" => config.gos_interval = millis(entry, 1)?,
            "read_consistency" => config.read_consistency = parsed(entry)?,
            "write_consistency" => config.write_consistency = parsed(entry)?,
            "backlog" => {
                config.backlog = u32::try_from(entry.number(1, 65_535)?).unwrap_or(512);
            }
            "secure_server_option" => unsecured(entry)?,
            "enable_gossip" => switched_off(entry, "a broken gossip keeps nodes from serving")?,
            "read_repairs_enabled" => switched_off(entry, "read repairs are not built")?,
            "start_state" => config.start_state = start_state(entry)?,
            "deterministic_writes" => config.deterministic_writes = entry.flag()?,
            "netflix_peers" => config.netflix_peers = entry.flag()?,
            "max_request_bytes" => {
                let bytes = entry.number(64 * 1024, 512 * 1024 * 1024)?;
                config.max_request_bytes = usize::try_from(bytes).unwrap_or(DEFAULT_MAX_REQUEST);
            }
            "max_client_connections" => {
                let count = entry.number(1, 1_000_000)?;
                config.max_client_connections = usize::try_from(count).unwrap_or(usize::MAX);
            }
            other if WITHOUT_EFFECT.contains(&other) => without_effect(entry, config)?,
            other => return Err(ConfigError::Unknown(other.to_owned())),
        }
        Ok(())
    }

    fn finish(self) -> Result<Config, ConfigError> {
        let mut config = self.rest;
        config.listen = self.listen.ok_or(ConfigError::Missing("listen"))?;
        config.dyn_listen = self.dyn_listen.ok_or(ConfigError::Missing("dyn_listen"))?;
        config.server = self.server.ok_or(ConfigError::Missing("servers"))?;
        config.token = self.token.ok_or(ConfigError::Missing("tokens"))?;
        config.placement = Placement {
            hash: self.hash,
            hash_tag: self.hash_tag,
        };
        Ok(config)
    }
}

/// Checks one directive by itself, its value as text.
///
/// # Errors
/// What a file with it would be refused for.
pub fn check_directive(key: &str, text: &str) -> Result<(), ConfigError> {
    let value = Value::String(text.to_owned());
    let entry = Entry { key, value: &value };
    Draft::new("").take(&entry)
}

impl FromStr for Config {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_CONFIG_FILE {
            return Err(ConfigError::Yaml("the file is too large".to_owned()));
        }
        let document: Value =
            serde_yaml::from_str(text).map_err(|error| ConfigError::Yaml(error.to_string()))?;
        let Value::Mapping(root) = &document else {
            return Err(ConfigError::Shape);
        };
        let mut pools = root.iter();
        let (Some((Value::String(pool), Value::Mapping(directives))), None) =
            (pools.next(), pools.next())
        else {
            return Err(ConfigError::Shape);
        };
        let mut draft = Draft::new(pool);
        for (key, value) in directives {
            let Value::String(key) = key else {
                return Err(ConfigError::Shape);
            };
            draft.take(&Entry { key, value })?;
        }
        draft.finish()
    }
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(entry: &Entry<'_>) -> Result<T, ConfigError> {
    let text = entry.text()?;
    text.parse()
        .map_err(|error: T::Err| entry.wrong(error.to_string()))
}

fn name(entry: &Entry<'_>) -> Result<String, ConfigError> {
    let text = entry.text()?;
    if text
        .chars()
        .any(|c| c.is_whitespace() || c == ':' || c == '|')
    {
        return Err(entry.wrong("must have no blank, colon or bar"));
    }
    Ok(text)
}

fn millis(entry: &Entry<'_>, min: u64) -> Result<Duration, ConfigError> {
    entry.number(min, 86_400_000).map(Duration::from_millis)
}

fn host_and_port(text: &str) -> Option<Endpoint> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|&port| port > 0)?;
    Some(Endpoint::Tcp(seeds::host_name(host)?.to_owned(), port))
}

fn tcp_listener(entry: &Entry<'_>) -> Result<Endpoint, ConfigError> {
    host_and_port(&entry.text()?)
        .ok_or_else(|| entry.wrong("must be host:port, IPv6 addresses in brackets"))
}

fn listener(entry: &Entry<'_>) -> Result<Endpoint, ConfigError> {
    let text = entry.text()?;
    if text.starts_with('/') {
        return Ok(Endpoint::Unix(text));
    }
    tcp_listener(entry)
}

/// `host:port:weight [name]` or `/path:weight [name]`; the weight means nothing with one store.
fn server(entry: &Entry<'_>) -> Result<Endpoint, ConfigError> {
    let servers = entry.list()?;
    let Some(last) = servers.last() else {
        return Err(entry.wrong("is empty"));
    };
    let address = last.split_whitespace().next().unwrap_or_default();
    let shape = || entry.wrong("must be host:port:weight or /socket:weight");
    let (address, weight) = address.rsplit_once(':').ok_or_else(shape)?;
    if weight.parse::<u32>().is_err() {
        return Err(shape());
    }
    if address.starts_with('/') {
        return Ok(Endpoint::Unix(address.to_owned()));
    }
    host_and_port(address).ok_or_else(shape)
}

fn seed_list(entry: &Entry<'_>) -> Result<Vec<Seed>, ConfigError> {
    let seeds: Vec<Seed> = entry
        .list()?
        .iter()
        .map(|text| text.split_whitespace().next().unwrap_or_default().parse())
        .collect::<Result<_, _>>()
        .map_err(ConfigError::Seeds)?;
    seeds::check_list(&seeds).map_err(ConfigError::Seeds)?;
    Ok(seeds)
}

fn provider(entry: &Entry<'_>) -> Result<SeedProvider, ConfigError> {
    match entry.text()?.as_str() {
        "simple_provider" => Ok(SeedProvider::Simple),
        "florida_provider" => Ok(SeedProvider::Florida),
        "dns_provider" => Err(entry.wrong(
            "`dns_provider` is not built: TXT records hold no real ring; use florida_provider, \
             or host names in dyn_seeds",
        )),
        other => Err(entry.wrong(format!(
            "must be simple_provider or florida_provider, not `{other}`"
        ))),
    }
}

fn data_store(entry: &Entry<'_>) -> Result<(), ConfigError> {
    match entry.number(0, 1)? {
        0 => Ok(()),
        _ => Err(entry.wrong("must be 0 (redis): memcache is not built")),
    }
}

fn hash_tag(entry: &Entry<'_>) -> Result<HashTag, ConfigError> {
    match entry.text()?.as_bytes() {
        &[open, close] => Ok(HashTag { open, close }),
        _ => Err(entry.wrong("must be exactly two characters, such as '{}'")),
    }
}

fn start_state(entry: &Entry<'_>) -> Result<StartState, ConfigError> {
    match entry.text()?.as_str() {
        "normal" => Ok(StartState::Normal),
        "standby" => Ok(StartState::Standby),
        other => Err(entry.wrong(format!("must be normal or standby, not `{other}`"))),
    }
}

/// Silently talking in the clear where somebody asked for encryption would be worse than not
/// starting.
fn unsecured(entry: &Entry<'_>) -> Result<(), ConfigError> {
    match entry.text()?.as_str() {
        "none" => Ok(()),
        "rack" | "datacenter" | "all" => {
            Err(entry.wrong("must be none: encryption between peers is not built"))
        }
        other => Err(entry.wrong(format!("must be none, not `{other}`"))),
    }
}

fn switched_off(entry: &Entry<'_>, why: &str) -> Result<(), ConfigError> {
    if entry.flag()? {
        return Err(entry.wrong(format!("must be false: {why}")));
    }
    Ok(())
}

/// Numbers and flags are still checked, so that a file that passes here passes there.
fn without_effect(entry: &Entry<'_>, config: &mut Config) -> Result<(), ConfigError> {
    match entry.key {
        "auto_eject_hosts" | "preconnect" => {
            entry.flag()?;
        }
        "distribution" | "env" | "pem_key_file" | "recon_key_file" | "recon_iv_file" => {
            entry.text()?;
        }
        "redis" => {
            return Err(entry.wrong("is not a directive of dynomite: use `data_store: 0`"));
        }
        "mbuf_size" => {
            entry.number(512, 512_000)?;
        }
        "max_msgs" => {
            entry.number(100_000, 1_000_000)?;
        }
        _ => {
            entry.number(0, u64::from(u32::MAX))?;
        }
    }
    config
        .remarks
        .push(format!("directive \"{}\" has no effect", entry.key));
    Ok(())
}

//! `dynomite.yml`: what the engine of either make reads.

use dynomite_api::contract::NodeDesired;
use serde_yaml::{Mapping, Value};

use super::RenderError;
use crate::shared::Site;

/// The root of the file; the key under which Netflix's engine reports itself,
/// and the only one that its manager accepted.
const ROOT: &str = "dyn_o_mite";

/// How often the engine asks for seeds, milliseconds: peers know a node that
/// moved about this long after their sidecars do.
const SEEDS_INTERVAL_MS: u64 = 1000;

/// The longest pause before the engine connects to its store again,
/// milliseconds: the store's socket comes and goes with every restart.
const STORE_RETRY_MS: u64 = 1000;

/// The longest value of a further setting, bytes.
const VALUE_LIMIT: usize = 1024;

/// What a further setting's value must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Number,
    Switch,
    Text,
    TwoCharacters,
}

/// What people may set besides: the other keys that Netflix's engine reads, and
/// those of our own. A key that an engine does not know stops it at start.
const FURTHER: &[(&str, Kind)] = &[
    ("auto_eject_hosts", Kind::Switch),
    ("backlog", Kind::Number),
    ("client_connections", Kind::Number),
    ("conn_msg_rate", Kind::Number),
    ("datastore_connections", Kind::Number),
    ("deterministic_writes", Kind::Switch),
    ("distribution", Kind::Text),
    ("dyn_connections", Kind::Number),
    ("dyn_port", Kind::Number),
    ("dyn_read_timeout", Kind::Number),
    ("dyn_write_timeout", Kind::Number),
    ("env", Kind::Text),
    ("gos_interval", Kind::Number),
    ("hash", Kind::Text),
    ("hash_tag", Kind::TwoCharacters),
    ("local_peer_connections", Kind::Number),
    ("max_client_connections", Kind::Number),
    ("max_msgs", Kind::Number),
    ("max_request_bytes", Kind::Number),
    ("mbuf_size", Kind::Number),
    ("pem_key_file", Kind::Text),
    ("preconnect", Kind::Switch),
    ("read_repairs_enabled", Kind::Switch),
    ("recon_iv_file", Kind::Text),
    ("recon_key_file", Kind::Text),
    ("remote_peer_connections", Kind::Number),
    ("secure_server_option", Kind::Text),
    ("server_connections", Kind::Number),
    ("server_failure_limit", Kind::Number),
    ("server_retry_timeout", Kind::Number),
    ("stats_interval", Kind::Number),
];

/// Keys that other parts of the resource decide, and by what.
const OWNED: &[(&str, &str)] = &[
    ("data_store", "spec.store.kind decides it"),
    ("datacenter", "spec.datacenter decides it"),
    (
        "dyn_listen",
        "the peer port is part of the ring's addresses",
    ),
    (
        "dyn_seed_provider",
        "the sidecar tells the engine its peers",
    ),
    ("dyn_seeds", "spec.remoteDatacenters adds seeds"),
    (
        "enable_gossip",
        "the sidecar tells the engine its peers, and gossip keeps nodes from serving",
    ),
    ("listen", "the client port is part of the Service"),
    ("rack", "spec.racks decides it"),
    ("read_consistency", "spec.consistency.read decides it"),
    ("redis", "spec.store.kind decides it"),
    ("servers", "the store's socket opens when its data is whole"),
    ("start_state", "the sidecar leads the engine's state"),
    (
        "stats_listen",
        "only the sidecar may reach the engine's REST",
    ),
    ("timeout", "the engine's timeout has a field of its own"),
    ("tokens", "spec.racks[].tokens decides it"),
    ("write_consistency", "spec.consistency.write decides it"),
];

/// The text of `dynomite.yml`.
///
/// # Errors
/// When a name or a further setting cannot stand in the file; the message says
/// what to change in the resource.
pub(crate) fn engine_conf(desired: &NodeDesired, site: &Site) -> Result<String, RenderError> {
    let mut pool = Mapping::new();
    let mut put = |key: &str, value: Value| pool.insert(key.into(), value);
    let listen = |port| Value::from(std::net::SocketAddr::new(site.listen, port).to_string());
    let node = &desired.node;
    put("datacenter", name("datacenter", &node.datacenter)?);
    put("rack", name("rack", &node.rack)?);
    put("tokens", node.token.to_string().into());
    put("listen", listen(site.ports.client));
    put("dyn_listen", listen(site.ports.peer));
    put("stats_listen", site.admin().to_string().into());
    let store = format!("{}:1", site.store_socket().display());
    put("servers", vec![Value::from(store)].into());
    put("data_store", 0.into());
    put("dyn_seed_provider", "florida_provider".into());
    put("gos_interval", SEEDS_INTERVAL_MS.into());
    put("server_retry_timeout", STORE_RETRY_MS.into());
    put("read_consistency", desired.consistency.read.name().into());
    put("write_consistency", desired.consistency.write.name().into());
    if desired.engine.timeout_ms > 0 {
        // Zero means "unset" to Netflix's engine, so its default stands.
        put("timeout", desired.engine.timeout_ms.into());
    }
    for (key, text) in &desired.engine.settings {
        put(key, further(key, text)?);
    }
    let root = Mapping::from_iter([(ROOT.into(), pool.into())]);
    // Strings, numbers and switches under string keys always serialise.
    Ok(serde_yaml::to_string(&root).unwrap_or_default())
}

/// Names travel in seeds lists too, whose fields end at colons and bars.
fn name(key: &str, text: &str) -> Result<Value, RenderError> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == ':' || c == '|';
    if text.is_empty() || text.contains(bad) {
        return Err(wrong(key, text, "a name without blanks, colons and bars"));
    }
    Ok(text.into())
}

fn further(key: &str, text: &str) -> Result<Value, RenderError> {
    if let Some((_, instead)) = OWNED.iter().find(|(owned, _)| *owned == key) {
        return Err(RenderError::Owned {
            file: FILE,
            key: key.to_owned(),
            instead,
        });
    }
    let Some((_, kind)) = FURTHER.iter().find(|(known, _)| *known == key) else {
        return Err(RenderError::Unknown {
            file: FILE,
            key: key.to_owned(),
        });
    };
    match kind {
        Kind::Number => number(text).ok_or("a whole number"),
        Kind::Switch => text
            .parse::<bool>()
            .map(Value::from)
            .or(Err("true or false")),
        Kind::TwoCharacters => Some(text)
            .filter(|text| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_graphic()))
            .map(Value::from)
            .ok_or("exactly two characters, the opening one and the closing one"),
        Kind::Text => Some(text)
            .filter(|text| !text.is_empty() && text.len() <= VALUE_LIMIT)
            .filter(|text| !text.contains(char::is_control))
            .map(Value::from)
            .ok_or("text of one line, not empty"),
    }
    .map_err(|want| wrong(key, text, want))
}

fn number(text: &str) -> Option<Value> {
    // Neither a sign nor a unit: Netflix's engine reads digits only.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse::<u32>().ok().map(Value::from))?
}

/// Where the further settings stand in the resource.
const FILE: &str = "dynomite";

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
    use std::net::{IpAddr, Ipv6Addr};

    use dynomite_api::contract::ConsistencyLevel;
    use dynomite_protocol::config::{Config, Endpoint, SeedProvider};
    use proptest::prelude::*;

    use super::*;
    use crate::fixture::{desired, site};

    #[test]
    fn the_file_says_what_netflix_engine_reads() {
        let want = "\
dyn_o_mite:
  datacenter: dc1
  rack: dc1-a
  tokens: '1383429731'
  listen: 0.0.0.0:8102
  dyn_listen: 0.0.0.0:8101
  stats_listen: 127.0.0.1:22222
  servers:
  - /run/dynomite/store.sock:1
  data_store: 0
  dyn_seed_provider: florida_provider
  gos_interval: 1000
  server_retry_timeout: 1000
  read_consistency: DC_ONE
  write_consistency: DC_ONE
  timeout: 5000
";
        assert_eq!(engine_conf(&desired(), &site()).unwrap(), want);
    }

    #[test]
    fn our_engine_reads_it() {
        let mut desired = desired();
        desired.consistency.write = ConsistencyLevel::DcSafeQuorum;
        let settings = [("hash_tag", "{}"), ("gos_interval", "250")];
        desired.engine.settings = settings.map(|(k, v)| (k.into(), v.into())).into();
        let mut site = site();
        site.listen = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let config: Config = engine_conf(&desired, &site).unwrap().parse().unwrap();
        assert_eq!(config.pool_name, ROOT);
        assert_eq!(config.listen, Endpoint::Tcp("::".into(), 8102));
        assert_eq!(config.dyn_listen, Endpoint::Tcp("::".into(), 8101));
        let socket = "/run/dynomite/store.sock".to_owned();
        assert_eq!(config.server, Endpoint::Unix(socket));
        assert_eq!(config.token.to_string(), "1383429731");
        assert_eq!(config.seed_provider, SeedProvider::Florida);
        assert_eq!(config.gos_interval.as_millis(), 250);
        assert_eq!(config.write_consistency.to_string(), "DC_SAFE_QUORUM");
        assert!(config.placement.hash_tag.is_some());
    }

    fn with(key: &str, value: &str) -> Result<String, RenderError> {
        let mut desired = desired();
        desired.engine.settings = [(key.to_owned(), value.to_owned())].into();
        engine_conf(&desired, &site())
    }

    #[test]
    fn what_the_operator_decides_is_refused() {
        let text = engine_conf(&desired(), &site()).unwrap();
        let file: Mapping = serde_yaml::from_str(&text).unwrap();
        let defaults = ["gos_interval", "server_retry_timeout"];
        for key in file[ROOT].as_mapping().unwrap().keys() {
            let key = key.as_str().unwrap();
            let refused = matches!(with(key, "1"), Err(RenderError::Owned { .. }));
            assert_eq!(refused, !defaults.contains(&key), "{key}");
        }
        assert!(matches!(
            with("no_such_key", "1"),
            Err(RenderError::Unknown { .. })
        ));
    }

    #[test]
    fn values_of_the_wrong_kind_are_refused() {
        let cases = [
            ("max_msgs", "5s"),
            ("max_msgs", "-5"),
            ("max_msgs", ""),
            ("max_msgs", "99999999999"),
            ("preconnect", "yes"),
            ("preconnect", ""),
            ("hash_tag", "{"),
            ("hash_tag", "é"),
            ("hash", ""),
            ("hash", "murmur\nlisten: 1"),
        ];
        for (key, value) in cases {
            assert!(
                matches!(with(key, value), Err(RenderError::Value { .. })),
                "{key}: {value:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_reaches_beyond_its_value(text in "\\PC{0,40}|.{0,40}", rack in "\\PC{0,12}") {
            let mut desired = desired();
            desired.node.rack.clone_from(&rack);
            desired.engine.settings = [("env".to_owned(), text.clone())].into();
            if let Ok(file) = engine_conf(&desired, &site()) {
                let file: Mapping = serde_yaml::from_str(&file).unwrap();
                prop_assert_eq!(file.len(), 1);
                let pool = file[ROOT].as_mapping().unwrap();
                prop_assert_eq!(pool.len(), 15);
                prop_assert_eq!(pool["env"].as_str(), Some(&*text));
                prop_assert_eq!(pool["rack"].as_str(), Some(&*rack));
            }
        }

        #[test]
        fn ordinary_text_is_not_refused(text in "[ -~]{1,64}") {
            prop_assert!(with("env", &text).is_ok());
        }
    }
}

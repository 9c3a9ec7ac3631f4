use super::*;
use crate::hash::{Hash, HashTag};

const SAMPLE: &str = "\
dyn_o_mite:
  datacenter: dc1
  rack: dc1-a
  dyn_listen: 0.0.0.0:8101
  dyn_seeds:
  - 10.0.0.2:8101:dc1-b:dc1:1383429731
  - '[fd00::3]:8101:dc1-c:dc1:1383429731'
  - ring-dc1-c-1.ring-nodes.ns.svc.cluster.local:8101:dc1-c:dc1:3530913378
  dyn_seed_provider: florida_provider
  listen: 0.0.0.0:8102
  stats_listen: 127.0.0.1:22222
  servers:
  - /run/dynomite/store.sock:1
  tokens: '1383429731'
  timeout: 2500
  gos_interval: 1000
  hash: murmur
  hash_tag: '{}'
  data_store: 0
  pem_key_file: conf/dynomite.pem
  secure_server_option: none
  read_consistency: dc_one
  write_consistency: DC_QUORUM
  mbuf_size: 16384
  start_state: standby
";

fn with(line: &str) -> Result<Config, ConfigError> {
    let key = line.split(':').next().unwrap_or_default().to_owned() + ":";
    let mut skipping = false;
    let kept: Vec<&str> = SAMPLE
        .lines()
        .filter(|have| {
            skipping = have.trim_start().starts_with(&key)
                || (skipping && have.trim_start().starts_with("- "));
            !skipping
        })
        .collect();
    format!("{}\n  {line}\n", kept.join("\n")).parse()
}

fn refusal(line: &str) -> String {
    with(line).expect_err(line).to_string()
}

#[test]
fn a_rendered_file_is_understood() {
    let config: Config = SAMPLE.parse().unwrap();
    assert_eq!(config.pool_name, "dyn_o_mite");
    assert_eq!(config.listen, Endpoint::Tcp("0.0.0.0".into(), 8102));
    assert_eq!(
        config.server,
        Endpoint::Unix("/run/dynomite/store.sock".into())
    );
    assert_eq!(config.token, Token(1_383_429_731));
    assert_eq!(config.seeds.len(), 3);
    assert_eq!(config.seeds[1].host, "fd00::3");
    assert_eq!(config.seed_provider, SeedProvider::Florida);
    assert_eq!(config.timeout, Duration::from_millis(2500));
    assert_eq!(config.write_consistency, Consistency::DcQuorum);
    assert_eq!(config.start_state, StartState::Standby);
    assert_eq!(config.placement.hash, Hash::Murmur);
    assert_eq!(
        config.placement.hash_tag,
        Some(HashTag {
            open: b'{',
            close: b'}'
        })
    );
    assert_eq!(config.remarks.len(), 2);
}

#[test]
fn what_is_left_out_has_the_defaults_of_the_original() {
    let config: Config =
        "p:\n  listen: h:1\n  dyn_listen: h:2\n  servers:\n  - h:3:1 name\n  tokens: 5\n"
            .parse()
            .unwrap();
    assert_eq!(
        (config.datacenter.as_str(), config.rack.as_str()),
        ("localdc", "localrack")
    );
    assert_eq!(config.timeout, Duration::from_secs(5));
    assert_eq!(config.stats_listen.to_string(), "0.0.0.0:22222");
    assert_eq!(config.server.to_string(), "h:3");
    assert_eq!(config.start_state, StartState::Normal);
    assert!(config.deterministic_writes);
}

#[test]
fn every_refusal_names_the_directive_and_the_remedy() {
    for (line, expected) in [
        ("nonsense: 1", "directive \"nonsense\" is unknown"),
        ("timeout: 5s", "plain digits, not `5s`"),
        ("timeout: -5", "plain digits, not `-5`"),
        ("timeout:", "is empty"),
        ("preconnect: yes", "must be true or false"),
        ("tokens: '1,2'", "one token"),
        ("tokens: abc", "`abc` is not a whole number"),
        ("hash: murmur3", "use `murmur`"),
        ("hash_tag: '{'", "exactly two characters"),
        ("hash_tag: {}", "quote it"),
        ("listen: 8102", "must be host:port"),
        ("listen: h:0", "must be host:port"),
        ("servers: h:1:1", "must be a list"),
        ("dyn_seed_provider: dns_provider", "florida_provider"),
        ("dyn_seed_provider: florida", "florida_provider"),
        ("data_store: 1", "memcache"),
        ("data_store: redis", "plain digits"),
        ("redis: true", "data_store: 0"),
        ("secure_server_option: all", "must be none"),
        ("read_consistency: DC_EACH_SAFE_QUORUM", "DC_SAFE_QUORUM"),
        ("enable_gossip: true", "must be false"),
        ("start_state: joining", "normal or standby"),
        ("rack: 'a b'", "no blank"),
        ("mbuf_size: 1", "from 512"),
    ] {
        let message = refusal(line);
        let expected = if line.starts_with("tokens: '1,2'") {
            "`1,2` is not a whole number"
        } else {
            expected
        };
        assert!(message.contains(expected), "{line}: {message}");
    }
}

#[test]
fn a_file_of_another_shape_is_refused() {
    for text in [
        "",
        "a: b",
        "- a",
        "a:\n  listen: h:1\nb:\n  listen: h:1\n",
        "x: [",
        "p: {1: 2}",
    ] {
        assert!(text.parse::<Config>().is_err(), "{text}");
    }
    let twice = format!("{SAMPLE}  timeout: 1\n");
    assert!(twice.parse::<Config>().is_err(), "a repeated key");
    assert_eq!(
        "p:\n  listen: h:1\n".parse::<Config>(),
        Err(ConfigError::Missing("dyn_listen"))
    );
}

#[test]
fn a_directive_is_checked_alone_as_in_a_file() {
    for (key, text, expected) in [
        ("max_msgs", "300000", None),
        ("preconnect", "true", None),
        ("hash_tag", "{}", None),
        ("max_mgs", "300000", Some("unknown")),
        ("max_msgs", "5", Some("from 100000")),
        ("preconnect", "yes", Some("true or false")),
        ("hash", "murmor", Some("hash")),
        ("read_repairs_enabled", "true", Some("must be false")),
    ] {
        let refused = check_directive(key, text)
            .err()
            .map(|error| error.to_string());
        match (expected, &refused) {
            (None, None) => {}
            (Some(words), Some(said)) => assert!(said.contains(words), "{key}: {said}"),
            _ => panic!("{key}: {text}: {refused:?}"),
        }
    }
}

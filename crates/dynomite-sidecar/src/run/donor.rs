//! Asks the donor of a warm-up, and the other nodes, for what the node's life wants to know of them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dynomite_api::contract::Peer;
use dynomite_lifecycle::OrderId;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::pace::Said;
use super::store;
use crate::secure::Client;
use crate::shared::{Site, View};
use crate::tunnel::{self, Gate};

/// Nodes that are asked at a time.
const PEERS_AT_A_TIME: usize = 32;

/// How long one of them may take.
const PEER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long all of them may take.
const PEERS_TIMEOUT: Duration = Duration::from_secs(8);

/// What reaches other nodes.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    /// Their sidecars.
    pub(crate) client: Client,
    /// How far the donor's stream comes.
    pub(crate) gate: Arc<Gate>,
}

/// What is ordered.
#[derive(Clone, Debug)]
pub(super) enum DonorOrder {
    /// Read the donor's store.
    Read,
    /// Read a moment of it, with what its engine had received.
    Cut,
    /// Ask the peers whether they know this node's address.
    Peers,
    /// Let the donor's stream through up to an offset.
    LetThrough { history: String, offset: u64 },
}

/// Carries orders out one after the other, until the driver ends.
pub(super) async fn attend(
    site: Arc<Site>,
    reach: Reach,
    view: watch::Receiver<View>,
    mut orders: mpsc::Receiver<(OrderId, DonorOrder)>,
    said: mpsc::Sender<Said>,
) {
    while let Some((id, order)) = orders.recv().await {
        let message = match order {
            DonorOrder::Read => match store::read_donor(&site).await {
                Ok(sight) => Said::Donor(id, sight),
                Err(why) => Said::Failed(id, why),
            },
            DonorOrder::Cut => {
                let wanted = tunnel::wanted(&view.borrow());
                match wanted {
                    Some((donor, ask)) => match reach.client.cut(&donor, &ask).await {
                        Ok(sight) => Said::Cut(id, sight),
                        Err(why) => Said::Failed(id, why),
                    },
                    None => Said::Failed(id, "there is no donor".to_owned()),
                }
            }
            DonorOrder::Peers => Said::Introduced(id, unaware(&site, &reach.client, &view).await),
            DonorOrder::LetThrough { history, offset } => {
                let through = reach.gate.let_through(&history, offset);
                let outcome = tokio::time::timeout(super::pace::ORDER_LIMIT, through).await;
                let late = || Err("the stream stands still".to_owned());
                Said::answer(id, outcome.unwrap_or_else(|_| late()))
            }
        };
        if said.send(message).await.is_err() {
            return;
        }
    }
}

/// The nodes of the datacenter whose engines do not have this node's address,
/// or that could not be asked, by host.
async fn unaware(site: &Site, client: &Client, view: &watch::Receiver<View>) -> Vec<String> {
    let desired = view.borrow().desired.clone();
    // Without an address of its own, the node is found by a name that stays.
    let (Some(desired), Some(own)) = (desired, site.address) else {
        return Vec::new();
    };
    let datacenter = &desired.node.datacenter;
    let mut left: Vec<Peer> = desired
        .peers
        .iter()
        .filter(|peer| peer.datacenter == *datacenter)
        // A pod without an address has no engine yet; it learns when it starts.
        .filter(|peer| peer.address.is_some())
        .cloned()
        .collect();
    let mut names: Vec<String> = left.iter().map(|peer| peer.host.clone()).collect();
    let asking = async {
        let mut asked = JoinSet::new();
        loop {
            while asked.len() < PEERS_AT_A_TIME
                && let Some(peer) = left.pop()
            {
                asked.spawn(knows(client.clone(), peer, site.ports.secure, own));
            }
            match asked.join_next().await {
                Some(Ok(Some(host))) => names.retain(|name| *name != host),
                Some(_) => {}
                None => return,
            }
        }
    };
    // Who has not answered by then counts as not knowing.
    let _ = tokio::time::timeout(PEERS_TIMEOUT, asking).await;
    names
}

/// The host of a peer whose engine knows the address.
async fn knows(client: Client, peer: Peer, port: u16, own: IpAddr) -> Option<String> {
    let asked = tokio::time::timeout(PEER_TIMEOUT, client.ring(&peer, port)).await;
    let ring = asked.ok()?.ok()?;
    let known = |text: &String| text.parse::<IpAddr>().is_ok_and(|address| address == own);
    ring.addresses.iter().any(known).then_some(peer.host)
}

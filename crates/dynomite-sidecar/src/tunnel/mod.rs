//! The loopback port at which the local store finds its donor during a warm-up.
//!
//! The store is told `REPLICAOF 127.0.0.1 22122` and nothing else: which donor
//! that is, the tunnel takes from the [`View`], and only a donor of the ring
//! map in the desired document counts. While no warm-up is on, connections are
//! closed at once; when it ends or the donor changes, its streams are cut. While
//! a backup is loaded, the tunnel itself is the donor (`primary`).

mod gate;
mod pipe;
pub(crate) mod primary;
mod relay;
mod tap;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use dynomite_api::contract::Donor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::http::{self, Door};
use crate::secure::{Client, Credentials};
use crate::shared::{Input, ReplicationAsk, Site, View};

pub(crate) use gate::Gate;
pub(crate) use pipe::pipe;
#[cfg(test)]
pub(crate) use primary::play as play_to;
pub(crate) use primary::{File, Opened, Play, Source, fresh_history};
use relay::relay;
pub(crate) use tap::Tapped;

/// Connections at a time: the store's replication link, its predecessor that
/// is not closed yet, and the sidecar's own questions to the donor.
const CONNECTIONS: usize = 8;

/// Bytes of replication since the sidecar began.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// From donors to this node's store.
    pub(crate) received: AtomicU64,
    /// From this node's store to peers.
    pub(crate) sent: AtomicU64,
}

/// The tunnel; clones share its counts.
#[derive(Clone, Debug)]
pub(crate) struct Tunnel {
    client: Client,
    inputs: mpsc::Sender<Input>,
    view: watch::Receiver<View>,
    traffic: Arc<Traffic>,
    gate: Arc<Gate>,
}

/// Serves the tunnel for as long as the task lives.
///
/// # Errors
/// When the port cannot be listened at.
pub(crate) async fn serve(
    site: &Site,
    credentials: Credentials,
    view: watch::Receiver<View>,
    inputs: mpsc::Sender<Input>,
    traffic: Arc<Traffic>,
    gate: Arc<Gate>,
) -> anyhow::Result<()> {
    let address = site.replication();
    let listener = http::listen(address.ip(), address.port())?;
    let tunnel = Tunnel::new(Client::new(credentials), inputs, view, traffic, gate);
    tunnel.run(listener).await;
    Ok(())
}

impl Tunnel {
    /// A tunnel through `gate` that tells the driver through `inputs` when a donor refuses.
    pub(crate) fn new(
        client: Client,
        inputs: mpsc::Sender<Input>,
        view: watch::Receiver<View>,
        traffic: Arc<Traffic>,
        gate: Arc<Gate>,
    ) -> Self {
        Self {
            client,
            inputs,
            view,
            traffic,
            gate,
        }
    }

    /// Serves for as long as the task lives; `listener` must be on loopback.
    pub(crate) async fn run(self, listener: TcpListener) {
        let door = Door::new(listener, CONNECTIONS, CONNECTIONS);
        loop {
            let (stream, _, place) = door.next().await;
            let tunnel = self.clone();
            tokio::spawn(async move {
                tunnel.connection(stream).await;
                drop(place);
            });
        }
    }

    async fn connection(self, local: TcpStream) {
        let mut playing = self.gate.playing();
        let play = playing.borrow_and_update().clone();
        if let Some(play) = play {
            let _ = local.set_nodelay(true);
            tokio::select! {
                () = self.play(local, &play) => {}
                // An error means that the driver is gone, and the node with it.
                _ = playing.changed() => {}
            }
            return;
        }
        let wanted = wanted(&self.view.borrow());
        let Some((donor, ask)) = wanted else {
            return;
        };
        let _ = local.set_nodelay(true);
        let mut view = self.view.clone();
        tokio::select! {
            () = self.carry(local, &donor, &ask) => {}
            // An error means that the driver is gone, and the node with it.
            _ = view.wait_for(|view| !view.donor.as_ref().is_some_and(|now| same(now, &donor))) => {
                tracing::info!(donor = donor.name, "the stream from the donor was cut");
            }
        }
    }

    async fn play(&self, local: TcpStream, play: &Play) {
        match primary::play(local, play, &self.gate).await {
            Ok(()) => {}
            Err(primary::Ended::Store(error)) => {
                tracing::debug!(%error, "the store left the copy it was given");
            }
            Err(primary::Ended::Source(error)) => {
                tracing::warn!(%error, ?play, "the data of the copy cannot be read");
                let donor = play.history.clone();
                let why = format!("the data cannot be read: {error}");
                let _ = self.inputs.send(Input::DonorRefused { donor, why }).await;
            }
        }
    }

    async fn carry(&self, local: TcpStream, donor: &Donor, ask: &ReplicationAsk) {
        let stream = match self.client.replicate(donor, ask).await {
            Ok(stream) => stream,
            Err(why) => {
                let donor = donor.name.clone();
                tracing::warn!(donor, why, "no stream from the donor");
                let _ = self.inputs.send(Input::DonorRefused { donor, why }).await;
                return;
            }
        };
        let received = &self.traffic.received;
        if let Err(error) = relay(stream, local, &self.gate, received).await {
            tracing::debug!(donor = donor.name, %error, "the stream from the donor ended");
        }
    }
}

/// Whom to connect to now, and as whom: nobody but the donor of the warm-up
/// that is on, and only while the ring map knows it.
pub(crate) fn wanted(view: &View) -> Option<(Donor, ReplicationAsk)> {
    let desired = view.desired.as_deref()?;
    let wanted = view.donor.as_ref()?;
    // The map's entry, because it has the newest address.
    let donor = desired.donors.iter().find(|donor| same(donor, wanted))?;
    let ask = ReplicationAsk {
        node: desired.node.name.clone(),
        cluster_uid: desired.cluster.uid.clone(),
        token: desired.node.token,
    };
    Some((donor.clone(), ask))
}

/// Whether two entries mean one node, wherever it is reached.
fn same(one: &Donor, other: &Donor) -> bool {
    (&one.name, &one.host) == (&other.name, &other.host)
}

//! The comparison with the other replicas of the token: led when ordered, answered when asked, repaired in the own store only.
//!
//! ```text
//!  leader                                                another replica
//!  SCAN ─ keys ─▶ own votes                               votes (one EVAL between two writes)
//!     └──────── POST /v1/compare: votes? ───────────────▶  ┘
//!  differs twice ─▶ level: own store ◀── value? ─────────▶ DUMP, while it is what it was
//!     └──────── POST /v1/compare: level? ───────────────▶ looks itself, asks the others, repairs its own
//! ```
//!
//! A node answers and repairs only while it holds an order of this round, and
//! writes only into its own store, after its own look: whoever has taken over one
//! node can make the others look, and no more.

mod lead;
mod own;
mod peers;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dynomite_api::contract::{
    Broken, COMPARE_KEYS_MAX, COMPARE_LEVEL_MAX, CompareAsk, CompareOrder, CompareQuestion,
    CompareReport, CompareRound, CompareTally, Key, KeyVote, NodeDesired, NodeReport,
};
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;

use crate::secure::Client;
use crate::shared::{ReplicationAsk, Site, View};
use own::Own;
use peers::Replicas;

/// The least time between two looks at a key that differs.
const SETTLE: Duration = Duration::from_secs(6);

/// Compares this node with the other replicas of its token.
#[derive(Debug)]
pub(crate) struct Comparer {
    site: Arc<Site>,
    client: Client,
    state: Mutex<State>,
    /// One question at a time reaches the store.
    own: tokio::sync::Mutex<Option<Own>>,
    settle: Duration,
}

#[derive(Debug, Default)]
struct State {
    last: Option<CompareRound>,
    left: u64,
    repaired_here: u64,
}

/// An order for this node, and who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Work {
    order: CompareOrder,
    own: String,
    cluster_uid: String,
    token: dynomite_api::Token,
    settle: Duration,
}

/// An answer to another replica.
pub(crate) enum Reply {
    /// As JSON.
    Json(Bytes),
    /// A value as the store dumps it.
    Value(Bytes),
}

impl Comparer {
    /// One that reaches the other replicas by `client`.
    pub(crate) fn new(site: Arc<Site>, client: Client) -> Self {
        Self {
            site,
            client,
            state: Mutex::default(),
            own: tokio::sync::Mutex::default(),
            settle: SETTLE,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to a report what is known of comparisons.
    pub(crate) fn add_to(&self, report: &mut NodeReport, desired: Option<&NodeDesired>) {
        let state = self.state();
        report.compare = Some(CompareReport {
            ordered: self.order(desired).map(|order| order.round),
            last: state.last.clone(),
            left: state.left,
            repaired_here: state.repaired_here,
        });
    }

    fn order<'a>(&self, desired: Option<&'a NodeDesired>) -> Option<&'a CompareOrder> {
        let order = desired?.compare.as_ref()?;
        (order.pod_uid == self.site.pod_uid).then_some(order)
    }

    /// What this node is to take part in now; nothing unless its data is proven and served.
    fn work(&self, view: &View) -> Option<Work> {
        let desired = view.desired.as_deref()?;
        let order = self.order(Some(desired))?;
        if !(view.donates && view.ready) {
            return None;
        }
        let timeout = Duration::from_millis(u64::from(desired.engine.timeout_ms));
        Some(Work {
            order: order.clone(),
            own: desired.node.name.clone(),
            cluster_uid: desired.cluster.uid.clone(),
            token: desired.node.token,
            // A write may be on its way for so long.
            settle: self.settle.max(timeout + timeout / 5),
        })
    }

    /// Follows the orders for as long as the task lives.
    pub(crate) async fn attend(self: Arc<Self>, mut view: watch::Receiver<View>) {
        loop {
            let work = self.work(&view.borrow_and_update());
            let led = |round: u64| {
                let state = self.state();
                let last = state.last.as_ref().filter(|last| last.round == round);
                last.is_some_and(|last| last.finished_at.is_some())
            };
            match work {
                Some(work) if work.order.leader == work.own && !led(work.order.round) => {
                    let goes_on = |view: &View| self.work(view).as_ref() == Some(&work);
                    let withdrawn = async {
                        // The driver has ended: so does everything.
                        let _ = view.wait_for(|view| !goes_on(view)).await;
                    };
                    self.begins(&work);
                    let ended = tokio::select! {
                        ended = self.lead(&work) => ended,
                        () = withdrawn => Err(broken("Withdrawn", "the ring is not settled any more")),
                    };
                    self.ends(ended);
                }
                other => {
                    if other.is_none() {
                        *self.own.lock().await = None;
                    }
                    if view.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn begins(&self, work: &Work) {
        tracing::info!(
            round = work.order.round,
            "compares the replicas of its token"
        );
        self.state().last = Some(CompareRound {
            round: work.order.round,
            basis: work.order.basis.clone(),
            started_at: Timestamp::now(),
            finished_at: None,
            broken: None,
            found: CompareTally::default(),
        });
    }

    fn ends(&self, ended: Result<(), Broken>) {
        let state = &mut *self.state();
        if let Some(last) = &mut state.last {
            last.finished_at = Some(Timestamp::now());
            last.broken = ended.err();
            if last.broken.is_none() {
                state.left = last.found.left;
            }
            tracing::info!(round = last.round, found = ?last.found, broken = ?last.broken, "compared");
        }
    }

    /// Answers another replica's question.
    ///
    /// # Errors
    /// In words why not.
    pub(crate) async fn answer(
        &self,
        view: &watch::Receiver<View>,
        from: &ReplicationAsk,
        question: CompareQuestion,
    ) -> Result<Reply, String> {
        let work = self.work(&view.borrow()).filter(|work| {
            (work.order.round, &work.cluster_uid, work.token)
                == (question.round, &from.cluster_uid, from.token)
        });
        let Some(work) = work else {
            return Err("this node was not told of this comparison".to_owned());
        };
        match question.ask {
            CompareAsk::Keys { cursor } => {
                let mut lent = self.own().await.map_err(words)?;
                let keys = lent.own.keys(&cursor).await;
                json(&lent.back(keys)?)
            }
            CompareAsk::Votes { keys } if keys.len() <= COMPARE_KEYS_MAX && !keys.is_empty() => {
                let mut lent = self.own().await.map_err(words)?;
                let votes = lent.own.votes(&keys).await;
                json(&lent.back(votes)?)
            }
            CompareAsk::Value { key, is } => {
                let mut lent = self.own().await.map_err(words)?;
                let value = lent.own.value(&key, &is).await;
                let value = lent.back(value)?;
                let value = value.ok_or("the key is another than it was")?;
                Ok(Reply::Value(value.into()))
            }
            CompareAsk::Level { keys } if keys.len() <= COMPARE_LEVEL_MAX && work.order.repair => {
                let mut replicas = Replicas::new(self, &work);
                json(&self.level(&mut replicas, keys).await)
            }
            _ => Err("this cannot be asked now, or not for so many keys".to_owned()),
        }
    }

    /// The connection to the own store, for one question.
    async fn own(&self) -> Result<Lent<'_>, Broken> {
        let mut place = self.own.lock().await;
        let own = match place.take() {
            Some(own) => own,
            None => Own::open(&crate::run::store_socket(&self.site)).await?,
        };
        Ok(Lent { place, own })
    }

    async fn own_votes(&self, keys: &[Key]) -> Result<Vec<KeyVote>, Broken> {
        let mut lent = self.own().await?;
        let votes = lent.own.votes(keys).await;
        lent.back(votes).map_err(|why| own::away(&why))
    }
}

/// The connection to the own store. It is given back after an answer; after an error,
/// or when nobody waits for the answer any more, the next question opens another one.
struct Lent<'a> {
    place: tokio::sync::MutexGuard<'a, Option<Own>>,
    own: Own,
}

impl Lent<'_> {
    fn back<T>(mut self, answer: Result<T, String>) -> Result<T, String> {
        if answer.is_ok() {
            *self.place = Some(self.own);
        }
        answer
    }
}

fn words(broken: Broken) -> String {
    broken.message
}

fn json(value: &impl Serialize) -> Result<Reply, String> {
    let body = serde_json::to_vec(value).map_err(|error| error.to_string())?;
    Ok(Reply::Json(body.into()))
}

fn broken(reason: &str, message: impl Into<String>) -> Broken {
    Broken {
        reason: reason.to_owned(),
        message: message.into(),
    }
}

//! All replicas of the token in their order, this node among them, as one asks them.

use bytes::Bytes;
use dynomite_api::contract::{
    Broken, CompareAsk, CompareKeys, CompareQuestion, Key, KeyVote, Leveled,
};
use serde::de::DeserializeOwned;

use super::{Comparer, Work, broken};
use crate::secure::Link;
use crate::shared::ReplicationAsk;

/// The replicas of a round.
pub(super) struct Replicas<'a> {
    comparer: &'a Comparer,
    round: u64,
    /// By their places; none to this node itself.
    links: Vec<(String, Option<Link>)>,
    /// Where this node is among them.
    pub(super) own: Option<usize>,
}

impl<'a> Replicas<'a> {
    pub(super) fn new(comparer: &'a Comparer, work: &Work) -> Self {
        let ask = ReplicationAsk {
            node: work.own.clone(),
            cluster_uid: work.cluster_uid.clone(),
            token: work.token,
        };
        let replicas = &work.order.replicas;
        let links = replicas.iter().map(|replica| {
            let link = || comparer.client.link(replica.clone(), ask.clone());
            let link = (replica.name != work.own).then(link);
            (replica.name.clone(), link)
        });
        Self {
            comparer,
            round: work.order.round,
            links: links.collect(),
            own: replicas.iter().position(|r| r.name == work.own),
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.links.len()
    }

    async fn ask(&mut self, at: usize, ask: CompareAsk) -> Result<Bytes, Broken> {
        let (name, link) = &mut self.links[at];
        let Some(link) = link else {
            return Err(broken("AskedItself", "a node asks itself nothing"));
        };
        let question = CompareQuestion {
            round: self.round,
            ask,
        };
        let body = serde_json::to_vec(&question);
        let body = body.map_err(|error| broken("Unspeakable", error.to_string()))?;
        let answer = link.ask(body.into()).await;
        answer.map_err(|why| broken("ReplicaAway", format!("node {name}: {why}")))
    }

    async fn hear<T: DeserializeOwned>(&mut self, at: usize, ask: CompareAsk) -> Result<T, Broken> {
        let answer = self.ask(at, ask).await?;
        serde_json::from_slice(&answer).map_err(|error| {
            let message = format!("node {}: {error}", self.links[at].0);
            broken("AnswerUnreadable", message)
        })
    }

    /// Some keys of another replica.
    pub(super) async fn keys(&mut self, at: usize, cursor: String) -> Result<CompareKeys, Broken> {
        self.hear(at, CompareAsk::Keys { cursor }).await
    }

    /// What one replica has of these keys.
    async fn votes_of(&mut self, at: usize, keys: &[Key]) -> Result<Vec<KeyVote>, Broken> {
        let mut votes = Vec::with_capacity(keys.len());
        while votes.len() < keys.len() {
            let rest = &keys[votes.len()..];
            let more: Vec<KeyVote> = if self.own == Some(at) {
                self.comparer.own_votes(rest).await?
            } else {
                let keys = rest.to_vec();
                self.hear(at, CompareAsk::Votes { keys }).await?
            };
            if more.is_empty() || more.len() > rest.len() {
                let message = format!("node {} told another number of keys", self.links[at].0);
                return Err(broken("AnswerUnreadable", message));
            }
            votes.extend(more);
        }
        Ok(votes)
    }

    /// What all replicas have of each of these keys.
    pub(super) async fn votes(&mut self, keys: &[Key]) -> Result<Vec<Vec<KeyVote>>, Broken> {
        let mut votes = vec![Vec::with_capacity(self.count()); keys.len()];
        for at in 0..self.count() {
            let told = self.votes_of(at, keys).await?;
            for (of_key, vote) in votes.iter_mut().zip(told) {
                of_key.push(vote);
            }
        }
        Ok(votes)
    }

    /// The value of a key at another replica, if it still is this one.
    pub(super) async fn value(
        &mut self,
        at: usize,
        key: &Key,
        is: &KeyVote,
    ) -> Result<Bytes, Broken> {
        let ask = CompareAsk::Value {
            key: key.clone(),
            is: is.clone(),
        };
        self.ask(at, ask).await
    }

    /// Has another replica bring its own store level.
    pub(super) async fn level(
        &mut self,
        at: usize,
        keys: Vec<(Key, Vec<KeyVote>)>,
    ) -> Result<Leveled, Broken> {
        self.hear(at, CompareAsk::Level { keys }).await
    }
}

//! Leads a comparison: walks over the keys of every replica, looks twice at what differs, has it repaired.

use std::time::Duration;

use dynomite_api::contract::{Broken, COMPARE_LEVEL_MAX, Key, KeyVote, Leveled};
use dynomite_lifecycle::{Comparison, Verdict, repairable, verdict};
use tokio::time::Instant;

use super::{Comparer, Replicas, Work, own};

/// After a step the comparison rests so many times as long as the step took: a
/// tenth of the time is all it takes of store and sidecar.
const REST: u32 = 9;

/// The shortest rest.
const REST_LEAST: Duration = Duration::from_millis(5);

/// The longest rest; a step that took long waited for something.
const REST_MOST: Duration = Duration::from_secs(1);

/// How long the other replicas may take to learn of the round.
const MEETING: Duration = Duration::from_secs(30);

/// How often they are asked until then.
const MEETING_LOOK: Duration = Duration::from_millis(200);

/// Keys that have their second look at once.
const SECOND_LOOKS: usize = 64;

impl Comparer {
    /// Compares all keys.
    pub(super) async fn lead(&self, work: &Work) -> Result<(), Broken> {
        let mut replicas = Replicas::new(self, work);
        let began = Instant::now();
        let mut round = Comparison::default();
        meet(&mut replicas).await?;
        // First the own keys, then what only others have.
        let own = replicas.own;
        let others = (0..replicas.count()).filter(|at| own != Some(*at));
        let places: Vec<usize> = own.into_iter().chain(others).collect();
        'places: for at in places {
            let mut cursor = "0".to_owned();
            loop {
                let step = Instant::now();
                cursor = self
                    .step(&mut replicas, at, cursor, &mut round, began)
                    .await?;
                self.tell(&round);
                if round.is_full() {
                    self.second(&mut replicas, &mut round, (began, work.settle))
                        .await?;
                }
                if round.is_over() {
                    round.ends_early();
                    break 'places;
                }
                if cursor == "0" {
                    break;
                }
                let rest = (step.elapsed() * REST).clamp(REST_LEAST, REST_MOST);
                tokio::time::sleep(rest).await;
            }
        }
        self.second(&mut replicas, &mut round, (began, work.settle))
            .await?;
        self.repair(&mut replicas, &mut round, work).await?;
        self.tell(&round);
        Ok(())
    }

    fn tell(&self, round: &Comparison) {
        if let Some(last) = &mut self.state().last {
            last.found = round.tally();
        }
    }

    /// Looks at some keys of one replica; returns where to go on.
    async fn step(
        &self,
        replicas: &mut Replicas<'_>,
        at: usize,
        cursor: String,
        round: &mut Comparison,
        began: Instant,
    ) -> Result<String, Broken> {
        let mine = replicas.own == Some(at);
        let mut found = if mine {
            let mut lent = self.own().await?;
            let keys = lent.own.keys(&cursor).await;
            lent.back(keys).map_err(|why| own::away(&why))?
        } else {
            replicas.keys(at, cursor).await?
        };
        if !mine {
            // The others were looked at with the own keys.
            found.keys = self.absent(found.keys).await?;
        }
        for keys in found.keys.chunks(dynomite_api::contract::COMPARE_KEYS_MAX) {
            let votes = replicas.votes(keys).await?;
            for (key, votes) in keys.iter().zip(votes) {
                round.first(key.clone(), votes, began.elapsed());
            }
        }
        Ok(found.cursor)
    }

    /// Those of the keys that this node does not have.
    async fn absent(&self, keys: Vec<Key>) -> Result<Vec<Key>, Broken> {
        let mut absent = Vec::new();
        let mut rest = &keys[..];
        while !rest.is_empty() {
            let votes = self.own_votes(rest).await?;
            let told = votes.len().clamp(1, rest.len());
            for (key, vote) in rest.iter().zip(votes) {
                if matches!(vote, KeyVote::Absent | KeyVote::Abstains) {
                    absent.push(key.clone());
                }
            }
            rest = &rest[told..];
        }
        Ok(absent)
    }

    /// Gives every suspect its second look, once all of them are ripe.
    async fn second(
        &self,
        replicas: &mut Replicas<'_>,
        round: &mut Comparison,
        (began, settle): (Instant, Duration),
    ) -> Result<(), Broken> {
        let Some(ripe) = round.ripe_at(settle) else {
            return Ok(());
        };
        tokio::time::sleep_until(began + ripe).await;
        loop {
            let keys = round.next(SECOND_LOOKS);
            if keys.is_empty() {
                return Ok(());
            }
            let votes = replicas.votes(&keys).await?;
            for (key, votes) in keys.iter().zip(votes) {
                round.second(key, votes);
            }
            tokio::time::sleep(REST_LEAST).await;
        }
    }

    /// Has each replica bring its own store level.
    async fn repair(
        &self,
        replicas: &mut Replicas<'_>,
        round: &mut Comparison,
        work: &Work,
    ) -> Result<(), Broken> {
        let found = round.differences().to_vec();
        for at in 0..replicas.count() {
            let of_this = found.iter().filter(|found| found.losers.contains(&at));
            let keys: Vec<_> = of_this.map(|d| (d.key.clone(), d.votes.clone())).collect();
            if !work.order.repair {
                round.leveled(0, keys.len() as u64);
                continue;
            }
            for keys in keys.chunks(COMPARE_LEVEL_MAX) {
                let count = keys.len() as u64;
                let leveled = if replicas.own == Some(at) {
                    self.level(replicas, keys.to_vec()).await
                } else {
                    let asked = replicas.level(at, keys.to_vec()).await;
                    asked.unwrap_or_else(|broken| Leveled {
                        repaired: 0,
                        left: count,
                        why: broken.message,
                    })
                };
                if leveled.left > 0 {
                    tracing::warn!(left = leveled.left, why = leveled.why, "keys still differ");
                }
                round.leveled(leveled.repaired, leveled.left);
                self.tell(round);
                tokio::time::sleep(REST_LEAST).await;
            }
        }
        Ok(())
    }

    /// Brings the own store level in these keys, where all replicas still have
    /// what they had.
    pub(super) async fn level(
        &self,
        replicas: &mut Replicas<'_>,
        keys: Vec<(Key, Vec<KeyVote>)>,
    ) -> Leveled {
        let mut done = Leveled::default();
        for (key, before) in keys {
            match self.level_key(replicas, &key, &before).await {
                Ok(true) => done.repaired += 1,
                Ok(false) => {}
                Err(why) => {
                    done.left += 1;
                    done.why = why;
                }
            }
        }
        self.state().repaired_here += done.repaired;
        done
    }

    /// Whether a key was repaired; an error when it could not be and should have been.
    async fn level_key(
        &self,
        replicas: &mut Replicas<'_>,
        key: &Key,
        before: &[KeyVote],
    ) -> Result<bool, String> {
        let words = |broken: Broken| broken.message;
        let written = || "it was written meanwhile: the next comparison looks again".to_owned();
        let own = replicas.own.ok_or("this node is no replica of the token")?;
        let votes = replicas
            .votes(std::slice::from_ref(key))
            .await
            .map_err(words)?;
        let votes = votes.into_iter().next().unwrap_or_default();
        if !repairable(&votes, before) {
            return Err(written());
        }
        let Verdict::Differ { winner, losers } = verdict(&votes) else {
            return Ok(false);
        };
        if !losers.contains(&own) {
            return Ok(false);
        }
        let value = match &votes[winner] {
            KeyVote::Value { expires_at, .. } => {
                let value = replicas.value(winner, key, &votes[winner]).await;
                Some((value.map_err(words)?, *expires_at))
            }
            _ => None,
        };
        let becomes = value.as_ref().map(|(dump, at)| (&dump[..], *at));
        let mut lent = self.own().await.map_err(words)?;
        let leveled = lent.own.level(key, &votes[own], becomes).await;
        if lent.back(leveled)? {
            Ok(true)
        } else {
            Err(written())
        }
    }
}

/// Waits until every other replica has been told of the round: the operator hands
/// documents out one after the other.
async fn meet(replicas: &mut Replicas<'_>) -> Result<(), Broken> {
    let deadline = Instant::now() + MEETING;
    for at in 0..replicas.count() {
        while replicas.own != Some(at) {
            match replicas.keys(at, "0".to_owned()).await {
                Ok(_) => break,
                Err(broken) if Instant::now() >= deadline => return Err(broken),
                Err(_) => tokio::time::sleep(MEETING_LOOK).await,
            }
        }
    }
    Ok(())
}

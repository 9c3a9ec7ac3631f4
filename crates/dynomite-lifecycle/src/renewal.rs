//! Giving up a proof that the operator distrusts: a donor first, then out of the endpoints, standby, unproven.
//!
//! ```text
//!   Open --told--> Ask --a donor grants--> Quiet --clients are gone--> Standby --> Unproven
//!                  ^  `--none does: later, it serves on--'
//! ```
//!
//! A node that has missed writes is worse than its replicas, and better than
//! nothing. So it keeps what it has, and serves it, until a whole donor has
//! answered and would be copied at once. The word names one proof: about another
//! it says nothing, and the proof that the next copy brings is another.

use std::time::Duration;

use dynomite_api::contract::{Distrust, Donor, EngineState};
use jiff::Timestamp;

use crate::drain::Quiet;
use crate::effect::Order;
use crate::event::DonorSight;
use crate::lifecycle::Lifecycle;
use crate::readiness::Why;
use crate::reason;
use crate::record::ProofRecord;
use crate::state::State;
use crate::time::{after, elapsed};
use crate::warm_up::round_pause;

/// An engine that cannot be told to stand by does not keep the node from
/// giving up its proof, which takes the store away from it.
const STANDBY_LIMIT: Duration = Duration::from_secs(1);

/// How a node that serves gives up its proof.
#[derive(Clone, Debug)]
pub(crate) struct Renewal {
    step: Step,
    /// Donors that were asked and did not grant.
    refusals: u32,
    /// What the last of them said.
    refusal: String,
}

#[derive(Clone, Debug)]
enum Step {
    /// A donor is asked at `at`, or is being asked.
    Ask { at: Timestamp },
    /// Clients go elsewhere and open requests finish.
    Quiet {
        since: Timestamp,
        still: Option<(u64, Timestamp)>,
    },
    /// The engine is told to refuse what still comes.
    Standby { since: Timestamp },
}

impl Lifecycle {
    /// The word against the proof the node has.
    pub(crate) fn distrusted(&self, proof: &ProofRecord) -> Option<Distrust> {
        let distrust = self.desired.as_ref()?.distrust.as_ref()?;
        let meant = distrust.pod_uid == self.pod_uid && distrust.proof_since == proof.since;
        meant.then(|| distrust.clone())
    }

    /// Whom the node asks whether it may be copied.
    pub(crate) fn renewal_donor(&self) -> Option<&Donor> {
        let renewal = self.renewal.as_ref()?;
        let donors = &self.desired.as_ref()?.donors;
        let count = u32::try_from(donors.len()).ok().filter(|n| *n > 0)?;
        donors.get((renewal.refusals % count) as usize)
    }

    /// Whether the node is on its way out of the endpoints.
    pub(crate) fn is_leaving_to_renew(&self) -> bool {
        let renewal = self.renewal.as_ref();
        renewal.is_some_and(|renewal| !matches!(renewal.step, Step::Ask { .. }))
    }

    /// Why the node is not trusted, while it is not.
    pub(crate) fn renewal_why(&self) -> Option<Why> {
        let State::Open { proof } = &self.state else {
            return None;
        };
        let renewal = self.renewal.as_ref()?;
        let why = self.distrusted(proof)?.why;
        if self.is_leaving_to_renew() {
            let message = format!("leaves the endpoints to be copied anew: {why}");
            return Some((reason::WRITES_MISSED, message));
        }
        let refusal = if renewal.refusal.is_empty() {
            "a donor is being asked".to_owned()
        } else {
            format!("no donor yet: {}", renewal.refusal)
        };
        let message =
            format!("serves what it has until a whole replica can be copied: {why}; {refusal}");
        Some((reason::WRITES_MISSED, message))
    }

    /// One step towards giving the proof up; whether that is under way.
    pub(crate) fn renew(&mut self, now: Timestamp, proof: &ProofRecord) -> bool {
        let Some(distrust) = self.distrusted(proof) else {
            self.renewal = None;
            return false;
        };
        let renewal = self.renewal.get_or_insert_with(|| Renewal {
            step: Step::Ask { at: now },
            refusals: 0,
            refusal: String::new(),
        });
        match renewal.step.clone() {
            Step::Ask { at } => {
                if self.renewal_donor().is_none() {
                    self.refused_to_renew(now, "there is none of the same token");
                } else if at <= now {
                    self.order(now, Order::ReadDonor);
                }
                // It serves on, with everything that goes with it.
                false
            }
            Step::Quiet { since, still } => {
                let step = match self.quiet(now, since, still) {
                    Quiet::Yes => Step::Standby { since: now },
                    Quiet::No(still) => Step::Quiet { since, still },
                };
                if let Some(renewal) = &mut self.renewal {
                    renewal.step = step;
                }
                true
            }
            Step::Standby { since } => {
                let state = self.engine.fresh().map(|sight| sight.facts.state);
                let stands = state == Some(EngineState::Standby);
                if stands || elapsed(now, since) >= STANDBY_LIMIT || !self.engine_process.is_up() {
                    // The donor that answered is the first to be copied.
                    self.failed_warm_ups = self.renewal.take().map_or(0, |r| r.refusals);
                    let message = format!("gave up its proof: {}", distrust.why);
                    self.unprove(now, reason::WRITES_MISSED, message);
                } else {
                    self.hold_engine(now);
                }
                true
            }
        }
    }

    /// The donor of a renewal was read.
    pub(crate) fn renewal_donor_read(&mut self, now: Timestamp, donor: &DonorSight) {
        let State::Open { proof } = &self.state else {
            return;
        };
        if !donor.primary || donor.run_id == proof.run_id {
            self.refused_to_renew(now, "its store is a replica itself");
            return;
        }
        if let Some(renewal) = &mut self.renewal
            && let Step::Ask { .. } = renewal.step
        {
            renewal.step = Step::Quiet {
                since: now,
                still: None,
            };
        }
    }

    /// A donor did not grant; the next is asked, and after a pause all of them again.
    pub(crate) fn refused_to_renew(&mut self, now: Timestamp, why: &str) {
        let name = self.renewal_donor().map(|donor| donor.name.clone());
        let donors = self.desired.as_ref().map_or(0, |d| d.donors.len());
        let donors = u32::try_from(donors).unwrap_or(u32::MAX).max(1);
        let Some(renewal) = &mut self.renewal else {
            return;
        };
        if let Step::Ask { at } = &mut renewal.step
            && *at <= now
        {
            renewal.refusals = renewal.refusals.saturating_add(1);
            renewal.refusal = name.map_or_else(|| why.to_owned(), |name| format!("{name}: {why}"));
            if renewal.refusals.is_multiple_of(donors) {
                *at = after(now, round_pause(renewal.refusals / donors));
            }
        }
    }
}

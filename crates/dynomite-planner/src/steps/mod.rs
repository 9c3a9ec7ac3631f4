//! The steps of a plan, in order: what each decides is in its own file.
//!
//! Steps that only add or tell (`provision`, `assign_tokens`, `configure`,
//! `warm_up`, `renew`) act in one pass side by side: a node must be able to start
//! while another object of the ring waits for something. What takes a pod away
//! (`replace`, `retire`, `roll`), or may (`resize`), comes last, yields to everything before it that changes a
//! `StatefulSet`, and does one thing in a pass. Backups (`snapshot`) are begun
//! when nothing is being taken away, and comparisons (`compare`) when no backup is. A step that finds the ground
//! unsafe for the rest, such as contradicting tokens, stops the pass.

mod answer;
mod assign_tokens;
mod compare;
mod configure;
mod delete;
mod donors;
mod gate;
mod provision;
mod renew;
mod replace;
mod resize;
mod restore;
mod retire;
mod roll;
mod snapshot;
mod warm_up;

use jiff::Timestamp;

use crate::cluster::Cluster;
use crate::comparison;
use crate::observed::Observed;
use crate::plan::{Action, EventKind, Kind, Object, Plan, Planned, StepName, Waiting};
use crate::ring::Ring;
use crate::wait::Wait;

pub(crate) use donors::donor;
pub(crate) use warm_up::grant;

/// A step: it sees everything and what earlier steps of the pass decided.
type StepFn = fn(&Pass<'_>) -> Step;

const STEPS: &[(StepName, StepFn)] = &[
    (StepName::Delete, delete::delete),
    (StepName::Provision, provision::provision),
    (StepName::AssignTokens, assign_tokens::assign_tokens),
    (StepName::Configure, configure::configure),
    (StepName::Answer, answer::answer),
    (StepName::Restore, restore::restore),
    (StepName::WarmUp, warm_up::warm_up),
    (StepName::Renew, renew::renew),
    (StepName::Replace, replace::replace),
    (StepName::Retire, retire::retire),
    (StepName::Resize, resize::resize),
    (StepName::Roll, roll::roll),
    (StepName::Snapshot, snapshot::snapshot),
    (StepName::Compare, compare::compare),
];

/// What a step sees.
pub(crate) struct Pass<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) observed: &'a Observed,
    pub(crate) ring: &'a Ring<'a>,
    pub(crate) now: Timestamp,
    /// What earlier steps of this pass decided.
    pub(crate) earlier: &'a Plan,
    /// What is compared now: the same for every node, and costly to find out.
    pub(crate) compared: &'a comparison::Next,
}

impl Pass<'_> {
    /// Whether an earlier step takes a node out or changes what pods are made from.
    fn is_moving(&self) -> bool {
        self.earlier.actions.iter().any(|planned| {
            planned.action.disrupts()
                || matches!(planned.action, Action::Orphan { .. })
                || matches!(&planned.action, Action::Apply(o) if matches!(**o, Object::StatefulSet(_)))
        })
    }

    /// Whether a pod is being given other resources.
    fn is_resizing(&self) -> bool {
        let acts = |planned: &Planned| matches!(planned.action, Action::Resize { .. });
        let waits = |waiting: &Waiting| matches!(waiting.wait, Wait::Resizing { .. });
        self.earlier.actions.iter().any(acts) || self.earlier.waits.iter().any(waits)
    }
}

/// What a step decided.
#[derive(Default)]
pub(crate) struct Step {
    actions: Vec<(Action, String)>,
    waits: Vec<Wait>,
    wake_at: Option<Timestamp>,
    stop: bool,
}

impl Step {
    pub(crate) fn act(&mut self, action: Action, why: impl Into<String>) {
        self.actions.push((action, why.into()));
    }

    /// The same, unless the step does it already.
    pub(crate) fn act_once(&mut self, action: Action, why: impl Into<String>) {
        if self.actions.iter().all(|(earlier, _)| *earlier != action) {
            self.act(action, why);
        }
    }

    /// Takes a person's annotation off the cluster, and answers it by an Event.
    pub(crate) fn answer(
        &mut self,
        (annotation, value): (&'static str, &str),
        (kind, reason, message): (EventKind, &'static str, String),
        why: &'static str,
    ) {
        let take = Action::TakeAnnotation {
            annotation,
            value: value.to_owned(),
        };
        self.act(take, "it is answered");
        let event = Action::Event {
            kind,
            reason,
            message,
        };
        self.act(event, why);
    }

    /// Whether it writes the status of that backup already.
    pub(crate) fn writes_backup(&self, backup: &str) -> bool {
        self.actions.iter().any(
            |(action, _)| matches!(action, Action::WriteBackup { seen, .. } if seen.name == backup),
        )
    }

    fn apply(&mut self, object: Object, why: impl Into<String>) {
        self.act(Action::Apply(Box::new(object)), why);
    }

    fn wait(&mut self, wait: Wait) {
        self.waits.push(wait);
    }

    pub(crate) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// A deletion of exactly the object that was seen.
fn delete_seen(
    kind: Kind,
    metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    exact: bool,
) -> Option<Action> {
    Some(Action::Delete {
        kind,
        name: metadata.name.clone()?,
        uid: metadata.uid.clone()?,
        resource_version: exact.then(|| metadata.resource_version.clone()).flatten(),
    })
}

/// Decides what to do now.
///
/// The same input gives the same plan. A settled cluster gives an empty one.
/// While `spec.paused` is set nothing is done; only the deletion of the
/// resource, the later word of a person, goes on.
pub fn plan(cluster: &Cluster, observed: &Observed, now: Timestamp) -> Plan {
    let ring = Ring::new(cluster, observed);
    let mut plan = Plan::default();
    if cluster.paused() && !cluster.deleting {
        plan.waits.push(Waiting {
            step: StepName::Provision,
            wait: Wait::Paused,
        });
        return plan;
    }
    let restored = crate::restore::in_the_way(cluster, observed).is_some();
    let compared = comparison::next(cluster, observed, &ring, now);
    for (name, step) in STEPS {
        if restored && yields_to_restore(*name) {
            continue;
        }
        let decided = step(&Pass {
            cluster,
            observed,
            ring: &ring,
            now,
            earlier: &plan,
            compared: &compared,
        });
        let stop = decided.stop;
        record(&mut plan, *name, decided);
        if stop {
            break;
        }
    }
    plan
}

/// Whether a step has to wait until a restore has ended: while the ring's data is
/// exchanged nobody else takes nodes out, or decides whose data counts.
fn yields_to_restore(step: StepName) -> bool {
    matches!(
        step,
        StepName::WarmUp
            | StepName::Renew
            | StepName::Replace
            | StepName::Retire
            | StepName::Resize
            | StepName::Roll
            | StepName::Snapshot
    )
}

/// Adds what a step decided to the plan.
fn record(plan: &mut Plan, step: StepName, decided: Step) {
    let planned = |(action, why)| Planned { step, action, why };
    plan.actions
        .extend(decided.actions.into_iter().map(planned));
    plan.waits
        .extend(decided.waits.into_iter().map(|wait| Waiting { step, wait }));
    plan.wake_at = match (plan.wake_at, decided.wake_at) {
        (Some(left), Some(right)) => Some(left.min(right)),
        (left, right) => left.or(right),
    };
}

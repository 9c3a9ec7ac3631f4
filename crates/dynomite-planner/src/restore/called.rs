//! Restores that a person asks for by the old REST call: the words and rules of the annotation.

use dynomite_api::contract::Call;
use dynomite_api::crd::DynomiteRestore;

use super::asked::{Answer, answer};
use crate::calls::{self, Reply};
use crate::cluster::Cluster;
use crate::observed::Observed;
use crate::plan::Action;

/// What becomes of a call for a restore. One that ended while its call still
/// stands is the answer all the same: it is not done again.
pub(crate) fn called(cluster: &Cluster, observed: &Observed, call: &Call, from: &str) -> Reply {
    let there = |name: &str| Reply::There {
        object: "DynomiteRestore",
        name: name.to_owned(),
    };
    let by_call = |(_, made): &(&String, &DynomiteRestore)| calls::is_of(&made.metadata, call);
    if let Some((name, _)) = observed.restores.iter().find(by_call) {
        return there(name);
    }
    match answer(cluster, observed, from) {
        Ok(Answer::There(name)) => there(&name),
        Ok(Answer::Make(mut restore)) => {
            calls::mark(&mut restore.metadata, call);
            Reply::Make(Action::MakeRestore(restore))
        }
        Err(why) => Reply::Refused(why),
    }
}

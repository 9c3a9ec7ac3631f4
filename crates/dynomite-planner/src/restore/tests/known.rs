//! The table of what is known of a node's data, row by row.

use dynomite_api::contract::NodeReport;
use dynomite_api::contract::ProofKind::{
    self, AcceptedLocal, Bootstrap, Restored, Unproven, WarmUp,
};

use super::*;
use crate::observed::Seen;
use crate::restore::known::Data::{self, New, Old, Unknown};
use crate::restore::known::judge;

fn report(kind: ProofKind, remembers: bool) -> NodeReport {
    let world = World::settled(1, 1);
    let Some(Seen::Known(report)) = world.observed.reports.get("ring-a-0") else {
        panic!("it was heard");
    };
    let mut report = report.clone();
    let since = report.proof.since.take();
    report.proof.kind = kind;
    if kind != Unproven {
        report.proof.since = since;
    } else if remembers {
        report.proof.remembered = since;
    }
    report
}

#[test]
fn every_row_of_the_table() {
    for committed in [false, true] {
        assert_eq!(judge(None, true, false, committed), Unknown, "silent");
        assert_eq!(judge(None, false, false, committed), Data::None, "gone");
        let nothing = report(Unproven, false);
        assert_eq!(judge(Some(&nothing), true, false, committed), Data::None);
        let copied = if committed { New } else { Old };
        for (kind, remembers, unwritten) in [
            (Unproven, true, Unknown),
            (Restored, false, New),
            (WarmUp, false, copied),
            (AcceptedLocal, false, copied),
            (Bootstrap, false, copied),
        ] {
            let report = report(kind, remembers);
            let is = |written| judge(Some(&report), true, written, committed);
            assert_eq!(is(true), Old, "{kind:?}, written down");
            assert_eq!(is(false), unwritten, "{kind:?}, committed: {committed}");
        }
    }
}

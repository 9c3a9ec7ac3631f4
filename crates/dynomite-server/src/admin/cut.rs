//! `/cut` and `/capture`: what the sidecars of donor and newcomer ask for at the end of a copy.

use dynomite_engine::{Cut, CutRefused, Engine, NotCaptured, Now};
use dynomite_protocol::received::Received;
use hyper::StatusCode;
use serde_json::json;

use crate::admin::routes::{Answer, pretty};

/// A cut as JSON.
pub(crate) fn made(cut: &Cut) -> Answer {
    Answer::text(pretty(&json!({
        "replicationId": cut.replication_id,
        "offset": cut.offset,
        "keys": cut.keys,
        "received": cut.received,
    })))
}

/// Why there is none.
pub(crate) fn refused(why: &CutRefused) -> Answer {
    conflict(why)
}

fn conflict(why: &impl ToString) -> Answer {
    Answer {
        status: StatusCode::CONFLICT,
        ..Answer::plain(format!("{}\n", why.to_string()))
    }
}

/// Answers `/capture/check` and `/capture/commit`, whose body is the `received` of a cut.
pub(super) fn capture(engine: &mut Engine, now: Now, commit: bool, body: &[u8]) -> Answer {
    let received: Received = match serde_json::from_slice(body) {
        Ok(received) => received,
        Err(error) => {
            return Answer {
                status: StatusCode::BAD_REQUEST,
                ..Answer::plain(format!(
                    "the body is not the `received` of a cut: {error}\n"
                ))
            };
        }
    };
    let outcome: Result<_, NotCaptured> = if commit {
        engine
            .handle_commit(now, &received)
            .map(|done| json!({"applied": done.applied, "dropped": done.dropped}))
    } else {
        engine
            .check_capture(&received)
            .map(|()| json!({"covered": true}))
    };
    outcome.map_or_else(|why| conflict(&why), |value| Answer::text(pretty(&value)))
}

//! What each path does.

use dynomite_engine::{CutId, Engine, Now, RunState};
use hyper::StatusCode;

use crate::admin::{cut, info, metrics};

/// What somebody asked the admin port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) path: String,
    /// The body of a POST; a GET has none.
    pub(crate) posted: Option<Vec<u8>>,
}

/// An answer, now or later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Now(Answer),
    /// When the engine has made this cut.
    WhenCut(CutId),
}

/// An answer of the admin port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: String,
    pub(crate) content_type: &'static str,
}

impl Answer {
    /// The original gives everything this type, whatever it is.
    pub(crate) fn text(body: impl Into<String>) -> Self {
        Self {
            status: StatusCode::OK,
            body: body.into(),
            content_type: "application/json; charset=utf-8",
        }
    }

    /// Words for people.
    pub(crate) fn plain(body: String) -> Self {
        Self {
            status: StatusCode::OK,
            body,
            content_type: "text/plain; charset=utf-8",
        }
    }
}

const HELP: &str = "\
/info
/help
/ping
/cluster_describe
/peers
/metrics
/cut
POST /capture/check
POST /capture/commit
/state/get_state
/state/normal
/state/standby
/state/writes_only
/state/resuming
/get_consistency
/set_consistency/read/dc_one
/set_consistency/read/dc_quorum
/set_consistency/read/dc_safe_quorum
/set_consistency/write/dc_one
/set_consistency/write/dc_quorum
/set_consistency/write/dc_safe_quorum
/get_timeout_factor
/set_timeout_factor/<1-10>
/peer/reset/<host or all>
/historeset
";

fn ok() -> Answer {
    Answer::text("OK\r\n")
}

/// Answers one request.
pub(crate) fn answer(engine: &mut Engine, now: Now, pool: &str, asked: &Asked) -> Reply {
    let words: Vec<&str> = asked
        .path
        .split('/')
        .filter(|word| !word.is_empty())
        .collect();
    match (words.as_slice(), &asked.posted) {
        (["cut"], None) => match engine.handle_cut(now) {
            Ok(id) => Reply::WhenCut(id),
            Err(why) => Reply::Now(cut::refused(&why)),
        },
        (["capture", "check"], Some(body)) => Reply::Now(cut::capture(engine, now, false, body)),
        (["capture", "commit"], Some(body)) => Reply::Now(cut::capture(engine, now, true, body)),
        // A wrong method must not look like success here.
        (["capture", ..], None) => Reply::Now(Answer {
            status: StatusCode::METHOD_NOT_ALLOWED,
            ..Answer::plain("POST the `received` of a cut\n".to_owned())
        }),
        (_, Some(_)) => Reply::Now(ok()),
        (words, None) => Reply::Now(get(engine, now, pool, words)),
    }
}

fn get(engine: &mut Engine, now: Now, pool: &str, words: &[&str]) -> Answer {
    match words {
        ["info"] => {
            let received = engine.received(now).ok();
            Answer::text(info::render(&engine.report(), received.as_ref(), now, pool))
        }
        ["help"] => Answer::text(HELP),
        ["cluster_describe"] => Answer::text(info::describe(&engine.report())),
        ["peers"] => Answer::text(info::peers(&engine.report())),
        ["metrics"] => Answer {
            status: StatusCode::OK,
            body: metrics::render(&engine.report(), now),
            content_type: "text/plain; version=0.0.4; charset=utf-8",
        },
        ["get_consistency"] => {
            let report = engine.report();
            Answer::text(format!(
                "Read Consistency: {}\r\nWrite Consistency: {}\r\n",
                report.read_consistency, report.write_consistency
            ))
        }
        ["set_consistency", which, level] => set_consistency(engine, which, level),
        ["get_timeout_factor"] => Answer::text(format!(
            "Timeout factor: {}\n",
            engine.report().timeout_factor
        )),
        ["set_timeout_factor", factor] => {
            if let Ok(factor) = factor.parse() {
                engine.set_timeout_factor(factor);
            }
            ok()
        }
        ["state", "get_state"] => Answer::text(format!("State: {}\n", engine.state())),
        ["state", state] => set_state(engine, now, state),
        ["peer", "reset", name] => {
            if let Err(error) = engine.handle_peer_reset(now, name) {
                tracing::warn!(%error, "/peer/reset");
            }
            ok()
        }
        ["historeset"] => {
            engine.reset_histograms();
            ok()
        }
        ["read_repairs", _] => Answer::text("Read Repairs: DISABLED\r\n"),
        _ => ok(),
    }
}

fn set_consistency(engine: &mut Engine, which: &str, level: &str) -> Answer {
    match (which, level.parse()) {
        ("read", Ok(level)) => engine.set_read_consistency(level),
        ("write", Ok(level)) => engine.set_write_consistency(level),
        (_, Err(error)) => tracing::warn!(%error, "/set_consistency"),
        _ => {}
    }
    ok()
}

fn set_state(engine: &mut Engine, now: Now, name: &str) -> Answer {
    let state = match name {
        "normal" => RunState::Normal,
        "standby" => RunState::Standby,
        "writes_only" => RunState::WritesOnly,
        "resuming" => RunState::Resuming,
        _ => return ok(),
    };
    engine.handle_state(now, state);
    ok()
}

/// Shows what a JSON document says.
pub(super) fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

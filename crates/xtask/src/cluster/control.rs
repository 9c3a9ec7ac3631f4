//! Orders to a running cluster: one line asks, the answer ends with the connection.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::inner::Running;
use super::layout::{Layout, Node};

/// Longest line that is read from a caller.
const REQUEST_LIMIT: u64 = 256;
/// An order may have to wait for processes to end.
const ANSWER_WITHIN: Duration = Duration::from_mins(1);

/// What is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum NodeAction {
    /// Unplugs its network cable; its processes go on.
    Cut,
    /// Plugs the cable in again.
    Join,
    /// Switches it off: all its processes end at once, its disk stays.
    Stop,
    /// Switches it on again.
    Start,
}

/// What is done to a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ComponentAction {
    /// Kills it and leaves it so.
    Stop,
    /// Starts it again.
    Start,
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// What runs?
    Status,
    /// Do something to a node.
    Node(String, NodeAction),
    /// Do something to a component.
    Component(String, ComponentAction),
}

impl Request {
    fn to_line(&self) -> String {
        match self {
            Self::Status => "status\n".to_owned(),
            Self::Node(name, action) => format!("node {name} {}\n", word(action)),
            Self::Component(name, action) => format!("component {name} {}\n", word(action)),
        }
    }

    fn parse(line: &str) -> Result<Self> {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["status"] => Ok(Self::Status),
            ["node", name, action] => Ok(Self::Node(name.to_owned(), value(action)?)),
            ["component", name, action] => Ok(Self::Component(name.to_owned(), value(action)?)),
            _ => bail!("not an order: {line:?}"),
        }
    }
}

fn word(action: &impl clap::ValueEnum) -> String {
    action
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

fn value<T: clap::ValueEnum>(word: &str) -> Result<T> {
    T::from_str(word, false).map_err(anyhow::Error::msg)
}

/// Sends an order to a running cluster and returns its answer.
pub(super) fn ask(layout: &Layout, request: &Request) -> Result<String> {
    let path = layout.control();
    let mut stream = UnixStream::connect(&path)
        .with_context(|| format!("the cluster does not listen on {}", path.display()))?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(request.to_line().as_bytes())?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .context("waiting for the cluster's answer")?;
    match answer.split_once('\n') {
        Some(("ok", rest)) => Ok(rest.to_owned()),
        Some(("error", why)) => bail!("{}", why.trim_end()),
        _ => bail!("the cluster ended before it answered"),
    }
}

/// Opens the socket on which [`serve`] takes orders.
pub(super) fn listen(layout: &Layout) -> Result<UnixListener> {
    let path = layout.control();
    if path.exists() {
        fs::remove_file(&path)?;
    }
    UnixListener::bind(&path).with_context(|| format!("listening on {}", path.display()))
}

/// Takes orders, one at a time: two faults at once are still two orders.
pub(super) fn serve(listener: &UnixListener, running: &Running) {
    for stream in listener.incoming() {
        if let Err(error) = stream
            .map_err(Into::into)
            .and_then(|stream| answer(stream, running))
        {
            eprintln!("an order could not be answered: {error:#}");
        }
    }
}

fn answer(mut stream: UnixStream, running: &Running) -> Result<()> {
    let mut line = String::new();
    BufReader::new(stream.try_clone()?.take(REQUEST_LIMIT)).read_line(&mut line)?;
    let result = Request::parse(&line).and_then(|request| obey(&request, running));
    match result {
        Ok(answer) => write!(stream, "ok\n{answer}")?,
        Err(error) => write!(stream, "error\n{error:#}")?,
    }
    Ok(())
}

fn obey(request: &Request, running: &Running) -> Result<String> {
    match request {
        Request::Status => return Ok(running.report()),
        Request::Node(name, action) => running.node(Node::named(name)?, *action)?,
        Request::Component(name, ComponentAction::Stop) => running.host.supervisor.stop(name)?,
        Request::Component(name, ComponentAction::Start) => {
            running.host.supervisor.start_again(name)?;
        }
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_survive_the_wire() {
        for request in [
            Request::Status,
            Request::Node("node2".to_owned(), NodeAction::Cut),
            Request::Component("etcd".to_owned(), ComponentAction::Start),
        ] {
            assert_eq!(Request::parse(&request.to_line()).unwrap(), request);
        }
    }

    #[test]
    fn what_is_no_order_is_refused() {
        for line in ["", "node", "node node1 explode", "status now"] {
            assert!(Request::parse(line).is_err(), "{line:?}");
        }
    }
}

//! What is to be done with a request: answered at once, or asked of whom, in how many parts.

use bytes::{Bytes, BytesMut};
use dynomite_protocol::consistency::Consistency;
use dynomite_protocol::resp::{Request, write};
use smallvec::{SmallVec, smallvec};

use crate::command::{self, Access, Class, Command, Compare, Keys, Split};
use crate::engine::Engine;
use crate::error_text;
use crate::job::{Merge, Numbering, Part};
use crate::now::Now;
use crate::numbers::Tag;
use crate::output::{LinkId, SessionId};
use crate::protection::Protection;
use crate::rewrite;
use crate::session::Role;
use crate::verdict::{Question, Rule};

/// What is to be done with a request.
#[allow(
    clippy::large_enum_variant,
    reason = "moved once and never stored; a box costs more"
)]
pub(crate) enum Plan {
    /// This is the answer.
    Answer(Bytes),
    /// This is the last answer.
    AnswerAndClose(Bytes),
    /// Others must be asked.
    Ask(Order),
}

/// Parts to ask, and how their answers become one.
pub(crate) struct Order {
    pub(crate) access: Access,
    pub(crate) parts: SmallVec<[Part; 1]>,
    pub(crate) merge: Merge,
    /// For each part the segment of its keys, when other datacenters must get it too.
    pub(crate) copies: SmallVec<[usize; 1]>,
}

/// From whom a request comes, as far as it matters for where it goes.
#[derive(Clone, Copy)]
struct Reach {
    level: Consistency,
    /// Other datacenters are told too.
    abroad: bool,
}

/// An order, or the error for whoever asked.
type Planned = Result<Order, Bytes>;

impl From<Planned> for Plan {
    fn from(planned: Planned) -> Self {
        match planned {
            Ok(order) => Self::Ask(order),
            Err(answer) => Self::Answer(answer),
        }
    }
}

/// The command of a request, or the error for whoever sent it.
fn command_of(request: &Request) -> Result<&'static Command, Bytes> {
    let Some(command) = command::lookup(request.arg(0)) else {
        return Err(unknown(request));
    };
    if !command.accepts(request.len()) {
        return Err(wrong_arity(command));
    }
    Ok(command)
}

fn wrong_arity(command: &Command) -> Bytes {
    write::error_reply(&format!(
        "ERR wrong number of arguments for '{}' command",
        command.name
    ))
}

fn not_for_netflix(command: &Command) -> Bytes {
    let name = command.name.to_ascii_uppercase();
    write::error_reply(&format!(
        "ERR Dynomite: {name} in this form is not understood by Netflix's engine, which is in this ring"
    ))
}

/// Arguments a client sees again in an error.
const SHOWN_ARGS: usize = 4;
/// Characters of each.
const SHOWN_CHARS: usize = 64;

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_CHARS)]).into_owned()
}

fn unknown(request: &Request) -> Bytes {
    let name = shown(request.arg(0));
    let mut text = format!("ERR unknown command '{name}', with args beginning with: ");
    for arg in request.args_from(1).take(SHOWN_ARGS) {
        text.push('\'');
        text.push_str(&shown(arg));
        text.push_str("' ");
    }
    write::error_reply(&text)
}

impl Engine {
    pub(crate) fn plan_for_client(&mut self, now: Now, id: SessionId, request: &Request) -> Plan {
        if is_http(request) {
            return Plan::AnswerAndClose(write::error_reply("ERR HTTP is not spoken here"));
        }
        let command = match command_of(request) {
            Ok(command) => command,
            Err(answer) => return Plan::Answer(answer),
        };
        match command.access {
            Access::Read => self.counters.client_read_requests += 1,
            Access::Write => self.counters.client_write_requests += 1,
        }
        match command.class {
            Class::Own => return self.answer_own(id, command, request),
            Class::Store => return Plan::Ask(store_only(command, request)),
            _ => {}
        }
        let own_level = match self.sessions.get(id).map(|session| &session.role) {
            Some(Role::Client(client)) => client.consistency,
            _ => None,
        };
        let ring_level = match command.access {
            Access::Read => self.read_level,
            Access::Write => self.write_level,
        };
        let reach = Reach {
            level: own_level.unwrap_or(ring_level),
            abroad: true,
        };
        self.plan_by_keys(now, command, request, reach).into()
    }

    /// A node of another datacenter wants this done in ours.
    pub(crate) fn plan_for_forward(&mut self, now: Now, request: &Request) -> Plan {
        let reach = Reach {
            level: Consistency::DcOne,
            abroad: false,
        };
        let planned = command_of(request).and_then(|command| match command.class {
            Class::Store | Class::Own => order_for_peer(request),
            _ => self.plan_by_keys(now, command, request, reach),
        });
        planned.into()
    }

    /// A coordinator has decided that this is to be done here, whoever owns the keys.
    pub(crate) fn plan_for_peer(&mut self, request: &Request, tag: Option<Tag>) -> Plan {
        let Some(tag) = tag else {
            return order_for_peer(request).into();
        };
        if self.numbers.is_late(tag) && self.protects_by(Protection::LateNumbers) {
            self.counters.late_writes += 1;
            return Plan::Answer(error_text::reply(error_text::PAST));
        }
        match order_for_peer(request) {
            Ok(mut order) => {
                // A number makes it a write, whatever this version takes it for.
                order.access = Access::Write;
                for part in &mut order.parts {
                    part.question.access = Access::Write;
                    part.numbering = Numbering::Given(tag);
                }
                Plan::Ask(order)
            }
            Err(answer) => {
                self.numbers.passed(tag);
                Plan::Answer(answer)
            }
        }
    }

    fn plan_by_keys(
        &mut self,
        now: Now,
        command: &'static Command,
        request: &Request,
        reach: Reach,
    ) -> Planned {
        if let Class::Refused(reason) = command.class {
            return Err(write::error_reply(&reason.text(command.name)));
        }
        if !self.topology_known {
            return Err(error_text::reply(error_text::STATE));
        }
        let rewritten = if self.settings.deterministic_writes {
            rewrite::deterministic(command.name, request, now, &mut self.stream_clock)
        } else {
            None
        };
        let request = match &rewritten {
            Some(rewritten) if self.may_send(rewritten) => rewritten,
            _ if self.may_send(request) => request,
            _ => return Err(not_for_netflix(command)),
        };
        match command.class {
            Class::Keyed(keys) => self.plan_keyed(command, keys, request, reach),
            Class::Script => self.plan_script(command, request, reach),
            Class::Split(split) => self.plan_split(command, split, request, reach),
            Class::Everywhere => Ok(self.order_everywhere(command, request)),
            Class::Store | Class::Own | Class::Refused(_) => Err(unknown(request)),
        }
    }

    /// Whether every peer understands a request.
    fn may_send(&self, request: &Request) -> bool {
        !self.settings.netflix_peers || command::netflix_understands(request)
    }

    fn plan_keyed(
        &mut self,
        command: &'static Command,
        keys: Keys,
        request: &Request,
        reach: Reach,
    ) -> Planned {
        let found = command::keys_of(keys, request)
            .ok_or_else(|| write::error_reply("ERR syntax error"))?;
        if keys == Keys::Pairs && request.len().is_multiple_of(2) {
            return Err(wrong_arity(command));
        }
        if keys == Keys::Streams && has_word(request, b"block") {
            return Err(write::error_reply(
                &command::Refusal::Blocking.text("XREAD BLOCK"),
            ));
        }
        let segment = self
            .common_segment(request, &found)?
            .ok_or_else(|| error_text::reply(error_text::CROSS_SLOT))?;
        Ok(self.order_one(command, request, segment, reach))
    }

    fn plan_script(
        &mut self,
        command: &'static Command,
        request: &Request,
        reach: Reach,
    ) -> Planned {
        let error = |text: &str| write::error_reply(&format!("ERR {text}"));
        if request.number(2) == Some(0) {
            return Err(error(
                "Dynomite: A script needs at least one key, to know where to run",
            ));
        }
        let found = command::keys_of(Keys::Counted(2), request)
            .ok_or_else(|| error("Number of keys can't be greater than number of args"))?;
        let segment = self
            .common_segment(request, &found)?
            .ok_or_else(|| error_text::reply(error_text::SCRIPT_SPANS))?;
        Ok(self.order_one(command, request, segment, reach))
    }

    /// The segment that holds all these keys, if one does.
    fn common_segment(&self, request: &Request, keys: &[usize]) -> Result<Option<usize>, Bytes> {
        let mut common = None;
        for &at in keys {
            let segment = self.segment_of(request.arg(at))?;
            if *common.get_or_insert(segment) != segment {
                return Ok(None);
            }
        }
        Ok(common)
    }

    fn segment_of(&self, key: &[u8]) -> Result<usize, Bytes> {
        if key.is_empty() {
            return Err(error_text::reply(error_text::EMPTY_KEY));
        }
        Ok(self.topology.segment_of(self.settings.placement.token(key)))
    }

    fn part(&self, command: &Command, payload: Bytes, segment: usize, reach: Reach) -> Part {
        let question = Question {
            rule: Rule::Level(reach.level),
            access: command.access,
            own: self.topology.local_rack(),
            compare: command.compare,
        };
        let segment = self.topology.segment(segment);
        let mut part = Part::new(payload, question, SmallVec::from_slice(&segment.local));
        if command.access == Access::Write {
            part.numbering = Numbering::Home(segment.home);
        }
        part
    }

    fn order_one(
        &self,
        command: &Command,
        request: &Request,
        segment: usize,
        reach: Reach,
    ) -> Order {
        Order {
            access: command.access,
            parts: smallvec![self.part(command, request.raw().clone(), segment, reach)],
            merge: Merge::Only,
            copies: copies(command, reach, &[segment]),
        }
    }

    /// Cuts a request by the segments of its keys; one whose keys share a segment stays whole.
    fn plan_split(
        &mut self,
        command: &'static Command,
        split: Split,
        request: &Request,
        reach: Reach,
    ) -> Planned {
        let step = if split == Split::Pairs { 2 } else { 1 };
        if !(request.len() - 1).is_multiple_of(step) {
            return Err(wrong_arity(command));
        }
        // Which segments occur, in the order of their first key, and for each key which of them.
        let mut segments: SmallVec<[usize; 1]> = SmallVec::new();
        let mut place_of_segment = vec![u32::MAX; self.topology.segments()];
        let mut places: Vec<u32> = Vec::new();
        for at in (1..request.len()).step_by(step) {
            let segment = self.segment_of(request.arg(at))?;
            let place = &mut place_of_segment[segment];
            if *place == u32::MAX {
                *place = u32::try_from(segments.len()).unwrap_or(u32::MAX);
                segments.push(segment);
            }
            places.push(*place);
        }
        if let [segment] = segments[..] {
            return Ok(self.order_one(command, request, segment, reach));
        }
        self.counters.fragments += segments.len() as u64;
        let parts = fragments(command.name, request, step, &places, segments.len())
            .into_iter()
            .zip(&segments)
            .map(|(payload, &segment)| self.part(command, payload, segment, reach))
            .collect();
        let merge = match split {
            Split::Array => Merge::Array(elements(&places, segments.len())),
            Split::Sum => Merge::Sum,
            Split::Pairs => Merge::AllOk,
        };
        Ok(Order {
            access: command.access,
            parts,
            merge,
            copies: copies(command, reach, &segments),
        })
    }

    fn order_everywhere(&self, command: &Command, request: &Request) -> Order {
        let targets: SmallVec<[LinkId; 3]> = self.topology.nodes().collect();
        let own = targets.iter().position(|&target| target == LinkId::STORE);
        let question = Question {
            rule: Rule::Everyone,
            access: command.access,
            own: own.unwrap_or(0),
            compare: Compare::Bytes,
        };
        let mut part = Part::new(request.raw().clone(), question, targets);
        if command.access == Access::Write {
            part.numbering = Numbering::Each;
        }
        Order {
            access: command.access,
            parts: smallvec![part],
            merge: Merge::Only,
            copies: SmallVec::new(),
        }
    }
}

/// A browser that somebody lured here sends requests as lines of HTTP: it must not get as far as
/// the lines it was told to send in the body.
fn is_http(request: &Request) -> bool {
    let name = request.arg(0);
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

fn has_word(request: &Request, word: &[u8]) -> bool {
    // Behind STREAMS stand names, which may be anything.
    request
        .args_from(1)
        .take_while(|arg| !arg.eq_ignore_ascii_case(b"streams"))
        .any(|arg| arg.eq_ignore_ascii_case(word))
}

fn copies(command: &Command, reach: Reach, segments: &[usize]) -> SmallVec<[usize; 1]> {
    if reach.abroad && command.access == Access::Write {
        SmallVec::from_slice(segments)
    } else {
        SmallVec::new()
    }
}

fn order_for_peer(request: &Request) -> Planned {
    let command = command_of(request)?;
    match command.class {
        Class::Refused(reason) => Err(write::error_reply(&reason.text(command.name))),
        Class::Own => Err(unknown(request)),
        _ => Ok(store_only(command, request)),
    }
}

/// An order for the own store alone.
fn store_only(command: &Command, request: &Request) -> Order {
    let question = Question {
        rule: Rule::Level(Consistency::DcOne),
        access: command.access,
        own: 0,
        compare: command.compare,
    };
    Order {
        access: command.access,
        parts: smallvec![Part::new(
            request.raw().clone(),
            question,
            smallvec![LinkId::STORE]
        )],
        merge: Merge::Only,
        copies: SmallVec::new(),
    }
}

/// The requests of the parts: each the name in lower case, as Netflix's engine writes it, and its
/// share of the arguments.
fn fragments(
    name: &str,
    request: &Request,
    step: usize,
    places: &[u32],
    parts: usize,
) -> Vec<Bytes> {
    let mut keys = vec![0_usize; parts];
    for place in places {
        keys[*place as usize] += 1;
    }
    let mut out: Vec<BytesMut> = keys
        .iter()
        .map(|count| {
            let mut out = BytesMut::new();
            write::array(&mut out, 1 + count * step);
            write::bulk(&mut out, name.as_bytes());
            out
        })
        .collect();
    for (index, place) in places.iter().enumerate() {
        for offset in 0..step {
            write::bulk(
                &mut out[*place as usize],
                request.arg(1 + index * step + offset),
            );
        }
    }
    out.into_iter().map(BytesMut::freeze).collect()
}

/// For each key its part, and which element of that part's answer is its own.
fn elements(places: &[u32], parts: usize) -> Vec<(u32, u32)> {
    let mut next = vec![0_u32; parts];
    places
        .iter()
        .map(|&place| {
            let element = next[place as usize];
            next[place as usize] += 1;
            (place, element)
        })
        .collect()
}

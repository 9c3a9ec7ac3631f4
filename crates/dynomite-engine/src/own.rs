//! Commands that the engine answers itself: what clients ask before they ask for data.

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};
use dynomite_protocol::consistency::Consistency;
use dynomite_protocol::resp::{Request, write};

use crate::command::{self, Access, Class, Command, Keys, Split};
use crate::engine::Engine;
use crate::limits::MAX_CLIENT_NAME;
use crate::output::SessionId;
use crate::plan::Plan;
use crate::session::{ClientState, Role};

/// The Redis version shown to clients that ask: its commands are the ones passed on.
const REDIS_VERSION: &[u8] = b"7.0.0";

/// Settings of a Redis that clients ask for; a ring has no others to show.
const CONFIG: &[(&str, &str)] = &[
    ("save", ""),
    ("appendonly", "no"),
    ("databases", "1"),
    ("maxmemory", "0"),
    ("timeout", "0"),
];

fn ok() -> Plan {
    Plan::Answer(Bytes::from_static(b"+OK\r\n"))
}

fn error(text: &str) -> Plan {
    Plan::Answer(write::error_reply(text))
}

fn no_password() -> Plan {
    error(
        "ERR AUTH <password> called without any password configured for the default user. Are \
         you sure your configuration is correct?",
    )
}

fn unknown_subcommand(command: &Command, request: &Request) -> Plan {
    let word = String::from_utf8_lossy(request.arg(1));
    let word: String = word.chars().take(64).collect();
    error(&format!(
        "ERR unknown subcommand '{word}' of '{}'",
        command.name
    ))
}

impl Engine {
    pub(crate) fn answer_own(
        &mut self,
        id: SessionId,
        command: &'static Command,
        request: &Request,
    ) -> Plan {
        match command.name {
            "echo" => Plan::Answer(write::bulk_reply(request.arg(1))),
            "quit" => Plan::AnswerAndClose(Bytes::from_static(b"+OK\r\n")),
            "select" => match request.number(1) {
                Some(0) => ok(),
                Some(_) => error("ERR DB index is out of range"),
                None => error("ERR value is not an integer or out of range"),
            },
            "reset" => {
                if let Some(client) = self.client_mut(id) {
                    client.name.clear();
                    client.consistency = None;
                    client.resp3 = false;
                }
                Plan::Answer(Bytes::from_static(b"+RESET\r\n"))
            }
            "hello" => self.hello(id, request),
            "client" => self.client_command(id, command, request),
            "command" => describe_commands(command, request),
            "config" => config(command, request),
            "dyno_config:conn_consistency" => self.connection_consistency(id, request),
            _ => no_password(),
        }
    }

    fn client_mut(&mut self, id: SessionId) -> Option<&mut ClientState> {
        match &mut self.sessions.get_mut(id)?.role {
            Role::Client(client) => Some(client),
            Role::Peer(_) => None,
        }
    }

    fn connection_consistency(&mut self, id: SessionId, request: &Request) -> Plan {
        let level = String::from_utf8_lossy(request.arg(1)).parse::<Consistency>();
        match (level, self.client_mut(id)) {
            (Ok(level), Some(client)) => {
                client.consistency = Some(level);
                ok()
            }
            (Err(why), _) => error(&format!("ERR Dynomite: {why}")),
            (Ok(_), None) => ok(),
        }
    }

    fn hello(&mut self, id: SessionId, request: &Request) -> Plan {
        let version = match (request.len(), request.number(1)) {
            (1, _) => None,
            (_, Some(version @ (2 | 3))) => Some(version),
            _ => return error("NOPROTO unsupported protocol version"),
        };
        let mut at = 2;
        while at < request.len() {
            let word = request.arg(at).to_ascii_lowercase();
            match word.as_slice() {
                b"auth" => return no_password(),
                b"setname" if at + 1 < request.len() => {
                    if let Err(answer) = self.set_name(id, request.arg(at + 1)) {
                        return Plan::Answer(answer);
                    }
                    at += 2;
                }
                _ => return error("ERR syntax error in HELLO"),
            }
        }
        let (number, resp3) = match self.client_mut(id) {
            Some(client) => {
                client.resp3 = version.map_or(client.resp3, |version| version == 3);
                (client.number, client.resp3)
            }
            None => (0, false),
        };
        let mut out = BytesMut::new();
        write::array(&mut out, 14);
        for (name, value) in [
            (&b"server"[..], Some(&b"redis"[..])),
            (b"version", Some(REDIS_VERSION)),
            (b"proto", None),
            (b"id", None),
            (b"mode", Some(b"standalone")),
            (b"role", Some(b"master")),
        ] {
            write::bulk(&mut out, name);
            match value {
                Some(value) => write::bulk(&mut out, value),
                None if name == b"proto" => write::integer(&mut out, if resp3 { 3 } else { 2 }),
                None => write::integer(&mut out, i64::try_from(number).unwrap_or(0)),
            }
        }
        write::bulk(&mut out, b"modules");
        write::array(&mut out, 0);
        Plan::Answer(out.freeze())
    }

    fn set_name(&mut self, id: SessionId, name: &[u8]) -> Result<(), Bytes> {
        let printable = name.iter().all(|byte| (b'!'..=b'~').contains(byte));
        if !printable || name.len() > MAX_CLIENT_NAME {
            return Err(write::error_reply(
                "ERR Client names cannot contain spaces, newlines or special characters.",
            ));
        }
        if let Some(client) = self.client_mut(id) {
            client.name = name.to_vec();
        }
        Ok(())
    }

    fn client_command(
        &mut self,
        id: SessionId,
        command: &'static Command,
        request: &Request,
    ) -> Plan {
        let word = request.arg(1).to_ascii_lowercase();
        match (word.as_slice(), request.len()) {
            (b"setname", 3) => match self.set_name(id, request.arg(2)) {
                Ok(()) => ok(),
                Err(answer) => Plan::Answer(answer),
            },
            (b"getname", 2) => {
                let name = self.client_mut(id).map(|client| client.name.clone());
                Plan::Answer(write::bulk_reply(&name.unwrap_or_default()))
            }
            (b"id", 2) => {
                let number = self.client_mut(id).map_or(0, |client| client.number);
                Plan::Answer(write::integer_reply(i64::try_from(number).unwrap_or(0)))
            }
            (b"info", 2) => {
                let line = self.client_mut(id).map(|client| client_line(client));
                Plan::Answer(write::bulk_reply(line.unwrap_or_default().as_bytes()))
            }
            (b"list", _) => {
                let lines: String = self
                    .sessions
                    .values()
                    .filter_map(|session| match &session.role {
                        Role::Client(client) => Some(client_line(client)),
                        Role::Peer(_) => None,
                    })
                    .collect();
                Plan::Answer(write::bulk_reply(lines.as_bytes()))
            }
            (b"setinfo", 4) | (b"no-evict" | b"no-touch", 3) => ok(),
            _ => unknown_subcommand(command, request),
        }
    }
}

fn client_line(client: &ClientState) -> String {
    let name = String::from_utf8_lossy(&client.name);
    let resp = if client.resp3 { 3 } else { 2 };
    format!(
        "id={} addr={} name={name} db=0 resp={resp}\n",
        client.number, client.address
    )
}

fn config(command: &Command, request: &Request) -> Plan {
    let get = request.arg(1).eq_ignore_ascii_case(b"get") && request.len() > 2;
    if !get {
        let word = String::from_utf8_lossy(request.arg(1)).to_ascii_uppercase();
        let word: String = word.chars().take(64).collect();
        return error(&command::Refusal::Dangerous.text(&format!("{} {word}", command.name)));
    }
    let wanted: Vec<Vec<u8>> = request
        .args_from(2)
        .map(<[u8]>::to_ascii_lowercase)
        .collect();
    let found: Vec<_> = CONFIG
        .iter()
        .filter(|(name, _)| {
            wanted
                .iter()
                .any(|word| word == b"*" || word == name.as_bytes())
        })
        .collect();
    let mut out = BytesMut::new();
    write::array(&mut out, found.len() * 2);
    for (name, value) in found {
        write::bulk(&mut out, name.as_bytes());
        write::bulk(&mut out, value.as_bytes());
    }
    Plan::Answer(out.freeze())
}

fn usable() -> impl Iterator<Item = &'static Command> {
    command::all()
        .iter()
        .filter(|command| !matches!(command.class, Class::Refused(_)))
}

fn describe_commands(command: &Command, request: &Request) -> Plan {
    let mut out = BytesMut::new();
    if request.len() == 1 {
        write::array(&mut out, usable().count());
        usable().for_each(|command| describe(&mut out, command));
        return Plan::Answer(out.freeze());
    }
    let word = request.arg(1).to_ascii_lowercase();
    match word.as_slice() {
        b"count" => write::integer(&mut out, i64::try_from(usable().count()).unwrap_or(0)),
        b"docs" => write::array(&mut out, 0),
        b"list" => {
            write::array(&mut out, usable().count());
            usable().for_each(|command| write::bulk(&mut out, command.name.as_bytes()));
        }
        b"info" => {
            write::array(&mut out, request.len() - 2);
            for name in request.args_from(2) {
                match command::lookup(name) {
                    Some(command) => describe(&mut out, command),
                    None => out.extend_from_slice(b"*-1\r\n"),
                }
            }
        }
        b"getkeys" => return keys_of_request(request),
        _ => return unknown_subcommand(command, request),
    }
    Plan::Answer(out.freeze())
}

fn keys_of_request(request: &Request) -> Plan {
    let inner: Vec<&[u8]> = request.args_from(2).collect();
    let inner = Request::from_args(&inner);
    let keys = command::lookup(inner.arg(0)).and_then(|command| match command.class {
        Class::Keyed(keys) => command::keys_of(keys, &inner),
        Class::Split(Split::Pairs) => command::keys_of(Keys::Pairs, &inner),
        Class::Split(_) => command::keys_of(Keys::All, &inner),
        Class::Script => command::keys_of(Keys::Counted(2), &inner),
        _ => None,
    });
    let Some(keys) = keys else {
        return error("ERR The command has no key arguments");
    };
    let mut out = BytesMut::new();
    write::array(&mut out, keys.len());
    for at in keys {
        write::bulk(&mut out, inner.arg(at));
    }
    Plan::Answer(out.freeze())
}

/// Name, arity, flags, first key, last key, step: what clients of Redis 2.8 and later read.
fn describe(out: &mut BytesMut, command: &Command) {
    let (first, last, step) = match command.class {
        Class::Keyed(Keys::First | Keys::FirstAndStore | Keys::CountedWithDestination) => (1, 1, 1),
        Class::Keyed(Keys::Second) => (2, 2, 1),
        Class::Keyed(Keys::FirstTwo) => (1, 2, 1),
        Class::Keyed(Keys::All) | Class::Split(Split::Array | Split::Sum) => (1, -1, 1),
        Class::Keyed(Keys::Pairs) | Class::Split(Split::Pairs) => (1, -1, 2),
        Class::Keyed(Keys::FromSecond) => (2, -1, 1),
        _ => (0, 0, 0),
    };
    let flag = match command.access {
        Access::Read => "+readonly\r\n",
        Access::Write => "+write\r\n",
    };
    write::array(out, 6);
    write::bulk(out, command.name.as_bytes());
    write::integer(out, i64::from(command.arity));
    write::array(out, 1);
    // Writing to memory does not fail.
    let _ = out.write_str(flag);
    for number in [first, last, step] {
        write::integer(out, number);
    }
}

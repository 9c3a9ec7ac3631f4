//! What a command is: who may run it, where its keys stand, how its answers are merged.

mod keys;
mod netflix;
mod refused;
mod table;

use std::collections::HashMap;
use std::sync::LazyLock;

pub use keys::keys_of;
pub use netflix::understands as netflix_understands;
pub use refused::Refusal;

/// Whether a command changes data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Asked of one rack, or of as many as the consistency wants.
    Read,
    /// Sent to every rack.
    Write,
}

/// Where the keys of a command stand. Argument 0 is the command's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// Argument 1.
    First,
    /// Argument 2, behind a subcommand.
    Second,
    /// Arguments 1 and 2.
    FirstTwo,
    /// Every argument from 1 on.
    All,
    /// Every second argument from 1 on.
    Pairs,
    /// Every argument from 2 on.
    FromSecond,
    /// A count at this position, and that many keys behind it.
    Counted(usize),
    /// A destination at 1, a count at 2 and that many keys behind it.
    CountedWithDestination,
    /// Argument 1, and what follows a `STORE` or `STOREDIST`.
    FirstAndStore,
    /// The first half of what follows `STREAMS`.
    Streams,
}

/// How a command with keys on several nodes is cut into one request per node, and its answers put
/// together again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// One element per key, in the order of the keys.
    Array,
    /// A number per part; the sum.
    Sum,
    /// Pairs of key and value; every part must be `+OK`.
    Pairs,
}

/// How the answers of several nodes to one request are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// They are the same bytes.
    Bytes,
    /// They are sets: two nodes may give the same one in different orders.
    AsSets,
    /// They are one value per key or field, and each value has its own majority.
    ByElement,
}

/// What is done with a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// All its keys on one node: asked there.
    Keyed(Keys),
    /// Keys on any nodes.
    Split(Split),
    /// A script: keyed, with its own error text.
    Script,
    /// Asked of the contacted node's store only, whatever it holds.
    Store,
    /// Sent to every node of every rack.
    Everywhere,
    /// Answered by the engine itself.
    Own,
    /// Refused with a reason.
    Refused(Refusal),
}

/// One command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// Name in lower case.
    pub name: &'static str,
    /// Arguments, the name included; negative: at least that many. As `COMMAND` shows it.
    pub arity: i16,
    /// Whether it writes.
    pub access: Access,
    /// What is done with it.
    pub class: Class,
    /// How the answers of two nodes are compared.
    pub compare: Compare,
}

impl Command {
    /// Whether a request of `count` arguments, the name included, can be this command.
    pub fn accepts(&self, count: usize) -> bool {
        let wanted = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 {
            count >= wanted
        } else {
            count == wanted
        }
    }
}

/// Longest name of a command.
const MAX_NAME: usize = 32;

static BY_NAME: LazyLock<HashMap<&'static [u8], &'static Command>> = LazyLock::new(|| {
    table::COMMANDS
        .iter()
        .map(|command| (command.name.as_bytes(), command))
        .collect()
});

/// The command of this name, in any case.
pub fn lookup(name: &[u8]) -> Option<&'static Command> {
    let mut lower = [0_u8; MAX_NAME];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    BY_NAME.get(&*lower).copied()
}

/// Every command, in the order of the table.
pub fn all() -> &'static [Command] {
    table::COMMANDS
}

#[cfg(test)]
mod tests;

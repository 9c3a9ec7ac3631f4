//! Starting, signalling and reaping programs, as PID 1 of a container must.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;

use super::voice::Voice;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

/// Starts a program in a process group of its own, with the launcher's
/// environment and these descriptors as its standard input and output; the
/// group lets [`kill`] reach what the program started.
pub(super) fn spawn(
    program: &Path,
    args: &[OsString],
    stdin: OwnedFd,
    stdout: OwnedFd,
) -> io::Result<i32> {
    let mut command = std::process::Command::new(program);
    start(command.stdin(stdin).stdout(stdout), args)
}

/// The same, with a program whose last words can be asked for.
pub(super) fn spawn_heard(program: &Path, args: &[OsString]) -> io::Result<(i32, Voice)> {
    let (voice, mouth) = Voice::listen()?;
    // Dropped with the command, so that the pipe ends with the program.
    let mut command = std::process::Command::new(program);
    command.stdin(Stdio::null());
    command.stdout(mouth.try_clone()?).stderr(mouth);
    Ok((start(&mut command, args)?, voice))
}

fn start(command: &mut std::process::Command, args: &[OsString]) -> io::Result<i32> {
    // The child is reaped by `reap` with everything else that ends here, never
    // by the handle, so dropping the handle leaves nothing behind.
    let child = command.args(args).process_group(0).spawn()?;
    i32::try_from(child.id()).map_err(io::Error::other)
}

/// Sends SIGTERM to a program; one that has ended is no error.
pub(super) fn terminate(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
}

/// Sends SIGKILL to a program and to all it started; one that has ended is no error.
pub(super) fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
}

/// Makes this process the one that orphans come back to, as PID 1 is anyway.
pub(super) fn adopt_orphans() {
    // Any process id switches it on; a kernel without it leaves orphans to PID 1.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// Reaps everything that has ended and says how `pid` ended, if it is among them.
pub(super) fn reap(pid: Option<i32>) -> Option<Exit> {
    let mut found = None;
    while let Ok(Some((ended, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if Some(ended.as_raw_nonzero().get()) == pid {
            found = Some(Exit::of(status));
        }
    }
    found
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    fn of(status: WaitStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Code(code),
            (None, signal) => Self::Signal(signal.unwrap_or_default()),
        }
    }

    /// The code a shell would give.
    pub(super) fn code(self) -> u8 {
        let code = match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        };
        u8::try_from(code).unwrap_or(u8::MAX)
    }

    /// In words, with the cause that is most likely when it was not us who killed.
    pub(super) fn words(self, ordered: bool) -> String {
        match self {
            Self::Code(code) => format!("exit status {code}"),
            Self::Signal(9) if !ordered => {
                "killed by signal 9; out of memory is the usual cause".to_owned()
            }
            Self::Signal(signal) => format!("killed by signal {signal}"),
        }
    }
}

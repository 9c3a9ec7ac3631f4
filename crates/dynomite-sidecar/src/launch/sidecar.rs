//! The launcher of the sidecar: lays out the shared volume and runs `run` again when it crashes or hangs.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::{process, server, sockets_dir};
use crate::{http, pulse};

/// The first pause before a sidecar that ended is run again; it doubles up to
/// [`LONGEST_PAUSE`], which is below the time between two readiness probes.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A sidecar that ran for this long crashed by accident: the pauses begin anew.
const STEADY_AFTER: Duration = Duration::from_secs(10);

/// Makes what the containers share: directories, and the binary that launches.
///
/// # Errors
/// When the volume cannot be written.
pub(crate) fn prepare(run_dir: &Path, binary: &Path) -> anyhow::Result<()> {
    for name in ["bin", "conf"] {
        let path = run_dir.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    server::make_private_dir(&run_dir.join("private"))?;
    server::make_private_dir(&sockets_dir(run_dir))?;
    // Renamed into place: a container that starts meanwhile finds the old
    // binary or the new one, never a part of it.
    let target = run_dir.join("bin/dynomite-sidecar");
    let fresh = run_dir.join("bin/.dynomite-sidecar");
    fs::copy(binary, &fresh).with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    fs::rename(&fresh, &target).with_context(|| format!("cannot make {}", target.display()))
}

pub(super) async fn run(run_dir: &Path, args: &[OsString]) -> anyhow::Result<ExitCode> {
    let mut told = Told::listen()?;
    process::adopt_orphans();
    let binary = std::env::current_exe().context("cannot find this program's own file")?;
    prepare(run_dir, &binary)?;
    let (address, port) = crate::run::plain_port(args)?;
    let listener = http::listen(address, port).context("cannot listen at the plain port")?;
    let launcher = pulse::Launcher::new(listener)?;
    let mut command = vec![OsString::from("run"), OsString::from("--beneath-launcher")];
    command.extend_from_slice(args);
    supervise(&binary, &command, &launcher, &mut told).await
}

/// What this process is told by signals.
struct Told {
    children: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Told {
    /// Listens before anything else is done: the kernel drops a SIGTERM to the
    /// first process of a container that does not listen, and a pod that was
    /// deleted while this started would stay for its whole grace.
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            children: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// Runs a program, again and again, until SIGTERM has reached it and it has ended.
async fn supervise(
    program: &Path,
    args: &[OsString],
    launcher: &pulse::Launcher,
    told: &mut Told,
) -> anyhow::Result<ExitCode> {
    let mut pause = Duration::ZERO;
    let mut terminating = false;
    loop {
        let begun = Instant::now();
        let (stdin, stdout, mut beats) = launcher.next()?;
        let pid = process::spawn(program, args, stdin, stdout)
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut look = tokio::time::interval(pulse::BEAT);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut hangs = false;
        let exit = loop {
            tokio::select! {
                _ = told.children.recv() => if let Some(exit) = process::reap(Some(pid)) {
                    break exit;
                },
                _ = look.tick(), if !hangs => if beats.look() {
                    tracing::error!(pid, "the sidecar hangs and is killed");
                    hangs = true;
                    process::kill(pid);
                },
                _ = told.terminate.recv() => {
                    terminating = true;
                    process::terminate(pid);
                }
                _ = told.interrupt.recv() => {
                    terminating = true;
                    process::terminate(pid);
                }
            }
        };
        if terminating {
            return Ok(ExitCode::from(exit.code()));
        }
        tracing::warn!(how = %exit.words(false), "the sidecar ended and is run again");
        pause = next_pause(pause, begun.elapsed());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = told.terminate.recv() => return Ok(ExitCode::from(exit.code())),
            _ = told.interrupt.recv() => return Ok(ExitCode::from(exit.code())),
        }
    }
}

/// The pause after `last`, when the sidecar ran for `ran`: none after an accident.
fn next_pause(last: Duration, ran: Duration) -> Duration {
    if ran >= STEADY_AFTER {
        return Duration::ZERO;
    }
    (last * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_second_and_begin_anew() {
        let mut pause = Duration::ZERO;
        for _ in 0..10 {
            let next = next_pause(pause, Duration::ZERO);
            assert!(next > pause || next == LONGEST_PAUSE);
            pause = next;
        }
        assert_eq!(pause, LONGEST_PAUSE);
        assert_eq!(next_pause(pause, STEADY_AFTER), Duration::ZERO);
    }

    #[test]
    fn the_volume_is_laid_out_again_and_again() {
        let volume = tempfile::tempdir().unwrap();
        let source = volume.path().join("source");
        for content in ["one", "two"] {
            fs::write(&source, content).unwrap();
            prepare(volume.path(), &source).unwrap();
            let target = volume.path().join("bin/dynomite-sidecar");
            assert_eq!(fs::read_to_string(&target).unwrap(), content);
            assert_eq!(
                fs::metadata(&target).unwrap().permissions().mode() & 0o777,
                0o755
            );
        }
        for name in ["private", "launch"] {
            let mode = fs::metadata(volume.path().join(name))
                .unwrap()
                .permissions();
            assert_eq!(mode.mode() & 0o777, 0o700, "{name}");
        }
    }
}

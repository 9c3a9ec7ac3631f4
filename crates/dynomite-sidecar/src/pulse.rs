//! The pulse: `run` shows its launcher that it lives, and gets from it the listener of the plain port.
//!
//! ```text
//!   launcher (PID 1)                                   run
//!   holds the plain port's listener  -- stdin ------->  accepts there
//!   counts its ticks without a beat  <-- stdout -----   beats while the driver lives
//! ```
//!
//! A sidecar that hangs or crashes is replaced between two answers to a probe:
//! the kernel keeps the connections that come meanwhile, for the listener stays.
//! Descriptors travel as the child's standard input and output, which a program
//! may take over without `unsafe`; nothing else is said there.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::shared::View;

/// Between two beats, and between two looks for them.
pub(crate) const BEAT: Duration = Duration::from_millis(100);

/// So many looks without a beat, and the sidecar hangs. Looks and not time: a
/// machine that stands still lets nobody beat, and then nobody looks either.
/// With what it takes to be replaced this is less than a probe waits.
pub(crate) const MISSED_BEATS: u32 = 10;

/// So many looks a sidecar that starts may take until its first beat.
pub(crate) const FIRST_BEAT: u32 = 300;

/// A driver that has shown nothing for so long does not live any more.
const DRIVER_LIMIT: Duration = Duration::from_secs(30);

/// What the launcher keeps while sidecars come and go.
pub(crate) struct Launcher {
    listener: std::net::TcpListener,
}

impl Launcher {
    /// Keeps this listener.
    ///
    /// # Errors
    /// When it cannot be taken from the runtime.
    pub(crate) fn new(listener: TcpListener) -> io::Result<Self> {
        let listener = listener.into_std()?;
        Ok(Self { listener })
    }

    /// What the next sidecar gets as its standard input and output, and where
    /// its beats arrive.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub(crate) fn next(&self) -> io::Result<(OwnedFd, OwnedFd, Beats)> {
        let (here, there) = UnixStream::pair()?;
        here.set_nonblocking(true)?;
        let beats = Beats {
            stream: tokio::net::UnixStream::from_std(here)?,
            missed: 0,
            heard: false,
        };
        Ok((self.listener.try_clone()?.into(), there.into(), beats))
    }
}

/// The beats of one sidecar.
pub(crate) struct Beats {
    stream: tokio::net::UnixStream,
    missed: u32,
    heard: bool,
}

impl Beats {
    /// Looks once; whether the sidecar hangs. To be asked every [`BEAT`].
    pub(crate) fn look(&mut self) -> bool {
        let mut bytes = [0; 64];
        if self.stream.try_read(&mut bytes).is_ok_and(|read| read > 0) {
            self.missed = 0;
            self.heard = true;
            return false;
        }
        self.missed += 1;
        self.missed >= if self.heard { MISSED_BEATS } else { FIRST_BEAT }
    }
}

/// The listener that the launcher has given this process.
///
/// # Errors
/// When standard input is no listener.
pub(crate) fn listener() -> io::Result<TcpListener> {
    let given = io::stdin().as_fd().try_clone_to_owned()?;
    let listener = std::net::TcpListener::from(given);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Where this process shows its launcher that it lives; it has begun to then.
///
/// # Errors
/// When standard output is no socket.
pub(crate) fn heart() -> io::Result<tokio::net::UnixStream> {
    let given = io::stdout().as_fd().try_clone_to_owned()?;
    let stream = UnixStream::from(given);
    // The first beat: from here on the launcher expects them.
    io::Write::write_all(&mut &stream, &[0])?;
    stream.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(stream)
}

/// Beats for as long as the driver lives.
pub(crate) async fn beat(heart: tokio::net::UnixStream, view: watch::Receiver<View>) {
    let mut tick = tokio::time::interval(BEAT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = (view.borrow().report.at, Instant::now());
    loop {
        tick.tick().await;
        let at = view.borrow().report.at;
        if at != shown.0 {
            shown = (at, Instant::now());
        }
        if view.has_changed().is_ok() && shown.1.elapsed() < DRIVER_LIMIT {
            // A launcher that reads nothing for so long has no use for more.
            let _ = heart.try_write(&[0]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[tokio::test]
    async fn a_sidecar_hangs_after_so_many_looks_without_a_beat() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let launcher = Launcher::new(listener).unwrap();
        let (_stdin, stdout, mut beats) = launcher.next().unwrap();
        for _ in 1..FIRST_BEAT {
            assert!(!beats.look(), "it may take its time to start");
        }
        assert!(beats.look());
        let heart = UnixStream::from(stdout);
        for _ in 0..3 {
            io::Write::write_all(&mut &heart, &[0]).unwrap();
            while beats.stream.readable().await.is_ok() && beats.look() {}
            assert_eq!(beats.missed, 0);
            for _ in 1..MISSED_BEATS {
                assert!(!beats.look());
            }
            assert!(beats.look());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_driver_that_shows_nothing_any_more_has_no_pulse() {
        let (here, there) = UnixStream::pair().unwrap();
        there.set_nonblocking(true).unwrap();
        let heart = tokio::net::UnixStream::from_std(there).unwrap();
        let (view, shown) = watch::channel(fixture::view());
        tokio::spawn(beat(heart, shown));
        here.set_nonblocking(true).unwrap();
        let beats = || {
            let mut bytes = [0; 4096];
            io::Read::read(&mut &here, &mut bytes).unwrap_or_default()
        };
        tokio::time::sleep(BEAT * 20).await;
        assert!(beats() >= 19);
        tokio::time::sleep(DRIVER_LIMIT).await;
        beats();
        tokio::time::sleep(DRIVER_LIMIT).await;
        assert_eq!(beats(), 0);
        view.send_modify(|view| view.report.at += Duration::from_secs(1));
        tokio::time::sleep(BEAT * 20).await;
        assert!(beats() >= 19);
    }
}

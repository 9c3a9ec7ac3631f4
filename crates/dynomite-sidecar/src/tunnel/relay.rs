//! A store's connection to its donor, passed on as it is understood, as far as the gate lets it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::BytesMut;
use dynomite_protocol::replication::{Piece, ReplicationError, Replies, Requests, What};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::gate::{Gate, Passage};
use super::pipe::{DATA_BUFFER, REPLY_BUFFER};

/// Passes bytes both ways until either end is done, and adds those of the donor
/// to `count` as they come.
///
/// # Errors
/// When either end fails or says what is no replication, or when the gate does
/// not let a stream begin.
pub(super) async fn relay<D, S>(
    donor: D,
    store: S,
    gate: &Gate,
    count: &AtomicU64,
) -> io::Result<()>
where
    D: AsyncRead + AsyncWrite,
    S: AsyncRead + AsyncWrite,
{
    let (from_donor, to_donor) = tokio::io::split(donor);
    let (from_store, to_store) = tokio::io::split(store);
    let replies = Mutex::new(Replies::default());
    let passage = gate.connect();
    tokio::select! {
        ended = requests(from_store, to_donor, &replies) => ended,
        ended = answers(from_donor, to_store, &replies, &passage, count) => ended,
    }
}

async fn requests(
    mut store: impl AsyncRead + Unpin,
    mut donor: impl AsyncWrite + Unpin,
    replies: &Mutex<Replies>,
) -> io::Result<()> {
    let mut requests = Requests::default();
    let mut buffer = vec![0; REPLY_BUFFER];
    loop {
        let length = store.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        // Known before the donor can answer it.
        if let Some(psync) = requests.push(&buffer[..length]).map_err(garbled)? {
            let mut replies = replies.lock().unwrap_or_else(PoisonError::into_inner);
            replies.asked(psync);
        }
        donor.write_all(&buffer[..length]).await?;
        donor.flush().await?;
    }
}

async fn answers(
    mut donor: impl AsyncRead + Unpin,
    mut store: impl AsyncWrite + Unpin,
    replies: &Mutex<Replies>,
    passage: &Passage<'_>,
    count: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(DATA_BUFFER);
    loop {
        buffer.reserve(DATA_BUFFER);
        let length = donor.read_buf(&mut buffer).await?;
        if length == 0 {
            return store.flush().await;
        }
        count.fetch_add(length as u64, Ordering::Relaxed);
        while let Some(piece) = next(replies, &mut buffer)? {
            pass(&piece, &mut store, passage).await?;
        }
        store.flush().await?;
    }
}

fn next(replies: &Mutex<Replies>, buffer: &mut BytesMut) -> io::Result<Option<Piece>> {
    let mut replies = replies.lock().unwrap_or_else(PoisonError::into_inner);
    replies.next(buffer).map_err(garbled)
}

async fn pass(
    piece: &Piece,
    store: &mut (impl AsyncWrite + Unpin),
    passage: &Passage<'_>,
) -> io::Result<()> {
    match &piece.what {
        What::FullResync { id, offset } => passage.begins(id, *offset).map_err(held)?,
        What::Continue { id, offset } => passage.goes_on(id, *offset).map_err(held)?,
        What::SnapshotHead { length } => passage.copy_has(*length),
        What::Snapshot => passage.copied(piece.raw.len() as u64),
        What::Stream { .. } => {
            let mut rest = piece.raw.clone();
            while !rest.is_empty() {
                let count = passage.claim(rest.len()).await.map_err(held)?;
                store.write_all(&rest.split_to(count)).await?;
                // What waits behind it may be held for long.
                store.flush().await?;
            }
            return Ok(());
        }
        What::Reply | What::KeepAlive | What::SnapshotEnd => {}
    }
    store.write_all(&piece.raw).await
}

fn garbled(error: ReplicationError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn held(why: &'static str) -> io::Error {
    io::Error::other(why)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::DuplexStream;
    use tokio::task::JoinHandle;

    use super::*;

    const ID: &str = "8c0e2c7b2f9f5f0a6d3f2b1c4d5e6f708192a3b4";
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A relay between a made-up donor and a made-up store.
    struct Between {
        donor: DuplexStream,
        store: DuplexStream,
        gate: Arc<Gate>,
        relay: JoinHandle<io::Result<()>>,
    }

    impl Between {
        fn new(gate: &Arc<Gate>) -> Self {
            let (donor, to_donor) = tokio::io::duplex(64);
            let (store, to_store) = tokio::io::duplex(64);
            let held = Arc::clone(gate);
            let relay = tokio::spawn(async move {
                let count = AtomicU64::new(0);
                relay(to_donor, to_store, &held, &count).await
            });
            Self {
                donor,
                store,
                gate: Arc::clone(gate),
                relay,
            }
        }

        /// The store asks and the donor answers; both are passed on.
        async fn says(&mut self, asks: &str, answers: &str) {
            self.store.write_all(asks.as_bytes()).await.expect("open");
            let mut passed = vec![0; asks.len()];
            self.donor.read_exact(&mut passed).await.expect("passed on");
            assert_eq!(passed, asks.as_bytes());
            self.gives(answers).await;
            self.takes(answers).await;
        }

        async fn gives(&mut self, bytes: &str) {
            self.donor.write_all(bytes.as_bytes()).await.expect("open");
        }

        async fn takes(&mut self, want: &str) {
            let mut bytes = vec![0; want.len()];
            let read = self.store.read_exact(&mut bytes);
            tokio::time::timeout(PATIENCE, read)
                .await
                .unwrap_or_else(|_| panic!("{want:?} does not come"))
                .expect("the relay runs");
            assert_eq!(String::from_utf8_lossy(&bytes), want);
        }

        /// Nothing more comes, although the relay has had every chance.
        async fn takes_nothing(&mut self) {
            let mut byte = [0];
            let read = self.store.read(&mut byte);
            let read = tokio::time::timeout(Duration::from_secs(5), read).await;
            assert!(read.is_err(), "{byte:?} came");
        }
    }

    fn anew() -> String {
        format!("+FULLRESYNC {ID} 100\r\n$3\r\nRDB")
    }

    #[tokio::test(start_paused = true)]
    async fn questions_and_copies_pass_as_they_are() {
        let gate = Arc::<Gate>::default();
        let mut between = Between::new(&gate);
        between
            .says("*1\r\n$4\r\nINFO\r\n", "$5\r\nrole:\r\n")
            .await;
        between.says("PSYNC ? -1\r\n", &anew()).await;
        between.gives("one").await;
        between.takes("one").await;
        let (done, total) = (3, Some(3));
        assert_eq!(gate.copied(), super::super::gate::Copied { done, total });
        drop(between.donor);
        assert!(between.relay.await.expect("no panic").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_stops_between_two_bytes_and_goes_on_to_the_byte() {
        for (first, upto) in [("", 0), ("a", 1), ("abc", 4), ("abc", 3), ("abcdef", 6)] {
            let gate = Arc::<Gate>::default();
            let mut between = Between::new(&gate);
            between.says("PSYNC ? -1\r\n", &anew()).await;
            between.gives(first).await;
            between.takes(first).await;
            gate.pause().expect("there is a stream");
            let rest = &"abcdefgh"[first.len()..];
            between.gives(rest).await;
            between.takes_nothing().await;
            let reached = gate.let_through(ID, 100 + upto).await;
            assert_eq!(reached, Ok(()));
            let upto = usize::try_from(upto).expect("small");
            between.takes(&"abcdefgh"[first.len()..upto]).await;
            between.takes_nothing().await;
            gate.open();
            between.takes(&"abcdefgh"[upto..]).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_holds_for_the_next_connection_too() {
        let gate = Arc::<Gate>::default();
        let mut between = Between::new(&gate);
        between.says("PSYNC ? -1\r\n", &anew()).await;
        between.gives("abc").await;
        between.takes("abc").await;
        gate.pause().expect("there is a stream");
        drop((between.donor, between.store));
        assert!(between.relay.await.is_ok());
        assert!(gate.let_through(ID, 105).await.is_err(), "no stream");
        // The store connects again by itself and goes on where it was.
        let mut between = Between::new(&gate);
        let asks = format!("PSYNC {ID} 102\r\n");
        between.says(&asks, "+CONTINUE\r\n").await;
        between.gives("bcdef").await;
        between.takes("bc").await;
        between.takes_nothing().await;
        let through = gate.let_through(ID, 105).await;
        assert_eq!(through, Ok(()));
        between.takes("de").await;
        between.takes_nothing().await;
        // A whole copy would bring what lies beyond the cut.
        let mut other = Between::new(&gate);
        other
            .store
            .write_all(b"PSYNC ? -1\r\n")
            .await
            .expect("open");
        other.gives(&format!("+FULLRESYNC {ID} 100\r\n")).await;
        assert!(other.relay.await.expect("no panic").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_reached_exactly_is_refused() {
        let gate = Arc::<Gate>::default();
        assert!(gate.pause().is_err(), "no stream");
        let mut between = Between::new(&gate);
        between.says("PSYNC ? -1\r\n", &anew()).await;
        between.gives("abc").await;
        between.takes("abc").await;
        assert!(gate.let_through(ID, 105).await.is_err(), "not paused");
        gate.pause().expect("there is a stream");
        assert!(gate.let_through(ID, 102).await.is_err(), "past it");
        assert!(gate.let_through("other", 105).await.is_err(), "not it");
        let waits = {
            let gate = Arc::clone(&between.gate);
            tokio::spawn(async move { gate.let_through(ID, 105).await })
        };
        between.gives("d").await;
        between.takes("d").await;
        drop(between.donor);
        assert!(waits.await.expect("no panic").is_err(), "it broke off");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_replication_ends_the_connection() {
        let gate = Arc::<Gate>::default();
        let mut between = Between::new(&gate);
        between.gives("HTTP/1.1 200 OK\r\n").await;
        assert!(between.relay.await.expect("no panic").is_err());
    }
}

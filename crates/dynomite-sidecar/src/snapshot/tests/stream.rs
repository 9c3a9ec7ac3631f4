//! What a store may say, or not say, when it is asked for a snapshot.

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixListener;

use crate::snapshot::broken::Broken;
use crate::snapshot::psync::Snapshot;

const RESYNC: &str = "+FULLRESYNC 00112233445566778899aabbccddeeff00112233 5\r\n";
const MARK: &str = "0123456789012345678901234567890123456789";

/// Asks a store that answers every offer, then says `words` and leaves, or stays and is silent.
async fn asked(words: &str, stays: bool) -> Result<Vec<u8>, Broken> {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("store.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let words = words.to_owned();
    let store = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("it comes");
        let mut stream = BufReader::new(stream);
        loop {
            let mut line = String::new();
            let read = stream.read_line(&mut line).await.expect("it speaks");
            assert!(read > 0, "it asks for a snapshot");
            if line.starts_with("PSYNC") {
                break;
            }
            stream.write_all(b"+OK\r\n").await.expect("it listens");
        }
        stream
            .write_all(words.as_bytes())
            .await
            .expect("it listens");
        if stays {
            std::future::pending::<()>().await;
        }
    });
    let taken = async {
        let mut snapshot = Snapshot::ask(&[&socket]).await?;
        let mut all = Vec::new();
        while let Some(piece) = snapshot.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all)
    };
    let taken = taken.await;
    store.abort();
    taken
}

#[tokio::test]
async fn a_stream_without_its_end_is_no_snapshot() {
    let whole = format!("{RESYNC}$4\r\nRDB.");
    assert_eq!(asked(&whole, true).await, Ok(b"RDB.".to_vec()));
    let whole = format!("{RESYNC}\n\n$EOF:{MARK}\r\nRDB.{MARK}");
    assert_eq!(asked(&whole, true).await, Ok(b"RDB.".to_vec()));
    for (words, reason) in [
        // Refused, could not fork, and could not save: disk full.
        ("-NOMASTERLINK Can't SYNC\r\n".to_owned(), "SaveFailed"),
        (RESYNC.to_owned(), "SaveFailed"),
        (format!("{RESYNC}\n"), "SaveFailed"),
        // Cut in the middle, and before the last byte of its mark.
        (format!("{RESYNC}$4\r\nRDB"), "StreamBroke"),
        (format!("{RESYNC}$EOF:{MARK}\r\nRDB."), "StreamBroke"),
        (
            format!("{RESYNC}$EOF:{MARK}\r\nRDB.{}", &MARK[..39]),
            "StreamBroke",
        ),
    ] {
        let broken = asked(&words, false).await.expect_err("no snapshot");
        assert_eq!((broken.reason, broken.retry), (reason, true), "{words:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_falls_silent_is_given_up() {
    let soon = std::time::Duration::from_mins(2);
    for words in [RESYNC.to_owned(), format!("{RESYNC}$4\r\nRDB")] {
        let asked = tokio::time::timeout(soon, asked(&words, true)).await;
        let broken = asked.expect("soon").expect_err("no snapshot");
        assert_eq!(broken.reason, "StreamStalled", "{words:?}");
    }
}

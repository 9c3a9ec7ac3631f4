use std::fs;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpListener;

use super::*;
use crate::fixture;
use crate::fixture::store::Store;

const HISTORY: &str = "00112233445566778899aabbccddeeff00112233";

/// What a store says while it copies.
trait Copies {
    fn replica_of(&self, port: u16);
    fn is_synchronised(&self) -> bool;
}

impl Copies for Store {
    fn replica_of(&self, port: u16) {
        let port = port.to_string();
        let _: String = self.ask(&[b"REPLICAOF", b"127.0.0.1", port.as_bytes()]);
    }

    fn is_synchronised(&self) -> bool {
        self.info("master_link_status") == "up" && self.info("master_replid") == HISTORY
    }
}

/// Data whose first `cuts` openings end in the middle.
#[derive(Debug)]
struct Cut {
    bytes: Arc<Vec<u8>>,
    cuts: std::sync::atomic::AtomicUsize,
}

impl Source for Cut {
    fn open(&self) -> Pin<Box<dyn Future<Output = io::Result<Opened>> + Send + '_>> {
        use std::sync::atomic::Ordering;
        let left = self.cuts.load(Ordering::Relaxed);
        let cut = left > 0;
        self.cuts.store(left.saturating_sub(1), Ordering::Relaxed);
        let given = if cut {
            self.bytes.len() / 2
        } else {
            self.bytes.len()
        };
        let data = io::Cursor::new(self.bytes[..given].to_vec());
        let length = self.bytes.len() as u64;
        Box::pin(async move {
            let data = Box::pin(data);
            Ok(Opened { length, data })
        })
    }
}

/// A primary on a free port, until it is dropped.
struct Primary {
    port: u16,
    ends: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Primary {
    fn of(source: impl Source + 'static) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("can be set");
        let port = listener.local_addr().expect("is bound").port();
        let (ends, ended) = tokio::sync::oneshot::channel::<()>();
        let given = Play {
            history: HISTORY.to_owned(),
            source: Box::new(source),
        };
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).expect("a listener");
                let serve = async {
                    let gate = Gate::default();
                    while let Ok((stream, _)) = listener.accept().await {
                        let _ = play(stream, &given, &gate).await;
                    }
                };
                tokio::select! {
                    () = serve => {}
                    _ = ended => {}
                }
            });
        });
        Self {
            port,
            ends: Some(ends),
        }
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        drop(self.ends.take());
    }
}

#[test]
fn a_store_takes_the_whole_copy_whatever_it_had_and_however_it_persists() {
    for server in fixture::stores() {
        let origin = Store::start(&server, &[]);
        origin.fill();
        let expected = origin.contents();
        let dump = origin.dump();
        let file = origin.directory().join("given.rdb");
        fs::write(&file, &dump).expect("can be written");
        for (append, had) in [("no", true), ("no", false), ("yes", true), ("yes", false)] {
            let primary = Primary::of(File(file.clone()));
            let more = ["--appendonly", append];
            let mut store = Store::start(&server, &more);
            if had {
                let _: String = store.ask(&[b"SET", b"old", b"data"]);
            }
            store.replica_of(primary.port);
            store.until("synchronised", Store::is_synchronised);
            assert_eq!(store.info("slave_repl_offset"), "0");
            store.until("its log is written anew", |store| {
                store.info("aof_rewrite_in_progress") == "0"
                    && store.info("aof_rewrite_scheduled") == "0"
            });
            let _: String = store.ask(&[b"REPLICAOF", b"NO", b"ONE"]);
            assert_eq!(store.info("master_replid2"), HISTORY);
            assert!(store.contents() == expected, "{server:?} {append} {had}");
            let _: String = store.ask(&[b"SET", b"later", b"write"]);
            drop(primary);
            if append == "yes" {
                // It is in its files as well, the write after it too.
                store.until("it is synced", |store| {
                    store.info("aof_pending_bio_fsync") == "0"
                });
                store.restart(&server, &more);
                let _: i64 = store.ask(&[b"DEL", b"later"]);
                assert!(store.contents() == expected, "{server:?} after a restart");
            }
        }
    }
}

#[test]
fn a_copy_that_is_cut_off_is_never_called_whole_and_comes_again() {
    for server in fixture::stores() {
        let origin = Store::start(&server, &[]);
        origin.fill();
        let expected = origin.contents();
        let bytes = Arc::new(origin.dump());
        for had in [true, false] {
            let cuts = std::sync::atomic::AtomicUsize::new(2);
            let primary = Primary::of(Cut {
                bytes: Arc::clone(&bytes),
                cuts,
            });
            let store = Store::start(&server, &[]);
            if had {
                let _: String = store.ask(&[b"SET", b"old", b"data"]);
            }
            store.replica_of(primary.port);
            // Whenever it calls itself synchronised, it has all of it.
            store.until("synchronised", Store::is_synchronised);
            assert!(store.contents() == expected, "{server:?} {had}");
        }
        let primary = Primary::of(Cut {
            bytes,
            cuts: usize::MAX.into(),
        });
        let store = Store::start(&server, &[]);
        let _: String = store.ask(&[b"SET", b"old", b"data"]);
        store.replica_of(primary.port);
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            assert!(!store.is_synchronised(), "{server:?}");
            let had: Option<String> = store.ask(&[b"GET", b"old"]);
            assert_eq!(had.as_deref(), Some("data"), "{server:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

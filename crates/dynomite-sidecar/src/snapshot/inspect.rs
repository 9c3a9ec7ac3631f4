//! What a file is that no manifest speaks of, by its head: whether it is whole is found when it is staged.

use dynomite_api::contract::BucketAnswer;
use dynomite_bucket::Bucket;
use dynomite_snapshot::rdb::{Event, Reader, Record};
use jiff::Timestamp;

use super::broken::Broken;

/// Bytes that are looked through for what a store says of its file; it says so
/// before its first key.
const HEAD: u64 = 1 << 20;

/// What a store says of its file.
#[derive(Default)]
struct Head {
    saved_at: Option<Timestamp>,
    memory_bytes: Option<u64>,
    /// Whether the keys have begun.
    over: bool,
}

pub(super) async fn inspect(bucket: &Bucket, key: &str) -> Result<BucketAnswer, Broken> {
    let mut download = match bucket.download(key).await {
        Err(error) if error.reason == dynomite_bucket::Reason::NoSuchObject => {
            return Ok(BucketAnswer::Missing);
        }
        download => download?,
    };
    let (mut reader, mut head) = (Reader::new(), Head::default());
    while !head.over && reader.offset() < HEAD {
        let Some(piece) = download.next().await? else {
            break;
        };
        if reader.offset() == 0 && piece.starts_with(b"*") {
            let message = format!(
                "{key} is an append-only file, and not an RDB: have a redis-server load it, let it \
                 save (redis-cli SAVE), and restore its dump.rdb by from.file"
            );
            return Err(Broken::lasting("AppendOnlyFile", message));
        }
        head.read(&mut reader, &piece).map_err(|error| {
            let message = format!("{key} is no RDB file that can be read here: {error}");
            Broken::lasting("NotRdb", message)
        })?;
    }
    let Some(version) = reader.version() else {
        let message = format!(
            "{key} is no RDB file: it ends after {} bytes",
            reader.offset()
        );
        return Err(Broken::lasting("NotRdb", message));
    };
    Ok(BucketAnswer::Inspected {
        bytes: download.length(),
        rdb: version.to_string(),
        saved_at: head.saved_at,
        memory_bytes: head.memory_bytes,
    })
}

impl Head {
    fn read(
        &mut self,
        reader: &mut Reader,
        bytes: &[u8],
    ) -> Result<(), dynomite_snapshot::rdb::Error> {
        let mut rest = bytes;
        while let (taken, Some(event)) = reader.read(rest)? {
            rest = &rest[taken..];
            match event {
                Event::Aux { name, value } => self.note(name, value),
                Event::Header(_) | Event::Began(Record::Aux) | Event::Ended(_) => {}
                _ => {
                    self.over = true;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, name: &[u8], value: &[u8]) {
        let number = || std::str::from_utf8(value).ok()?.parse::<u64>().ok();
        match name {
            b"used-mem" => self.memory_bytes = number(),
            b"ctime" => {
                let second = number().and_then(|second| i64::try_from(second).ok());
                self.saved_at = second.and_then(|second| Timestamp::from_second(second).ok());
            }
            _ => {}
        }
    }
}

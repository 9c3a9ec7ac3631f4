//! Files that no manifest speaks of: which are meant, what they are, and what each token loads of them.
//!
//! ```text
//!  from.file, from.files ──────────────┐            head of each                  keys by token
//!  from.manager ──listing, one state───┴─▶ keys ──────────────────▶ status.files ─────────────▶ loads
//! ```
//!
//! Whether a file is whole, and every checksum in it right, is found when nodes
//! stage it: before anything is touched, and by those that need it anyway.

use dynomite_api::Token;
use dynomite_api::contract::{BackupPlace, BucketAction, BucketAnswer, RestorePart};
use dynomite_api::crd::{DynomiteRestore, ManagerBackup, RestoreFileStatus, RestoreFrom};
use dynomite_protocol::token::Token as FitToken;
use dynomite_snapshot::fit::{File, Part, fits_files};
use dynomite_snapshot::manager::{Wanted, choose};
use dynomite_snapshot::rdb::Version;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::View;
use super::source::{
    NoSource, Source, answer, does_not_fit, list_all, range, refused, token_load, wish,
};
use crate::steps::Step;

/// Which files a restore means.
pub(super) enum Meant<'a> {
    /// Of any Redis or Valkey, by their keys.
    Plain(Vec<&'a str>),
    /// Of Dynomite-manager.
    Manager(&'a ManagerBackup),
}

impl<'a> Meant<'a> {
    /// `None` where a backup with a manifest is meant.
    pub(super) fn of(from: &'a RestoreFrom) -> Option<Self> {
        if let Some(manager) = &from.manager {
            return Some(Self::Manager(manager));
        }
        let several = from.files.iter().flatten();
        let keys: Vec<&str> = from
            .file
            .iter()
            .chain(several)
            .map(String::as_str)
            .collect();
        (!keys.is_empty()).then_some(Self::Plain(keys))
    }
}

/// What the files bring to each token.
pub(super) fn source(
    view: &View<'_>,
    restore: &DynomiteRestore,
    place: BackupPlace,
    meant: &Meant<'_>,
    step: &mut Step,
) -> Result<Source, NoSource> {
    let chosen = restore.status.as_ref().map(|status| &status.files);
    // What was chosen once stays chosen, whatever newer ones come.
    let files = if let Some(files) = chosen.filter(|files| !files.is_empty()) {
        files.clone()
    } else {
        let keys = keys(view, restore, &place, meant, step)?;
        heads(view, restore, &place, keys, step)?
    };
    let given: Result<Vec<File>, NoSource> = files.iter().map(file).collect();
    let wish = wish(view, restore)?;
    let plan = fits_files(&given?, &wish).map_err(|misfits| does_not_fit(&misfits))?;
    let tokens: Vec<FitToken> = files
        .iter()
        .filter_map(|file| Some(FitToken(file.token?.0)))
        .collect();
    let part = |part: &Part| {
        let file = files.iter().find(|file| file.key == part.object);
        let token = file.and_then(|file| file.token);
        RestorePart {
            key: part.object.clone(),
            entry: None,
            context: String::new(),
            owned: token.map(|token| range(FitToken(token.0), &tokens)),
        }
    };
    let loads = plan.nodes.iter().map(|load| {
        let mut loads = token_load(load, &wish, part);
        // Also where the tokens are the same: nobody but the keys says how the old
        // ring has placed them.
        loads.keep = Some(range(load.token, &wish.tokens));
        loads
    });
    let saved = files
        .iter()
        .map(|file| file.saved_at.as_ref().map(|at| at.0));
    let saved: Option<Vec<Timestamp>> = saved.collect();
    Ok(Source {
        place,
        id: name(meant, &files),
        directory: String::new(),
        as_of: saved.and_then(|times| times.into_iter().max()),
        loads: loads.collect(),
        files: files.clone(),
        unreachable: plan.unreachable,
    })
}

/// What people call it.
fn name(meant: &Meant<'_>, files: &[RestoreFileStatus]) -> String {
    let first = files.first().map_or("", |file| &file.key);
    match (meant, files.len()) {
        (_, 1) => first.to_owned(),
        (Meant::Plain(_), many) => format!("{first} and {} more", many - 1),
        (Meant::Manager(manager), many) => format!("{many} files of {}", manager.base),
    }
}

/// The keys that are meant, with the token that each file is of.
fn keys(
    view: &View<'_>,
    restore: &DynomiteRestore,
    place: &BackupPlace,
    meant: &Meant<'_>,
    step: &mut Step,
) -> Result<Vec<(String, Option<Token>)>, NoSource> {
    let manager = match meant {
        Meant::Plain(keys) => {
            return Ok(keys.iter().map(|key| ((*key).to_owned(), None)).collect());
        }
        Meant::Manager(manager) => manager,
    };
    let base = manager.base.trim_matches('/');
    let datacenter = manager.datacenter.as_ref();
    let wanted = Wanted {
        datacenter: datacenter.unwrap_or(&view.cluster.spec.datacenter).clone(),
        rack: manager.rack.clone(),
        day: manager.date.as_deref().map(day).transpose()?,
        tokens: manager
            .tokens
            .iter()
            .map(|token| FitToken(token.0))
            .collect(),
    };
    let rack = manager.rack.as_ref();
    let rack = rack.map_or_else(String::new, |rack| format!("{rack}/"));
    let under = format!("{base}/{}/{rack}", wanted.datacenter);
    let objects = list_all(view, restore, place, &under, step)?;
    let listed = objects.iter().map(|object| object.key.as_str());
    let chosen = choose(base, listed, &wanted)
        .map_err(|why| NoSource::Never("NoSuchBackup", why.to_string()))?;
    let of =
        |chosen: dynomite_snapshot::manager::Chosen| (chosen.key, Some(Token(chosen.file.token.0)));
    Ok(chosen.into_iter().map(of).collect())
}

fn day(text: &str) -> Result<jiff::civil::Date, NoSource> {
    text.parse().map_err(|_| {
        let why = format!("from.manager.date is {text:?}: name a day, as in 2026-11-20");
        NoSource::Never("Invalid", why)
    })
}

/// What each file is, by its head. All are asked for at once.
fn heads(
    view: &View<'_>,
    restore: &DynomiteRestore,
    place: &BackupPlace,
    keys: Vec<(String, Option<Token>)>,
    step: &mut Step,
) -> Result<Vec<RestoreFileStatus>, NoSource> {
    let (mut files, mut pending) = (Vec::new(), None);
    for (key, token) in keys {
        let ask = BucketAction::Inspect { key: key.clone() };
        match answer(view, restore, place, ask, step) {
            Ok(BucketAnswer::Inspected {
                bytes,
                rdb,
                saved_at,
                memory_bytes,
            }) => files.push(RestoreFileStatus {
                key,
                token,
                bytes: *bytes,
                rdb: rdb.clone(),
                saved_at: saved_at.map(Time),
                memory_bytes: *memory_bytes,
            }),
            Ok(BucketAnswer::Missing) => {
                let why = format!(
                    "store {} has no object {key}: name the whole key in spec.from, without \
                     the bucket; the store's prefix does not go before it",
                    place.store
                );
                return Err(NoSource::Never("NoSuchObject", why));
            }
            Ok(BucketAnswer::Failed { message, .. }) => {
                return Err(NoSource::Never("FileUnreadable", message.clone()));
            }
            Ok(other) => return Err(refused(other)),
            Err(NoSource::Pending(why)) => {
                let first: &mut String = pending.get_or_insert_default();
                if first.is_empty() {
                    *first = why;
                }
            }
            Err(never) => return Err(never),
        }
    }
    pending.map_or(Ok(files), |why| Err(NoSource::Pending(why)))
}

fn file(status: &RestoreFileStatus) -> Result<File, NoSource> {
    let rdb = Version::parse(status.rdb.as_bytes());
    let rdb = rdb.ok_or_else(|| {
        let why = format!(
            "{} is written in {}, which is not known here",
            status.key, status.rdb
        );
        NoSource::Never("FileUnreadable", why)
    })?;
    Ok(File {
        object: status.key.clone(),
        token: status.token.map(|token| FitToken(token.0)),
        bytes: status.bytes,
        rdb,
        memory_bytes: status.memory_bytes,
        // Nobody has read the file yet; those that stage it say.
        unreachable: 0,
    })
}

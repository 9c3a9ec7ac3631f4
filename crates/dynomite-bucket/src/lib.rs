//! A place in object storage: uploads in parts, downloads that resume, small objects, typed errors.
//!
//! ```text
//! BackupPlace + StoreCredentials ──open──▶ Bucket ──┬─▶ put, get, head, list, delete
//!                                                   ├─▶ Upload    parts, bounded memory, all or nothing
//!                                                   └─▶ Download  ranges, goes on after a cut
//! ```

mod download;
mod error;
mod leftover;
mod open;
mod pace;
mod small;
mod upload;

pub use download::Download;
pub use error::{Error, Reason};
pub use open::{Bucket, ENTRY_CA, Identity, Patience, entry_names};
pub use pace::Pace;
pub use upload::Upload;

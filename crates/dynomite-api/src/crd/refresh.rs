//! The refresh of a test ring: the latest backup of another ring, restored on a schedule.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backup_spec::default_time_zone;
use super::restore::SourceCluster;

/// The latest backup of another ring, put in place of this ring's data again and
/// again. What was written to this ring is lost each time: it is for rings that
/// are tested with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefreshSpec {
    /// The ring whose backups are restored. It must be another one than this.
    pub source_cluster: SourceCluster,
    /// Where they lie, a name in this cluster's spec.backup.stores. Absent: the
    /// first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub store: Option<String>,
    /// When, in the five fields of cron: minute, hour, day of the month, month,
    /// day of the week. As in 0 5 * * 1, every Monday at five.
    #[schemars(length(min = 9, max = 120), regex(pattern = r"^\s*(\S+\s+){4}\S+\s*$"))]
    pub cron: String,
    /// The time zone of the fields, as in Europe/Berlin.
    #[serde(default = "default_time_zone")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9_+/-]+$"))]
    pub time_zone: String,
    /// How late a refresh may begin that was missed, because the operator was
    /// away, another restore under way or the refresh suspended, seconds. However
    /// many were missed, one is done. Absent: however late it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 31_536_000))]
    pub starting_deadline_seconds: Option<i64>,
    /// true begins no refresh any more.
    #[serde(default)]
    pub suspend: bool,
    /// How many DynomiteRestores that have ended are kept of it.
    #[serde(default = "default_keep")]
    #[schemars(range(min = 1, max = 100))]
    pub keep: u32,
}

fn default_keep() -> u32 {
    3
}

/// The refresh of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefreshStatus {
    /// Its last time that was heeded; at first, when the operator first saw it.
    pub last: Time,
    /// Its next time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Time>,
    /// The DynomiteRestore of the refresh that was completed last.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_completed: String,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_completed_at: Option<Time>,
    /// What is wrong with it; empty when nothing is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

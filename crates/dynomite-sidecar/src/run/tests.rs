//! What the tests of the driver share.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use crate::shared::{Ports, Site};

/// A node whose files all lie in `directory`.
pub(super) fn site_in(directory: &Path) -> Site {
    let site = Site {
        run_dir: directory.join("run"),
        data_dir: directory.join("data"),
        tls_dir: directory.join("tls"),
        listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
        local: IpAddr::V4(Ipv4Addr::LOCALHOST),
        ports: Ports::default(),
        node: "node".to_owned(),
        pod_uid: "pod".to_owned(),
    };
    super::disk::prepare(&site).expect("directories can be made");
    site
}

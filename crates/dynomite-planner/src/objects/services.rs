//! The Services: all ready nodes, the ready nodes of each rack, and every node for its peers.

use dynomite_api::contract::{PORT_CLIENT, PORT_PEER, PORT_PLAIN, PORT_SECURE};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{owned, seal, selector};
use crate::cluster::Cluster;

/// All Services of a cluster.
pub(crate) fn services(cluster: &Cluster) -> Vec<Service> {
    let mut list = vec![everyone(cluster), peers(cluster)];
    list.extend(
        cluster
            .racks
            .iter()
            .map(|rack| of_rack(cluster, &rack.name)),
    );
    list
}

/// `<cluster>`: clients that do not care, or let Kubernetes prefer their zone.
fn everyone(cluster: &Cluster) -> Service {
    let spec = ServiceSpec {
        selector: Some(selector(cluster, None)),
        ports: Some(client_ports()),
        traffic_distribution: Some("PreferClose".to_owned()),
        ..ServiceSpec::default()
    };
    service(cluster, cluster.id.name.clone(), None, spec)
}

/// `<cluster>-<rack>`: clients that stay in one rack.
fn of_rack(cluster: &Cluster, rack: &str) -> Service {
    let spec = ServiceSpec {
        selector: Some(selector(cluster, Some(rack))),
        ports: Some(client_ports()),
        ..ServiceSpec::default()
    };
    service(cluster, cluster.rack_name(rack), Some(rack), spec)
}

/// `<cluster>-nodes`: the host names under which nodes find each other, before
/// they are ready too.
fn peers(cluster: &Cluster) -> Service {
    let spec = ServiceSpec {
        cluster_ip: Some("None".to_owned()),
        publish_not_ready_addresses: Some(true),
        selector: Some(selector(cluster, None)),
        ports: Some(vec![port("peer", PORT_PEER), port("sidecar", PORT_SECURE)]),
        ..ServiceSpec::default()
    };
    service(cluster, cluster.nodes_service(), None, spec)
}

fn service(cluster: &Cluster, name: String, rack: Option<&str>, spec: ServiceSpec) -> Service {
    let service = Service {
        metadata: owned(cluster, name, rack),
        spec: Some(spec),
        ..Service::default()
    };
    seal(service, |o| &mut o.metadata)
}

/// What clients use: Redis' protocol, and the describing REST paths that
/// Netflix's Dyno client reads.
fn client_ports() -> Vec<ServicePort> {
    vec![port("redis", PORT_CLIENT), port("rest", PORT_PLAIN)]
}

/// A port that leads to the container port of the same name.
fn port(name: &str, number: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    }
}

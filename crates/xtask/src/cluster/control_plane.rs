//! The control plane: certificates, etcd, API server, controllers, scheduler, volumes.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;

use super::layout::{
    API_PORT, API_SERVICE, CONTROL_PLANE, DNS_SERVICE, Layout, NODES, PODS, SERVICES,
};
use super::pki::{Authority, Subject};
use super::programs::Programs;
use super::supervisor::Component;

const AUDIT_POLICY: &str = include_str!("../../../../tests/cluster/config/audit-policy.yaml");

/// The name of the API server's component.
pub(super) const API_SERVER: &str = "kube-apiserver";

/// Writes every certificate and kubeconfig; people's goes through `port` of the host's loopback.
pub(super) fn write_credentials(layout: &Layout, port: u16) -> Result<()> {
    let authority = Authority::create(&layout.pki())?;
    authority.signing_key("tokens")?;
    authority.issue(
        API_SERVER,
        &Subject {
            common_name: API_SERVER,
            names: &[
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
                "localhost",
            ],
            addresses: &[
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V4(CONTROL_PLANE),
                IpAddr::V4(API_SERVICE),
            ],
            ..Subject::default()
        },
    )?;
    issue_clients(&authority, layout)?;
    let context = format!("embedded-{}", layout.name());
    let outside = format!("https://127.0.0.1:{port}");
    authority.kubeconfig("admin", &context, &outside, &layout.kubeconfig())?;
    fs::write(
        layout.resolv_conf(),
        format!(
            "nameserver {DNS_SERVICE}\n\
             search default.svc.cluster.local svc.cluster.local cluster.local\n\
             options ndots:5\n"
        ),
    )?;
    Ok(())
}

/// Certificates and kubeconfigs of all that asks the API server from inside.
fn issue_clients(authority: &Authority, layout: &Layout) -> Result<()> {
    let pki = layout.pki();
    let inside = format!("https://{CONTROL_PLANE}:{API_PORT}");
    let clients = [
        ("admin", "admin", Some("system:masters")),
        (
            "kube-controller-manager",
            "system:kube-controller-manager",
            None,
        ),
        ("kube-scheduler", "system:kube-scheduler", None),
        ("kube-proxy", "system:kube-proxy", None),
        // It writes volumes and the status of claims, as only an administrator may.
        (
            "local-volumes",
            "dynomite:local-volumes",
            Some("system:masters"),
        ),
    ];
    for (name, common_name, organization) in clients {
        authority.issue(
            name,
            &Subject {
                common_name,
                organization,
                ..Subject::default()
            },
        )?;
        let to = pki.join(format!("{name}.kubeconfig"));
        authority.kubeconfig(name, "inside", &inside, &to)?;
    }
    for node in NODES {
        let name = format!("{}-kubelet", node.name);
        authority.issue(
            &name,
            &Subject {
                common_name: &format!("system:node:{}", node.name),
                organization: Some("system:nodes"),
                names: &[node.name],
                addresses: &[IpAddr::V4(node.address())],
            },
        )?;
        let to = pki.join(format!("{name}.kubeconfig"));
        authority.kubeconfig(&name, "inside", &inside, &to)?;
    }
    Ok(())
}

/// What must run before anything else can ask the API server.
pub(super) fn api(layout: &Layout, programs: &Programs) -> Result<[Component; 2]> {
    let policy = layout.pki().join("audit-policy.yaml");
    fs::write(&policy, AUDIT_POLICY)?;
    let pki = layout.pki().display().to_string();
    let state = layout.state().display().to_string();
    let etcd = Component {
        name: "etcd".to_owned(),
        program: programs.etcd.clone(),
        arguments: arguments(&[
            ("data-dir", &format!("{state}/etcd")),
            // What a crash of the machine would lose is thrown away with the cluster anyway.
            ("unsafe-no-fsync", "true"),
            ("listen-client-urls", "http://127.0.0.1:2379"),
            ("advertise-client-urls", "http://127.0.0.1:2379"),
            ("listen-peer-urls", "http://127.0.0.1:2380"),
            ("log-level", "warn"),
        ]),
        network: None,
        own_directory: None,
        group: group(layout),
    };
    let server = Component {
        name: API_SERVER.to_owned(),
        program: programs.kubernetes(API_SERVER),
        arguments: arguments(&[
            ("etcd-servers", "http://127.0.0.1:2379"),
            ("advertise-address", &CONTROL_PLANE.to_string()),
            ("secure-port", &API_PORT.to_string()),
            ("tls-cert-file", &format!("{pki}/{API_SERVER}.crt")),
            ("tls-private-key-file", &format!("{pki}/{API_SERVER}.key")),
            ("client-ca-file", &format!("{pki}/ca.crt")),
            ("service-account-key-file", &format!("{pki}/tokens.pub")),
            (
                "service-account-signing-key-file",
                &format!("{pki}/tokens.key"),
            ),
            (
                "service-account-issuer",
                "https://kubernetes.default.svc.cluster.local",
            ),
            ("service-cluster-ip-range", SERVICES),
            ("authorization-mode", "Node,RBAC"),
            ("enable-admission-plugins", "NodeRestriction"),
            ("kubelet-client-certificate", &format!("{pki}/admin.crt")),
            ("kubelet-client-key", &format!("{pki}/admin.key")),
            ("kubelet-certificate-authority", &format!("{pki}/ca.crt")),
            // A node's name resolves nowhere; without this logs and exec fail.
            ("kubelet-preferred-address-types", "InternalIP"),
            ("allow-privileged", "true"),
            ("profiling", "false"),
            ("audit-policy-file", &policy.display().to_string()),
            ("audit-log-path", &layout.audit().display().to_string()),
            ("audit-log-maxsize", "200"),
            ("audit-log-maxbackup", "1"),
        ]),
        network: None,
        own_directory: None,
        group: group(layout),
    };
    Ok([etcd, server])
}

/// What acts on the API server's objects.
pub(super) fn controllers(layout: &Layout, programs: &Programs) -> Vec<Component> {
    let pki = layout.pki().display().to_string();
    let component = |name: &str, more: &[(&str, &str)]| {
        let kubeconfig = format!("{pki}/{name}.kubeconfig");
        let mut all = vec![("kubeconfig", kubeconfig.as_str())];
        all.extend(more);
        Component {
            name: name.to_owned(),
            program: programs.kubernetes(name),
            arguments: arguments(&all),
            network: None,
            own_directory: None,
            group: group(layout),
        }
    };
    vec![
        component(
            "kube-controller-manager",
            &[
                ("cluster-cidr", PODS),
                ("allocate-node-cidrs", "false"),
                ("root-ca-file", &format!("{pki}/ca.crt")),
                (
                    "service-account-private-key-file",
                    &format!("{pki}/tokens.key"),
                ),
                ("use-service-account-credentials", "true"),
                ("service-cluster-ip-range", SERVICES),
                ("leader-elect", "false"),
                // Together with the kubelet's short lease: a dead node is noticed in 16 s, not 50.
                ("node-monitor-grace-period", "16s"),
                ("node-monitor-period", "2s"),
                ("kube-api-qps", "200"),
                ("kube-api-burst", "400"),
                ("profiling", "false"),
            ],
        ),
        component(
            "kube-scheduler",
            &[("leader-elect", "false"), ("profiling", "false")],
        ),
        component(
            "local-volumes",
            &[("nodes", &layout.nodes().display().to_string())],
        ),
    ]
}

/// The control group of the control plane, of which the nodes' are no part.
pub(super) fn group(layout: &Layout) -> String {
    format!("{}/control-plane", layout.cgroup())
}

/// `--name=value` for each.
pub(super) fn arguments(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs
        .iter()
        .map(|(name, value)| format!("--{name}={value}"))
        .collect()
}

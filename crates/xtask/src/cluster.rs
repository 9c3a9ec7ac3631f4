//! A Kubernetes to run on: an existing one that the user names, kind, or the embedded one.

mod cgroups;
mod control;
mod control_plane;
mod existing;
mod holder;
mod images;
mod inner;
mod kind;
mod layout;
mod node;
mod packages;
mod pki;
mod programs;
mod supervisor;

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};

use crate::stage::Stages;
use control::Request;
pub(crate) use control::{ComponentAction, NodeAction};
use layout::{Layout, NODES, Node};

/// Which cluster is meant.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Uses an existing cluster: this context of the kubeconfig.
    #[arg(long, global = true)]
    pub(crate) context: Option<String>,
    /// Uses an existing cluster: this kubeconfig. Without it, --context looks where kubectl does.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Makes a cluster of this kind; without it kind where Docker and kind are, else the embedded one.
    #[arg(long, global = true, value_enum)]
    pub(crate) provider: Option<Provider>,
    /// The name of the cluster to make.
    #[arg(
        long,
        global = true,
        env = "DYNOMITE_CLUSTER",
        default_value = "dynomite"
    )]
    pub(crate) name: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            context: None,
            kubeconfig: None,
            provider: None,
            name: std::env::var("DYNOMITE_CLUSTER").unwrap_or_else(|_| "dynomite".to_owned()),
        }
    }
}

/// Who makes the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Provider {
    /// A real Kubernetes in namespaces of this machine, held by one process.
    Embedded,
    /// Kubernetes in Docker.
    Kind,
}

/// What `cargo xtask cluster` takes.
#[derive(Args)]
pub(crate) struct Command {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    action: Action,
}

/// What can be done with the cluster.
#[derive(Subcommand)]
enum Action {
    /// Brings it up; does nothing when it is up.
    Up,
    /// Ends it and removes every trace of it.
    Down,
    /// Tells what runs, and where logs and kubeconfig are.
    Status,
    /// Gives all nodes the images of archives.
    Load {
        /// Archives as `docker save` or `cargo xtask images` write them.
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Prints the path of a kubeconfig: `export KUBECONFIG=$(cargo xtask cluster kubeconfig)`.
    Kubeconfig {
        /// Prints its content instead.
        #[arg(long)]
        content: bool,
    },
    /// Runs kubectl against it.
    Kubectl {
        /// Everything after `--` is kubectl's.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs helm against it.
    Helm {
        /// Everything after `--` is helm's.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs a program of this machine in the embedded cluster's network, with its name server:
    /// Services and pods can be reached by address and by name.
    Exec {
        /// In this node's network rather than the control plane's.
        #[arg(long)]
        node: Option<String>,
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Does harm to a node of the embedded cluster, or heals it.
    Node {
        /// `node1` is in zone-a, `node2` in zone-b, `node3` in zone-c.
        node: String,
        /// What to do.
        #[arg(value_enum)]
        action: NodeAction,
    },
    /// Stops or starts one component of the embedded cluster; `cluster status` lists them.
    Component {
        /// For example `kube-scheduler` or `node1-kubelet`.
        component: String,
        /// What to do.
        #[arg(value_enum)]
        action: ComponentAction,
    },
    /// Stops or starts the API server of the embedded cluster.
    Apiserver {
        /// What to do.
        #[arg(value_enum)]
        action: ComponentAction,
    },
    /// What the holder of the embedded cluster runs.
    #[command(hide = true)]
    Inner,
}

/// A cluster that is up.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    /// How to reach it: this one file is enough.
    pub(crate) kubeconfig: PathBuf,
    /// A kubectl that fits it.
    pub(crate) kubectl: PathBuf,
    /// Where it came from.
    pub(crate) origin: Origin,
}

/// Where a cluster came from, and so what can be done with it.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// The embedded one, by its name.
    Embedded(String),
    /// Made by kind, by its name.
    Kind(String),
    /// Named by the user; we neither make nor end it.
    Named,
}

/// Runs one cluster command.
pub(crate) fn run(command: Command) -> Result<()> {
    let Command { options, action } = command;
    match action {
        Action::Up => {
            let mut stages = Stages::new();
            let cluster = ensure_up(&options, &mut stages)?;
            stages.summary();
            println!("export KUBECONFIG={}", cluster.kubeconfig.display());
            println!("{} get nodes", cluster.kubectl.display());
            Ok(())
        }
        Action::Down => down(&options),
        Action::Status => status(&options),
        Action::Load { archives } => {
            let mut stages = Stages::new();
            load(&find(&options)?, &archives, &mut stages)
        }
        Action::Kubeconfig { content } => {
            let path = find(&options)?.kubeconfig;
            if content {
                print!("{}", std::fs::read_to_string(path)?);
            } else {
                println!("{}", path.display());
            }
            Ok(())
        }
        Action::Kubectl { arguments } => pass_on(find(&options)?.kubectl().args(arguments)),
        Action::Helm { arguments } => {
            let helm = helm(&mut Stages::new())?;
            let kubeconfig = find(&options)?.kubeconfig;
            pass_on(
                Process::new(helm)
                    .args(arguments)
                    .env("KUBECONFIG", kubeconfig),
            )
        }
        Action::Exec { node, command } => {
            let cluster = find(&options)?;
            let (program, arguments) = command.split_first().context("a program")?;
            let mut process = match node {
                Some(node) => cluster.in_node(&node, program)?,
                None => cluster.command(program)?,
            };
            pass_on(process.args(arguments))
        }
        Action::Node { node, action } => find(&options)?.node(&node, action),
        Action::Component { component, action } => find(&options)?.component(&component, action),
        Action::Apiserver { action } => {
            find(&options)?.component(control_plane::API_SERVER, action)
        }
        Action::Inner => inner::run(&Layout::new(&options.name)?),
    }
}

/// Brings the cluster up that the options mean, or finds it up.
pub(crate) fn ensure_up(options: &Options, stages: &mut Stages) -> Result<Cluster> {
    if options.context.is_some() || options.kubeconfig.is_some() {
        return find(options);
    }
    let name = &options.name;
    let did = match provider(options) {
        Provider::Kind => kind::up(name, stages)?,
        Provider::Embedded => holder::up(&Layout::new(name)?, stages)?,
    };
    if !did {
        println!("  = the cluster {name} is already up");
    }
    find(options)
}

/// Finds the cluster that the options mean; an error when it is not up.
pub(crate) fn find(options: &Options) -> Result<Cluster> {
    let mut stages = Stages::new();
    if options.context.is_some() || options.kubeconfig.is_some() {
        ensure!(
            options.provider.is_none(),
            "--provider makes a cluster, --context and --kubeconfig name an existing one: choose"
        );
        return existing::find(options, &mut stages);
    }
    let name = &options.name;
    match provider(options) {
        Provider::Kind => {
            ensure!(
                kind::exists(name)?,
                "kind has no cluster {name}: run `cargo xtask cluster up`"
            );
            Ok(Cluster {
                kubeconfig: kind::kubeconfig(name)?,
                kubectl: existing::kubectl(&mut stages)?,
                origin: Origin::Kind(name.clone()),
            })
        }
        Provider::Embedded => {
            let layout = Layout::new(name)?;
            ensure!(
                holder::is_up(&layout),
                "the cluster {name} is not up: run `cargo xtask cluster up`"
            );
            Ok(Cluster {
                kubeconfig: layout.kubeconfig(),
                kubectl: programs::kubectl(&mut stages)?,
                origin: Origin::Embedded(name.clone()),
            })
        }
    }
}

/// Gives every node of the cluster the images of the archives.
pub(crate) fn load(cluster: &Cluster, archives: &[PathBuf], stages: &mut Stages) -> Result<()> {
    for archive in archives {
        let archive = archive
            .canonicalize()
            .with_context(|| format!("no archive {}", archive.display()))?;
        let name = archive.file_name().unwrap_or_default().to_string_lossy();
        stages.run(&format!("loading {name}"), |_| match &cluster.origin {
            Origin::Embedded(name) => {
                let layout = Layout::new(name)?;
                std::thread::scope(|scope| {
                    NODES
                        .map(|node| {
                            let (socket, archive) = (layout.containerd(node), &archive);
                            scope.spawn(move || node::import(&socket, archive))
                        })
                        .into_iter()
                        .try_for_each(|load| {
                            load.join()
                                .map_err(|_| anyhow::anyhow!("loading panicked"))?
                        })
                })
            }
            Origin::Kind(name) => kind::load(name, &archive),
            Origin::Named => bail!(
                "images cannot be loaded into a cluster that we did not make: push them to a \
                 registry it can pull from"
            ),
        })?;
    }
    Ok(())
}

/// Prometheus' linter of metrics, built on first use.
pub(crate) fn promlint(stages: &mut Stages) -> Result<PathBuf> {
    programs::promlint(stages)
}

/// A real helm, built on first use.
pub(crate) fn helm(stages: &mut Stages) -> Result<PathBuf> {
    programs::helm(stages)
}

impl Cluster {
    /// kubectl, told to use this cluster.
    pub(crate) fn kubectl(&self) -> Process {
        let mut command = Process::new(&self.kubectl);
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// A program of the host in the cluster's network: it reaches Services and pods, and the API
    /// server with the same kubeconfig; names are resolved by the cluster's name server.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Result<Process> {
        let inside = holder::inside(&self.layout()?)?;
        self.enter(&format!("/proc/{inside}/ns/net"), program)
    }

    /// A program of the host in the network of one node.
    pub(crate) fn in_node(&self, node: &str, program: impl AsRef<OsStr>) -> Result<Process> {
        let inside = holder::inside(&self.layout()?)?;
        let namespace = Node::named(node)?.namespace();
        self.enter(
            &format!("/proc/{inside}/root{}", namespace.display()),
            program,
        )
    }

    /// Does something to a node.
    pub(crate) fn node(&self, node: &str, action: NodeAction) -> Result<()> {
        control::ask(&self.layout()?, &Request::Node(node.to_owned(), action)).map(drop)
    }

    /// Does something to a component.
    pub(crate) fn component(&self, component: &str, action: ComponentAction) -> Result<()> {
        let request = Request::Component(component.to_owned(), action);
        control::ask(&self.layout()?, &request).map(drop)
    }

    fn layout(&self) -> Result<Layout> {
        match &self.origin {
            Origin::Embedded(name) => Layout::new(name),
            Origin::Kind(_) | Origin::Named => bail!("only the embedded cluster can do this"),
        }
    }

    /// Only the network is the cluster's; of the files only `resolv.conf`, and only for the program.
    fn enter(&self, namespace: &str, program: impl AsRef<OsStr>) -> Result<Process> {
        let mut command = Process::new("nsenter");
        command
            .arg(format!("--net={namespace}"))
            .args(["unshare", "--mount", "sh", "-c"])
            .arg("mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"")
            .arg(self.layout()?.resolv_conf())
            .arg(program)
            .env("KUBECONFIG", &self.kubeconfig);
        Ok(command)
    }
}

fn provider(options: &Options) -> Provider {
    options.provider.unwrap_or_else(|| {
        if kind::usable() {
            Provider::Kind
        } else {
            Provider::Embedded
        }
    })
}

fn down(options: &Options) -> Result<()> {
    ensure!(
        options.context.is_none() && options.kubeconfig.is_none(),
        "an existing cluster is not ours to end"
    );
    let name = &options.name;
    let found = match provider(options) {
        Provider::Kind => kind::down(name)?,
        Provider::Embedded => holder::down(&Layout::new(name)?)?,
    };
    if found {
        println!("the cluster {name} is gone");
    } else {
        println!("there is no cluster {name}");
    }
    Ok(())
}

fn status(options: &Options) -> Result<()> {
    let named = options.context.is_some() || options.kubeconfig.is_some();
    if !named && provider(options) == Provider::Embedded {
        let layout = Layout::new(&options.name)?;
        if holder::is_half_up(&layout) {
            println!(
                "{}: starting, or left half-way; logs in {}",
                layout.name(),
                layout.logs().display()
            );
            return Ok(());
        }
        if !holder::is_up(&layout) {
            println!("{}: down", layout.name());
            return Ok(());
        }
        let text = format!(
            "{}: up\n{}kubeconfig\t{}\nlogs\t{}\naudit\t{}\n",
            layout.name(),
            control::ask(&layout, &Request::Status)?,
            layout.kubeconfig().display(),
            layout.logs().display(),
            layout.audit().display(),
        );
        // A reader who has seen enough, such as `head`, is no reason to fail.
        let _ = std::io::stdout().write_all(text.as_bytes());
    }
    let cluster = find(options)?;
    pass_on(cluster.kubectl().args([
        "get",
        "nodes",
        "--label-columns=topology.kubernetes.io/zone",
    ]))
}

/// Runs a program in the foreground; its failure is ours, and it has said why itself.
fn pass_on(command: &mut Process) -> Result<()> {
    let status = command
        .stdin(Stdio::inherit())
        .status()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    if !status.success() {
        std::process::exit(status.code().unwrap_or(1));
    }
    Ok(())
}

//! Wires everything together and runs it until it is told to stop.

use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderValue, header};
use dynomite_api::crd::{DynomiteBackup, DynomiteCluster, DynomiteRestore};
use dynomite_planner::Defaults;
use futures::future::{join_all, ready};
use futures::{FutureExt, Stream, StreamExt, stream};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use kube::{Client, Config};
use kube_runtime::controller::{
    Config as QueueConfig, Error as QueueError, ReconcileRequest, applier,
};
use kube_runtime::events::{Recorder, Reporter};
use kube_runtime::reflector::ObjectRef;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::beside;
use crate::context::Context;
use crate::http;
use crate::index::{ClusterKey, Scope};
use crate::leadership::Leadership;
use crate::lease::Election;
use crate::metrics::Metrics;
use crate::options::{PullPolicy, RunOptions};
use crate::reconcile::{error_policy, reconcile};
use crate::world::{Triggers, World};

/// The name of the Lease, and of the operator in Events.
const NAME: &str = "dynomite-operator";
/// How many clusters are reconciled at once.
const CLUSTERS_AT_ONCE: u16 = 64;
/// Changes that come together are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// How long the API server may take for an answer to anything but a watch.
const API_DEADLINE: Duration = Duration::from_secs(20);

/// Why the operator could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No way to the API server is configured.
    #[error("no way to a Kubernetes API server is configured: {0}")]
    Config(String),
    /// The client could not be made.
    #[error("cannot make the API client: {0}")]
    Client(#[from] kube::Error),
    /// The metrics address cannot be listened at.
    #[error("cannot listen at {0}: {1}")]
    Listen(std::net::SocketAddr, std::io::Error),
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(std::io::Error),
    /// The operator's own image is not known.
    #[error(
        "the operator does not know its own image, from which sidecars are made: \
         set --image or OPERATOR_IMAGE"
    )]
    NoImage,
}

/// Runs until SIGTERM or SIGINT: then what is under way is finished and the
/// lease is given back.
pub async fn run(options: RunOptions) -> Result<(), Error> {
    if options.image.is_empty() {
        return Err(Error::NoImage);
    }
    let stop = stop_on_signal()?;
    let client = client().await?;
    let metrics = Arc::new(Metrics::default());
    let scopes: Vec<Scope> = match options.namespaces.as_slice() {
        [] => vec![None],
        names => names.iter().cloned().map(Some).collect(),
    };
    let nodes = options.namespaces.is_empty() && options.watch_nodes;
    let world = Arc::new(World::new(nodes, Arc::clone(&metrics)));
    let watches = world.watches(&client, &scopes);

    let listener = http::listen(options.metrics_addr)
        .await
        .map_err(|error| Error::Listen(options.metrics_addr, error))?;
    let http_stop = CancellationToken::new();
    let serving = http::serve(
        listener,
        Arc::clone(&metrics),
        Arc::clone(&world),
        http_stop.clone(),
    );
    let serving = tokio::spawn(serving);
    let watching = tokio::spawn(join_all(watches));

    let identity = identity(&options);
    let leadership = if options.leader_elect {
        Leadership::absent()
    } else {
        Leadership::unlimited()
    };
    let election_stop = CancellationToken::new();
    let election = options.leader_elect.then(|| {
        let namespace = options
            .lease_namespace
            .clone()
            .unwrap_or_else(|| client.default_namespace().to_owned());
        let api: Api<Lease> = Api::namespaced(client.clone(), &namespace);
        let election = Election::new(api, NAME, identity.clone(), leadership.clone());
        tokio::spawn(election.run(election_stop.clone()))
    });

    let reporter = Reporter {
        controller: NAME.to_owned(),
        instance: Some(identity),
    };
    let ctx = Arc::new(Context::new(
        client.clone(),
        defaults(&options),
        leadership,
        world,
        metrics,
        Recorder::new(client, reporter),
    ));
    reconcile_all(ctx, stop).await;

    watching.abort();
    election_stop.cancel();
    if let Some(election) = election {
        // It logs its own failures.
        let _ = election.await;
    }
    http_stop.cancel();
    let _ = serving.await;
    tracing::info!("stopped");
    Ok(())
}

/// Reconciles whatever is woken, until `stop`; what has begun then is finished.
pub async fn reconcile_all(ctx: Arc<Context>, stop: CancellationToken) {
    let store = tokio::select! {
        store = ctx.world.synced() => store,
        () = stop.cancelled() => return,
    };
    tracing::info!("the watches have shown everything");
    let queue = requests(&ctx).take_until(stop.cancelled_owned());
    let config = QueueConfig::default()
        .concurrency(CLUSTERS_AT_ONCE)
        .debounce(DEBOUNCE);
    applier(
        |resource, ctx| reconcile(resource, ctx).boxed(),
        |resource, error, ctx| error_policy(&resource, error, &ctx),
        Arc::clone(&ctx),
        store,
        queue,
        config,
    )
    .for_each(|result| {
        if let Err(QueueError::ObjectNotFound(gone)) = result
            && let Some(namespace) = gone.namespace.clone()
        {
            let key = ClusterKey {
                namespace,
                name: gone.name.clone(),
            };
            ctx.forget(&key);
            ctx.succeeded(&key);
            ctx.metrics.forget(&key);
            let ctx = Arc::clone(&ctx);
            tokio::spawn(async move {
                beside::let_go::<DynomiteBackup>(&ctx, &key).await;
                beside::let_go::<DynomiteRestore>(&ctx, &key).await;
            });
        }
        ready(())
    })
    .await;
}

type Request = Result<ReconcileRequest<DynomiteCluster>, std::convert::Infallible>;

/// The clusters that are woken by the watches, and all of them when this
/// operator begins to lead.
fn requests(ctx: &Arc<Context>) -> impl Stream<Item = Request> + Send + use<> {
    let woken = Triggers::stream(Arc::clone(&ctx.world)).map(|key| {
        let name = ObjectRef::new(&key.name).within(&key.namespace);
        Ok(ReconcileRequest::from(name))
    });
    let leads = ctx.leadership.follow();
    let elected = stream::unfold((leads, Arc::clone(ctx)), |(mut leads, ctx)| async move {
        leads.changed().await.ok()?;
        let leading = *leads.borrow_and_update();
        ctx.metrics.leads(leading);
        if leading {
            for cluster in ctx.world.clusters.all() {
                if let Some(key) = ClusterKey::of_self(cluster.as_ref()) {
                    ctx.world.triggers.push(key);
                }
            }
        }
        Some((None, (leads, ctx)))
    });
    ctx.metrics.leads(ctx.leadership.check().is_ok());
    stream::select(woken.map(Some), elected).filter_map(ready)
}

async fn client() -> Result<Client, Error> {
    let mut config = Config::infer()
        .await
        .map_err(|error| Error::Config(error.to_string()))?;
    // Watches are ended by the server earlier than this; the client applies
    // its read timeout to silence, not to the whole answer.
    config.write_timeout = Some(API_DEADLINE);
    config.connect_timeout = Some(API_DEADLINE);
    // A write that is tried again later must be checked again: the right to
    // write may have ended meanwhile. The next reconcile tries again.
    config.default_retry = false;
    config.headers.push((
        header::USER_AGENT,
        HeaderValue::from_static(concat!("dynomite-operator/", env!("CARGO_PKG_VERSION"))),
    ));
    Ok(Client::try_from(config)?)
}

fn identity(options: &RunOptions) -> String {
    let host = || {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        format!("{}-{}", host.trim(), std::process::id())
    };
    options.identity.clone().unwrap_or_else(host)
}

fn defaults(options: &RunOptions) -> Defaults {
    Defaults {
        sidecar_image: options.image.clone(),
        engine_image: options
            .engine_image
            .clone()
            .unwrap_or_else(|| options.image.clone()),
        image_pull_policy: options
            .image_pull_policy
            .map(|policy: PullPolicy| policy.name().to_owned()),
    }
}

fn stop_on_signal() -> Result<CancellationToken, Error> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        told.cancel();
    });
    Ok(stop)
}

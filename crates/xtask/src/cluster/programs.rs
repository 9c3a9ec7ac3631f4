//! Builds the cluster's programs from Go modules, once per machine, into a cache outside the checkout.

use std::fmt::Write;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::{layout, packages};
use crate::stage::{Stage, Stages};
use crate::workspace;

/// How many lines of a failed build are shown.
const SHOWN_LINES: usize = 20;

/// One Go module and what is built from it.
struct Module {
    /// Its folder and the name of its program.
    name: &'static str,
    /// What to build, as `go build` takes it.
    package: &'static str,
    /// The required module whose version is the program's.
    versioned: Option<&'static str>,
    /// Makes linker flags of that version.
    link: fn(&str) -> String,
    /// Other names of the same program, which tell it what to be.
    names: &'static [&'static str],
    /// What the person who waits is told.
    purpose: &'static str,
}

const KUBERNETES: Module = Module {
    name: "kubernetes",
    package: ".",
    versioned: Some("k8s.io/kubernetes"),
    link: kubernetes_version,
    names: &[
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kube-proxy",
        "kubelet",
        "kubectl",
        "local-volumes",
    ],
    purpose: "Kubernetes itself, about 5 to 8 minutes on two cores, once per machine",
};

const ETCD: Module = Module {
    name: "etcd",
    package: ".",
    versioned: None,
    link: no_version,
    names: &[],
    purpose: "the API server's store, about a minute",
};

const COREDNS: Module = Module {
    name: "coredns",
    package: ".",
    versioned: None,
    link: no_version,
    names: &[],
    purpose: "the cluster's name server, about a minute",
};

const PAUSE: Module = Module {
    name: "pause",
    package: ".",
    versioned: None,
    link: no_version,
    names: &[],
    purpose: "the process that holds a pod's namespaces",
};

const HELM: Module = Module {
    name: "helm",
    package: "helm.sh/helm/v4/cmd/helm",
    versioned: Some("helm.sh/helm/v4"),
    link: helm_version,
    names: &[],
    purpose: "the client that installs charts, about two minutes",
};

const PROMLINT: Module = Module {
    name: "promlint",
    package: ".",
    versioned: None,
    link: no_version,
    names: &[],
    purpose: "Prometheus' linter of metrics, about a minute",
};

fn no_version(_version: &str) -> String {
    String::new()
}

/// Without a version the server calls itself a template that neither helm nor kubectl can parse.
fn kubernetes_version(version: &str) -> String {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    ["component-base/version", "client-go/pkg/version"]
        .map(|package| {
            format!(
                " -X k8s.io/{package}.gitVersion={version} -X k8s.io/{package}.gitMajor={major} \
                 -X k8s.io/{package}.gitMinor={minor} -X k8s.io/{package}.gitTreeState=clean"
            )
        })
        .concat()
}

fn helm_version(version: &str) -> String {
    format!(" -X helm.sh/helm/v4/internal/version.version={version}")
}

/// Everything the embedded cluster runs, built.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    /// Holds the control plane's programs, kubelet and kubectl, each by its name.
    pub(super) kubernetes: PathBuf,
    /// The program etcd.
    pub(super) etcd: PathBuf,
    /// The program `CoreDNS`, static.
    pub(super) coredns: PathBuf,
    /// The program pause, static.
    pub(super) pause: PathBuf,
}

impl Programs {
    /// Builds what the cache lacks.
    pub(super) fn ensure(stages: &mut Stages) -> Result<Self> {
        Ok(Self {
            kubernetes: ensure_built(&KUBERNETES, stages)?,
            etcd: ensure_built(&ETCD, stages)?.join("etcd"),
            coredns: ensure_built(&COREDNS, stages)?.join("coredns"),
            pause: ensure_built(&PAUSE, stages)?.join("pause"),
        })
    }

    /// What is already built; an error names what is missing.
    pub(super) fn built() -> Result<Self> {
        Ok(Self {
            kubernetes: built(&KUBERNETES)?,
            etcd: built(&ETCD)?.join("etcd"),
            coredns: built(&COREDNS)?.join("coredns"),
            pause: built(&PAUSE)?.join("pause"),
        })
    }

    /// One of Kubernetes' programs.
    pub(super) fn kubernetes(&self, name: &str) -> PathBuf {
        self.kubernetes.join(name)
    }
}

/// A kubectl of the cluster's version.
pub(super) fn kubectl(stages: &mut Stages) -> Result<PathBuf> {
    Ok(ensure_built(&KUBERNETES, stages)?.join("kubectl"))
}

/// A real helm.
pub(super) fn helm(stages: &mut Stages) -> Result<PathBuf> {
    Ok(ensure_built(&HELM, stages)?.join("helm"))
}

/// Reads metrics and says what Prometheus' linter says of them.
pub(super) fn promlint(stages: &mut Stages) -> Result<PathBuf> {
    Ok(ensure_built(&PROMLINT, stages)?.join("promlint"))
}

fn sources(module: &Module) -> PathBuf {
    workspace::root().join("tests/cluster/go").join(module.name)
}

fn built(module: &Module) -> Result<PathBuf> {
    let directory = destination(module, &flags(module)?)?;
    ensure!(
        directory.is_dir(),
        "{} is not built: run `cargo xtask cluster up`",
        module.name
    );
    Ok(directory)
}

/// Builds a module unless the cache has it, and returns the directory with its programs.
fn ensure_built(module: &Module, stages: &mut Stages) -> Result<PathBuf> {
    let flags = flags(module)?;
    let directory = destination(module, &flags)?;
    if directory.is_dir() {
        return Ok(directory);
    }
    ensure!(
        packages::find("go").is_some(),
        "Go is needed to build {}: {}; install the version that {} names from https://go.dev/dl",
        module.name,
        module.purpose,
        sources(module).join("go.mod").display()
    );
    let cache = layout::cache()?;
    fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
    stages.run(&format!("building {}", module.name), |stage| {
        stage.note(module.purpose);
        let lock = File::create(cache.join("lock"))?;
        if lock.try_lock().is_err() {
            stage.note("waiting for another build to end");
            lock.lock()?;
        }
        // Whoever held the lock may have built the same.
        if !directory.is_dir() {
            build(module, &flags, &directory, stage)?;
        }
        Ok(())
    })?;
    Ok(directory)
}

/// Builds beside the destination first, so that an interrupted build leaves nothing that looks whole.
fn build(module: &Module, flags: &[String], directory: &Path, stage: &Stage) -> Result<()> {
    let partial = directory.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    let total = count_packages(module)?;
    let mut go = go(module);
    go.arg("build")
        .arg("-v")
        .args(flags)
        .arg("-o")
        .arg(partial.join(module.name))
        .arg(module.package)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = go.spawn().context("starting go")?;
    let mut last = std::collections::VecDeque::new();
    let mut compiled = 0;
    for line in BufReader::new(child.stderr.take().context("go's output")?).lines() {
        let line = line?;
        if !line.starts_with("go: ") {
            compiled += 1;
            stage.progress(compiled.min(total), total);
        }
        if last.len() == SHOWN_LINES {
            last.pop_front();
        }
        last.push_back(line);
    }
    if !child.wait()?.success() {
        bail!(
            "go could not build {}:\n{}",
            module.name,
            Vec::from(last).join("\n")
        );
    }
    for name in module.names {
        symlink(module.name, partial.join(name))?;
    }
    fs::rename(&partial, directory).with_context(|| format!("naming {}", directory.display()))
}

/// How many packages the program is made of: the length of the progress bar.
fn count_packages(module: &Module) -> Result<u64> {
    let output = go(module)
        .args(["list", "-deps", module.package])
        .stderr(Stdio::inherit())
        .output()
        .context("starting go")?;
    ensure!(
        output.status.success(),
        "go could not resolve the packages of {}",
        module.name
    );
    Ok(String::from_utf8_lossy(&output.stdout).lines().count() as u64)
}

/// Go in a module's folder, without what the user's environment would change about the result.
fn go(module: &Module) -> Command {
    let mut command = Command::new("go");
    command
        .current_dir(sources(module))
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-buildvcs=false")
        .env("GOWORK", "off");
    command
}

fn flags(module: &Module) -> Result<Vec<String>> {
    let version = match module.versioned {
        Some(dependency) => required_version(module, dependency)?,
        None => String::new(),
    };
    Ok(vec![
        "-trimpath".to_owned(),
        format!("-ldflags=-s -w{}", (module.link)(&version)),
    ])
}

/// The version of a dependency that the module's `go.mod` asks for.
fn required_version(module: &Module, dependency: &str) -> Result<String> {
    let path = sources(module).join("go.mod");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    text.lines()
        .map(|line| line.trim_start().trim_start_matches("require "))
        .find_map(|line| line.strip_prefix(dependency)?.strip_prefix(' '))
        .and_then(|version| version.split_whitespace().next())
        .map(str::to_owned)
        .with_context(|| format!("{} does not require {dependency}", path.display()))
}

/// The directory of exactly this program: its name holds a digest of all that goes into it.
fn destination(module: &Module, flags: &[String]) -> Result<PathBuf> {
    let mut digest = Sha256::new();
    let mut files: Vec<_> = fs::read_dir(sources(module))
        .with_context(|| format!("reading {}", sources(module).display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    for file in files {
        digest.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        digest.update(fs::read(&file).with_context(|| format!("reading {}", file.display()))?);
    }
    for part in flags.iter().map(String::as_str).chain([
        module.package,
        std::env::consts::ARCH,
        &module.names.join(","),
    ]) {
        digest.update(part);
        digest.update([0]);
    }
    let mut hex = String::new();
    for byte in digest.finalize().iter().take(8) {
        write!(hex, "{byte:02x}")?;
    }
    Ok(layout::cache()?
        .join("bin")
        .join(format!("{}-{hex}", module.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_the_committed_modules() {
        let version = required_version(&KUBERNETES, "k8s.io/kubernetes").unwrap();
        assert!(version.starts_with("v1."), "{version}");
        let flags = kubernetes_version("v1.36.3");
        assert!(
            flags.contains("component-base/version.gitMinor=36"),
            "{flags}"
        );
        assert!(
            required_version(&HELM, "helm.sh/helm/v4")
                .unwrap()
                .starts_with("v4.")
        );
    }

    #[test]
    fn other_flags_are_another_program() {
        let plain = destination(&PAUSE, &[]).unwrap();
        assert_eq!(plain, destination(&PAUSE, &[]).unwrap());
        assert_ne!(plain, destination(&PAUSE, &["-race".to_owned()]).unwrap());
    }
}

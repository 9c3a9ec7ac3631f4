//! The control groups of the cluster: who belongs to it, and what a node may use.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long killed processes may take to vanish.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at what is left.
const LOOK: Duration = Duration::from_millis(20);

/// Where this machine's hierarchies are mounted: one per controller, or a single unified one.
pub(super) struct Hierarchies {
    roots: Vec<PathBuf>,
    unified: bool,
    /// The unified hierarchy of a hybrid layout: it has no controllers, so nothing is asked of it,
    /// but runc makes groups there too.
    bystander: Option<PathBuf>,
}

impl Hierarchies {
    /// Finds them in the table of mounts.
    pub(super) fn find() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("reading the mounts")?;
        let found = Self::parse(&mounts);
        if found.roots.is_empty() {
            bail!("no control groups are mounted: the kubelet needs them");
        }
        Ok(found)
    }

    fn parse(mounts: &str) -> Self {
        let of_type = |wanted: &str| -> Vec<PathBuf> {
            mounts
                .lines()
                .filter_map(|line| {
                    let mut fields = line.split(' ');
                    let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
                    (kind == wanted).then(|| PathBuf::from(path))
                })
                .collect()
        };
        let separate = of_type("cgroup");
        let together = of_type("cgroup2").into_iter().next();
        if separate.is_empty() {
            Self {
                roots: together.into_iter().collect(),
                unified: true,
                bystander: None,
            }
        } else {
            Self {
                roots: separate,
                unified: false,
                bystander: together,
            }
        }
    }

    /// Makes `group` in every hierarchy, usable for processes and for groups below.
    pub(super) fn create(&self, group: &str) -> Result<()> {
        for root in &self.roots {
            let mut directory = root.clone();
            for part in Path::new(group) {
                if self.unified {
                    delegate(&directory);
                }
                let above = directory.clone();
                directory.push(part);
                fs::create_dir_all(&directory)
                    .with_context(|| format!("creating {}", directory.display()))?;
                inherit_cpus(&above, &directory)?;
            }
        }
        Ok(())
    }

    /// Puts a process and its children to come into `group`, where [`Self::members`] finds them.
    pub(super) fn enter(&self, group: &str, pid: u32) -> Result<()> {
        let procs = self.tracking().join(group).join("cgroup.procs");
        fs::write(&procs, pid.to_string()).with_context(|| format!("writing {}", procs.display()))
    }

    /// Kills every process in `group` and below, and waits until none is left.
    pub(super) fn kill(&self, group: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let members = self.members(group);
            if members.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                bail!("processes {members:?} of {group} do not end");
            }
            for pid in members.into_iter().filter_map(Pid::from_raw) {
                // One that is gone already is as good as killed.
                let _ = kill_process(pid, Signal::KILL);
            }
            thread::sleep(LOOK);
        }
    }

    /// Removes `group` everywhere, the deepest first; its processes must be gone.
    pub(super) fn remove(&self, group: &str) -> Result<()> {
        for root in self.everywhere() {
            let mut directories = below(&root.join(group));
            directories.reverse();
            for directory in directories {
                remove_when_idle(&directory)?;
            }
        }
        Ok(())
    }

    /// Whether any trace of `group` exists.
    pub(super) fn exists(&self, group: &str) -> bool {
        self.everywhere().any(|root| root.join(group).exists())
    }

    fn everywhere(&self) -> impl Iterator<Item = &PathBuf> {
        self.roots.iter().chain(&self.bystander)
    }

    /// The processes in `group` and below, as this process' namespace numbers them.
    pub(super) fn members(&self, group: &str) -> Vec<i32> {
        below(&self.tracking().join(group))
            .iter()
            .filter_map(|directory| fs::read_to_string(directory.join("cgroup.procs")).ok())
            .flat_map(|text| {
                text.lines()
                    .filter_map(|line| line.parse().ok())
                    // Zero is a process of another namespace.
                    .filter(|pid| *pid > 0)
                    .collect::<Vec<i32>>()
            })
            .collect()
    }

    /// The one hierarchy in which membership is kept: it limits nothing unless told to.
    fn tracking(&self) -> &Path {
        self.roots
            .iter()
            .find(|root| root.ends_with("pids"))
            .unwrap_or(&self.roots[0])
    }
}

/// A directory and all below it, parents first.
fn below(directory: &Path) -> Vec<PathBuf> {
    if !directory.is_dir() {
        return Vec::new();
    }
    let mut found = vec![directory.to_owned()];
    let mut next = 0;
    while let Some(current) = found.get(next).cloned() {
        next += 1;
        if let Ok(entries) = fs::read_dir(current) {
            found.extend(
                entries
                    .flatten()
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
        }
    }
    found
}

/// The kernel lets go of a group a moment after its last process has ended.
fn remove_when_idle(directory: &Path) -> Result<()> {
    let begun = Instant::now();
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(_) if begun.elapsed() < PATIENCE => thread::sleep(LOOK),
            Err(error) => {
                return Err(error).with_context(|| format!("removing {}", directory.display()));
            }
        }
    }
}

/// Hands every controller down to the groups below, each by itself: some may not be available.
fn delegate(directory: &Path) {
    let Ok(controllers) = fs::read_to_string(directory.join("cgroup.controllers")) else {
        return;
    };
    for controller in controllers.split_whitespace() {
        let _ = fs::write(
            directory.join("cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
}

/// A new group of the old cpuset controller has no processors and takes no process until told.
fn inherit_cpus(above: &Path, directory: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (above.join(file), directory.join(file));
        if from.is_file() && to.is_file() {
            fs::write(&to, fs::read(&from)?)
                .with_context(|| format!("writing {}", to.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_layouts_use_the_old_hierarchies_only() {
        let found = Hierarchies::parse(
            "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
             cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
             cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n\
             cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
        );
        assert!(!found.unified);
        assert_eq!(found.roots.len(), 2);
        assert_eq!(found.tracking(), Path::new("/sys/fs/cgroup/pids"));
        assert_eq!(found.everywhere().count(), 3);
    }

    #[test]
    fn a_unified_layout_has_one_hierarchy() {
        let found = Hierarchies::parse("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n");
        assert!(found.unified);
        assert_eq!(found.roots, [PathBuf::from("/sys/fs/cgroup")]);
    }
}

//! Runs other programs: their output is kept, shown live on a terminal, and printed in full measure only on failure.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::stage::Stage;

/// How many lines of a failed program's output are shown.
const TAIL_LINES: usize = 120;

/// What a program said and whether it was content.
pub(crate) struct Output {
    /// Standard output and standard error, as they came.
    pub(crate) text: String,
    /// Whether the exit status was zero.
    pub(crate) success: bool,
}

impl Output {
    /// The last lines, enough to see why a program failed.
    pub(crate) fn tail(&self) -> String {
        let lines: Vec<_> = self.text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

/// Runs `command` to its end with both outputs merged; the newest line is the stage's live message.
pub(crate) fn capture(command: &mut Command, stage: &Stage) -> Result<Output> {
    let said = describe(command);
    let (reader, writer) = std::io::pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut child = command
        .spawn()
        .with_context(|| format!("starting `{said}`"))?;
    // The command holds the pipe's writing ends; the reader sees the end only when they are gone.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut text = String::new();
    let mut lines = BufReader::new(reader);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        let decoded = String::from_utf8_lossy(&line);
        stage.live(decoded.trim_end());
        text.push_str(&decoded);
        line.clear();
    }
    let status = child.wait()?;
    Ok(Output {
        text,
        success: status.success(),
    })
}

/// Runs `command` and gives what it said; a failure carries the end of that.
pub(crate) fn run(command: &mut Command, stage: &Stage) -> Result<String> {
    let output = capture(command, stage)?;
    if !output.success {
        bail!("`{}` failed:\n{}", describe(command), output.tail());
    }
    Ok(output.text)
}

/// Runs a short `command` for its standard output.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let said = describe(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting `{said}`"))?;
    if !output.status.success() {
        bail!(
            "`{said}` failed:\n{}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The cargo that started this program, else the one on the path.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::workspace::root());
    // What cargo tells a program it runs about the package must not reach another cargo: build
    // scripts that watch such a variable would be built again each time the caller changes.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        }) {
            command.env_remove(name);
        }
    }
    command
}

/// Where `name` lies on the search path.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|candidate| is_file(candidate))
}

fn is_file(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// The command line as a person would type it.
fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::Stages;

    #[test]
    fn failure_carries_both_outputs() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo out; echo err >&2; exit 3"]);
        let error = Stages::new()
            .run("shell", |stage| run(&mut shell, stage))
            .unwrap_err()
            .to_string();
        assert!(error.contains("out") && error.contains("err"), "{error}");
    }

    #[test]
    fn missing_program_is_named() {
        let error = Stages::new()
            .run("none", |stage| {
                run(&mut Command::new("no-such-program"), stage)
            })
            .unwrap_err()
            .to_string();
        assert!(error.contains("no-such-program"), "{error}");
    }

    #[test]
    fn tail_keeps_the_end() {
        let output = Output {
            text: (0..500)
                .map(|line| line.to_string())
                .collect::<Vec<_>>()
                .join("\n"),
            success: false,
        };
        let tail = output.tail();
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.ends_with("499"));
    }
}

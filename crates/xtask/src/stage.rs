//! Progress for people and for logs: named stages with a spinner or bar, their times, a table at the end.

use std::io::IsTerminal;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// How often a spinner turns on a terminal.
const TICK: Duration = Duration::from_millis(120);

/// All bars on the terminal: stages may go on side by side.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Prints a line between the bars.
pub(crate) fn say(line: &str) {
    BARS.suspend(|| println!("{line}"));
}

/// The stages of one command, in the order they ran.
pub(crate) struct Stages {
    begun: Instant,
    ended: Vec<Ended>,
}

/// One stage that is over.
struct Ended {
    name: String,
    took: Duration,
    outcome: Outcome,
}

/// How a stage ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Done,
    Failed,
    Skipped,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        }
    }
}

impl Stages {
    /// Starts the clock of the whole command.
    pub(crate) fn new() -> Self {
        Self {
            begun: Instant::now(),
            ended: Vec::new(),
        }
    }

    /// Runs `work` as the stage `name`: shows that it goes on, then how long it took.
    pub(crate) fn run<T>(
        &mut self,
        name: &str,
        work: impl FnOnce(&Stage) -> Result<T>,
    ) -> Result<T> {
        let stage = Stage::begin(name);
        let begun = Instant::now();
        let result = work(&stage);
        let outcome = if result.is_ok() {
            Outcome::Done
        } else {
            Outcome::Failed
        };
        stage.bar.finish_and_clear();
        self.close(name, begun.elapsed(), outcome);
        result
    }

    /// Records a stage that was not needed or not possible, with the reason.
    pub(crate) fn skip(&mut self, name: &str, why: &str) {
        say(&format!("  - {name}: skipped, {why}"));
        self.ended.push(Ended {
            name: name.to_owned(),
            took: Duration::ZERO,
            outcome: Outcome::Skipped,
        });
    }

    fn close(&mut self, name: &str, took: Duration, outcome: Outcome) {
        let mark = if outcome == Outcome::Done { '+' } else { '!' };
        say(&format!(
            "  {mark} {name}: {} in {}",
            outcome.word(),
            seconds(took)
        ));
        self.ended.push(Ended {
            name: name.to_owned(),
            took,
            outcome,
        });
    }

    /// Takes over the stages of work that went on beside this.
    pub(crate) fn absorb(&mut self, other: Self) {
        self.ended.extend(other.ended);
    }

    /// Prints the table of all stages with their times.
    pub(crate) fn summary(&self) {
        println!("{}", self.table());
    }

    fn table(&self) -> String {
        let total = ("total", self.begun.elapsed(), "");
        let rows = self
            .ended
            .iter()
            .map(|ended| (ended.name.as_str(), ended.took, ended.outcome.word()))
            .chain([total]);
        let width = self
            .ended
            .iter()
            .map(|ended| ended.name.len())
            .max()
            .unwrap_or(0)
            .max("total".len());
        rows.map(|(name, took, word)| {
            format!("  {name:<width$}  {:>12}  {word}", seconds(took))
                .trim_end()
                .to_owned()
        })
        .collect::<Vec<_>>()
        .join("\n")
    }
}

/// A stage under way.
pub(crate) struct Stage {
    name: String,
    bar: ProgressBar,
}

impl Stage {
    fn begin(name: &str) -> Self {
        let bar = if interactive() {
            let bar = BARS.add(ProgressBar::new_spinner().with_style(spinner_style()));
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(TICK);
            bar
        } else {
            say(&format!("  > {name}"));
            ProgressBar::hidden()
        };
        Self {
            name: name.to_owned(),
            bar,
        }
    }

    /// Tells what the stage does right now; a log gets it as a line of its own.
    pub(crate) fn note(&self, message: &str) {
        if self.bar.is_hidden() {
            say(&format!("    {}: {message}", self.name));
        } else {
            self.bar.set_message(message.to_owned());
        }
    }

    /// Shows `message` on a terminal only: for the flood of lines another program prints.
    pub(crate) fn live(&self, message: &str) {
        self.bar.set_message(message.to_owned());
    }

    /// Shows `position` of `length` as a bar; a log gets nothing, as it would be flooded.
    pub(crate) fn progress(&self, position: u64, length: u64) {
        if self.bar.length() != Some(length) {
            self.bar.set_length(length);
            self.bar.set_style(bar_style());
        }
        self.bar.set_position(position);
    }
}

/// Whether someone watches: a terminal and not a continuous-integration run.
fn interactive() -> bool {
    std::io::stderr().is_terminal()
        && std::io::stdout().is_terminal()
        && std::env::var_os("CI").is_none()
}

fn spinner_style() -> ProgressStyle {
    ProgressStyle::with_template("  {spinner} {prefix} [{elapsed}] {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("  {spinner} {prefix} [{elapsed}] {bar:24} {pos}/{len} {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A duration as people say it: tenths of a second while short, minutes when long.
fn seconds(took: Duration) -> String {
    let whole = took.as_secs();
    if whole < 100 {
        format!("{:.1} s", took.as_secs_f64())
    } else {
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_lists_every_stage_with_its_outcome() {
        let mut stages = Stages::new();
        stages.run("good", |_| Ok(())).unwrap();
        stages
            .run("bad", |_| -> Result<()> { anyhow::bail!("no") })
            .unwrap_err();
        stages.skip("not here", "no tool");
        let table = stages.table();
        let words: Vec<_> = table
            .lines()
            .map(|line| line.split_whitespace().last().unwrap_or_default())
            .collect();
        assert_eq!(words, ["done", "FAILED", "skipped", "s"]);
    }

    #[test]
    fn long_times_are_told_in_minutes() {
        assert_eq!(seconds(Duration::from_millis(1_550)), "1.6 s");
        assert_eq!(seconds(Duration::from_secs(303)), "5 min 03 s");
    }
}

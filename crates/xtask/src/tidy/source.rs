//! Rust sources prepared for a word search: comments and literals blanked, tests cut out.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// One source file.
pub(crate) struct Source {
    /// Path relative to the root of the repository.
    pub(crate) path: PathBuf,
    /// The code with comments and literals replaced by spaces; lines and columns are kept.
    pub(crate) code: String,
    /// The comments alone, blanked the other way round.
    pub(crate) comments: String,
}

/// What the lexer is inside of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Code,
    LineComment,
    /// Block comments nest in Rust.
    BlockComment(u32),
    /// A string; the number of `#` of a raw one, `None` for one with escapes.
    Text(Option<usize>),
}

impl Source {
    /// Prepares `text`, which lies at `path`.
    pub(crate) fn new(path: PathBuf, text: &str) -> Self {
        let (code, comments) = blank(text);
        Self {
            path,
            code,
            comments,
        }
    }

    /// The crate's folder name, for sources below `crates/`.
    pub(crate) fn package(&self) -> Option<&str> {
        self.path
            .strip_prefix("crates")
            .ok()?
            .iter()
            .next()?
            .to_str()
    }

    /// Whether the whole file is test code.
    pub(crate) fn is_test(&self) -> bool {
        self.path
            .iter()
            .any(|part| part == "tests" || part == "tests.rs" || part == "benches")
    }

    /// The code without modules and functions that only tests see.
    pub(crate) fn shipped(&self) -> String {
        let mut code = self.code.clone();
        while let Some(start) = code.find("#[cfg(test)]") {
            let end = item_end(&code, start);
            code.replace_range(start..end, &spaces(&code[start..end]));
        }
        code
    }
}

/// Every source below `crates/` and `tests/`.
pub(crate) fn read_all(root: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for part in ["crates", "tests"] {
        for path in super::files(&root.join(part), "rs")? {
            let text =
                fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            let path = path.strip_prefix(root).unwrap_or(&path).to_owned();
            sources.push(Source::new(path, &text));
        }
    }
    Ok(sources)
}

/// Where the item that begins at `start` ends: after its block or its semicolon.
fn item_end(code: &str, start: usize) -> usize {
    let mut depth = 0_u32;
    for (offset, character) in code[start..].char_indices() {
        match character {
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return start + offset + 1;
                }
            }
            ';' if depth == 0 => return start + offset + 1,
            _ => {}
        }
    }
    code.len()
}

/// `text` with everything but line ends replaced by spaces.
fn spaces(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte == b'\n' { '\n' } else { ' ' })
        .collect()
}

/// Splits `text` into code and comments, each with the other blanked.
fn blank(text: &str) -> (String, String) {
    let mut code = String::with_capacity(text.len());
    let mut comments = String::with_capacity(text.len());
    let mut state = State::Code;
    let mut rest = text;
    while !rest.is_empty() {
        let (taken, next) = step(state, rest, code.ends_with(is_word));
        let part = &rest[..taken];
        rest = &rest[taken..];
        let is_comment = |state| matches!(state, State::LineComment | State::BlockComment(_));
        let (in_code, in_comments) = if is_comment(state) || is_comment(next) {
            (false, true)
        } else {
            (
                state == State::Code && next == State::Code && !is_literal(part),
                false,
            )
        };
        code.push_str(&if in_code {
            part.to_owned()
        } else {
            spaces(part)
        });
        comments.push_str(&if in_comments {
            part.to_owned()
        } else {
            spaces(part)
        });
        state = next;
    }
    (code, comments)
}

/// A character literal, taken in one step.
fn is_literal(part: &str) -> bool {
    part.len() > 1 && part.starts_with('\'')
}

/// How many bytes of `rest` belong together and what follows them.
fn step(state: State, rest: &str, after_word: bool) -> (usize, State) {
    let first = rest.chars().next().map_or(1, char::len_utf8);
    match state {
        State::Code if rest.starts_with("//") => (2, State::LineComment),
        State::Code if rest.starts_with("/*") => (2, State::BlockComment(1)),
        State::Code if rest.starts_with('"') => (1, State::Text(None)),
        State::Code if !after_word && raw_start(rest).is_some() => {
            let (taken, hashes) = raw_start(rest).unwrap_or((first, 0));
            (taken, State::Text(Some(hashes)))
        }
        State::Code if rest.starts_with('\'') => (character(rest), State::Code),
        State::LineComment if rest.starts_with('\n') => (1, State::Code),
        State::BlockComment(depth) if rest.starts_with("/*") => (2, State::BlockComment(depth + 1)),
        State::BlockComment(1) if rest.starts_with("*/") => (2, State::Code),
        State::BlockComment(depth) if rest.starts_with("*/") => (2, State::BlockComment(depth - 1)),
        State::Text(None) if rest.starts_with('\\') => (
            1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            state,
        ),
        State::Text(None) if rest.starts_with('"') => (1, State::Code),
        State::Text(Some(hashes))
            if rest.starts_with('"') && rest[1..].starts_with(&"#".repeat(hashes)) =>
        {
            (1 + hashes, State::Code)
        }
        _ => (first, state),
    }
}

/// Length of the opening of a raw string such as `r#"` or `br"`, and its number of hashes.
fn raw_start(rest: &str) -> Option<(usize, usize)> {
    let prefix = ["br", "cr", "r"]
        .into_iter()
        .find(|prefix| rest.starts_with(prefix))?;
    let hashes = rest[prefix.len()..]
        .bytes()
        .take_while(|&byte| byte == b'#')
        .count();
    let length = prefix.len() + hashes + 1;
    rest[prefix.len() + hashes..]
        .starts_with('"')
        .then_some((length, hashes))
}

/// Length of a character literal; of a lifetime only its quote.
fn character(rest: &str) -> usize {
    let mut characters = rest.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => rest[3..].find('\'').map_or(1, |end| 3 + end + 1),
        Some(_) => match characters.next() {
            Some((end, '\'')) => end + 1,
            _ => 1,
        },
        None => 1,
    }
}

/// Whether `character` can be part of a name.
pub(crate) fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Offsets at which `needle` stands in `code` as whole words.
pub(crate) fn words<'code>(
    code: &'code str,
    needle: &'code str,
) -> impl Iterator<Item = usize> + 'code {
    code.match_indices(needle).filter_map(move |(start, _)| {
        let before = code[..start].chars().next_back();
        let after = code[start + needle.len()..].chars().next();
        let open = needle.ends_with(is_word) && after.is_some_and(is_word);
        (!before.is_some_and(is_word) && !open).then_some(start)
    })
}

/// The number of the line that holds `offset`, from one.
pub(crate) fn line(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        Source::new(PathBuf::from("crates/x/src/lib.rs"), text).code
    }

    #[test]
    fn comments_and_literals_are_blanked_and_lines_kept() {
        let text = "a /* sleep /* deep */ */ b // sleep\n\"sleep \\\" sleep\" c r#\"sleep \" sleep\"# d '\"' e '\\'' f";
        let left: Vec<_> = code(text).split_whitespace().map(str::to_owned).collect();
        assert_eq!(left, ["a", "b", "c", "d", "e", "f"]);
        assert_eq!(code(text).len(), text.len());
    }

    #[test]
    fn lifetimes_do_not_open_a_literal() {
        assert_eq!(code("fn f<'a>(x: &'a str) {}"), "fn f<'a>(x: &'a str) {}");
    }

    #[test]
    fn comments_are_kept_apart() {
        let source = Source::new(PathBuf::new(), "let a = \"// no\"; // yes\n");
        assert_eq!(source.comments.trim(), "// yes");
    }

    #[test]
    fn test_modules_are_not_shipped() {
        let source = Source::new(
            PathBuf::new(),
            "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { c(); } }\nfn d() {}\n#[cfg(test)]\nmod e;\nfn f() {}",
        );
        let shipped = source.shipped();
        let names: Vec<_> = shipped.split_whitespace().collect();
        assert_eq!(names.join(" "), "fn a() {} fn d() {} fn f() {}");
    }

    #[test]
    fn words_are_whole() {
        assert_eq!(words("asleep sleeping sleep()", "sleep").count(), 1);
        assert_eq!(line("a\nb\nc", 4), 3);
    }
}

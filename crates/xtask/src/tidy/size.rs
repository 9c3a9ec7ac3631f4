//! Lists what is long: places to look at, never a failure.

use super::source::{Source, line, words};

/// Lines a function may have before it is listed.
const FUNCTION_LINES: usize = 70;

/// Lines a file may have before it is listed; tests at its end count too.
const FILE_LINES: usize = 500;

/// One line for each long function and file.
pub(crate) fn long(sources: &[Source]) -> Vec<String> {
    sources
        .iter()
        .flat_map(|source| {
            let path = source.path.display();
            let lines = source.code.lines().count();
            let file = (lines > FILE_LINES).then(|| format!("{path}: {lines} lines"));
            let functions = functions(&source.code)
                .into_iter()
                .filter(|(_, _, lines)| *lines > FUNCTION_LINES)
                .map(|(line, name, lines)| format!("{path}:{line}: fn {name}: {lines} lines"))
                .collect::<Vec<_>>();
            file.into_iter().chain(functions)
        })
        .collect()
}

/// Line, name and length of every function with a body.
fn functions(code: &str) -> Vec<(usize, &str, usize)> {
    words(code, "fn ")
        .filter_map(|start| {
            let signature = &code[start + 3..];
            let name = signature
                .split(|c: char| !super::source::is_word(c))
                .next()?;
            let open = signature.find(['{', ';'])?;
            if name.is_empty() || signature[open..].starts_with(';') {
                return None;
            }
            let mut depth = 0_usize;
            let close = signature[open..].find(|character| {
                match character {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                depth == 0
            })?;
            let first = line(code, start);
            Some((
                first,
                name,
                line(code, start + 3 + open + close) - first + 1,
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn long_function_and_file_are_listed() {
        let body = "    x();\n".repeat(FUNCTION_LINES);
        let text =
            format!("fn short() {{}}\ntrait T {{ fn none(&self); }}\nfn long() {{\n{body}}}\n");
        let listed = long(&[Source::new(PathBuf::from("a.rs"), &text)]);
        assert_eq!(listed, ["a.rs:3: fn long: 72 lines"]);
        let text = "\n".repeat(FILE_LINES + 1);
        let listed = long(&[Source::new(PathBuf::from("b.rs"), &text)]);
        assert_eq!(listed, ["b.rs: 501 lines"]);
    }
}

//! Relative links in Markdown files must lead to a file or directory of the repository.

use std::path::{Path, PathBuf};

use super::Findings;
use super::source::line;

/// Every broken relative link of `pages`.
pub(crate) fn check(root: &Path, pages: &[PathBuf]) -> Findings {
    pages
        .iter()
        .flat_map(|page| match std::fs::read_to_string(page) {
            Ok(text) => broken(root, page, &text),
            Err(error) => vec![format!("{}: {error}", page.display())],
        })
        .collect()
}

fn broken(root: &Path, page: &Path, text: &str) -> Findings {
    let directory = page.parent().unwrap_or(root);
    targets(text)
        .into_iter()
        .filter(|(_, target)| {
            let path = target.split('#').next().unwrap_or(target);
            !path.is_empty() && !directory.join(path).exists()
        })
        .map(|(offset, target)| {
            let page = page.strip_prefix(root).unwrap_or(page).display();
            format!("{page}:{}: nothing lies at `{target}`", line(text, offset))
        })
        .collect()
}

/// The relative targets of inline links and images, with their offsets; code is left out.
fn targets(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut fenced = false;
    let mut start = 0;
    for row in text.split_inclusive('\n') {
        if row.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if !fenced {
            found.extend(row.match_indices("](").filter_map(|(position, _)| {
                // An even number of backticks before it: the link is not inside inline code.
                let prose = row[..position].matches('`').count() % 2 == 0;
                let rest = &row[position + 2..];
                let target = rest[..rest.find([')', ' '])?].trim();
                let elsewhere = target.contains("://") || target.starts_with("mailto:");
                (prose && !elsewhere).then_some((start + position, target))
            }));
        }
        start += row.len();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_link_is_found_with_its_line() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = "[good](Cargo.toml#x) [web](https://example.org/x)\n![bad](no/such.png)\n[here](#top)\n";
        let findings = broken(root, &root.join("README.md"), text);
        assert_eq!(findings, ["README.md:2: nothing lies at `no/such.png`"]);
    }

    #[test]
    fn code_holds_no_links() {
        assert!(targets("```\n[a](b)\n```\n`[c](d)`\n").is_empty());
        assert_eq!(targets("`x` [c](d)"), [(6, "d")]);
    }
}

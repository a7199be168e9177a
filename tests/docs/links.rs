//! Every link in the documentation leads somewhere: its file is there, and its heading.

use std::{collections::BTreeSet, path::Path};

use crate::{files, pages, read, root};

/// A page without its fenced blocks, in which nothing is a link.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let outside = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        !fenced && !is_fence
    });
    outside.collect::<Vec<_>>().join("\n")
}

/// The targets of `[text](target)` and `![text](target)`.
fn targets(prose: &str) -> Vec<&str> {
    let rests = prose.match_indices("](").map(|(index, open)| &prose[index + open.len()..]);
    rests.filter_map(|rest| rest.split(')').next()).collect()
}

/// What a link to a part of the page may name: its headings, as GitHub makes anchors of them, and
/// its own anchors.
fn anchors(prose: &str) -> BTreeSet<String> {
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let headings = headings.map(|line| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    });
    let own = prose.split("<a id=\"").skip(1).filter_map(|rest| rest.split('"').next());
    headings.chain(own.map(str::to_owned)).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let (mut seen, mut broken) = (0, Vec::new());
    for page in pages().into_iter().chain([Path::new("benches/RESULTS.md").to_owned()]) {
        let prose = prose(&read(&page));
        let folder = page.parent().unwrap();
        for target in targets(&prose) {
            if target.starts_with("http://") || target.starts_with("https://") {
                continue;
            }
            seen += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() { page.clone() } else { folder.join(path) };
            let file = root().join(&path);
            let reaches = file.exists()
                && (anchor.is_empty()
                    || anchors(&self::prose(&read(&path))).contains(&anchor.to_lowercase()));
            if !reaches {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(seen > 80, "{seen}");
    assert!(
        broken.is_empty(),
        "links that lead nowhere; mend the link or the heading:\n{broken:#?}"
    );
}

/// Messages of the program, alerts and comments send people to pages of `docs/` by name.
#[test]
fn every_page_that_code_names_is_there() {
    let endings = [".rs", ".sql", ".yml", ".yaml", ".json", ".html", ".py", ".cfg"];
    let mut named = BTreeSet::new();
    for folder in ["src", "deploy", "tests", "benches"] {
        for file in files(folder, &endings) {
            for rest in read(&file).split("docs/").skip(1) {
                let end = rest.find(|c: char| !(c.is_ascii_lowercase() || "-.".contains(c)));
                let name = rest[..end.unwrap_or(rest.len())].trim_end_matches('.');
                if name.ends_with(".md") {
                    named.insert((name.to_owned(), file.clone()));
                }
            }
        }
    }
    assert!(named.len() > 10, "{named:?}");
    let missing: Vec<_> =
        named.iter().filter(|(name, _)| !root().join("docs").join(name).exists()).collect();
    assert!(missing.is_empty(), "pages that do not exist: {missing:#?}");
}

#[test]
fn anchors_are_made_as_github_makes_them() {
    let anchors = anchors("## Vacuum, and what holds it back\n### `just` one\n<a id=\"own\"></a>");
    for anchor in ["vacuum-and-what-holds-it-back", "just-one", "own"] {
        assert!(anchors.contains(anchor), "{anchors:?}");
    }
}

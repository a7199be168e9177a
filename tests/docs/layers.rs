//! Imports between the modules of `src` are those that `docs/architecture.md` allows.

use std::collections::{BTreeMap, BTreeSet};

use crate::{files, read};

/// The table under "Layers": each module with those that it may import; `None` for all.
fn table(page: &str) -> BTreeMap<String, Option<BTreeSet<String>>> {
    let section = page.split("\n## Layers\n").nth(1).expect("a section on layers");
    let section = section.split("\n## ").next().unwrap();
    let names = |text: &str| -> BTreeSet<String> {
        text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let mut table = BTreeMap::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let [modules, may] = row.trim_matches('|').split(" | ").collect::<Vec<_>>()[..] else {
            panic!("docs/architecture.md, layers: {row}")
        };
        let may = (!may.contains("everything")).then(|| names(may.split(';').next().unwrap()));
        table.extend(names(modules).into_iter().map(|module| (module, may.clone())));
    }
    table
}

/// The modules that a file imports by `crate::name` or `use crate::{name, …}`; not its tests.
fn imports(text: &str) -> BTreeSet<String> {
    let text = text.split("#[cfg(test)]").next().unwrap();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    let name = |text: &str| {
        let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
        text[..end].to_owned()
    };
    for rest in code.split("crate::").skip(1) {
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(name(rest));
            continue;
        };
        let (mut depth, mut is_start) = (1, true);
        for (index, character) in list.char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' => is_start = depth == 1,
                _ if is_start && !character.is_whitespace() => {
                    found.insert(name(&list[index..]));
                    is_start = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let table = table(&read("docs/architecture.md"));
    let (mut checked, mut wrong) = (0, Vec::new());
    for file in files("src", &[".rs"]) {
        let top = file.components().nth(1).unwrap().as_os_str().to_string_lossy().into_owned();
        let top = top.trim_end_matches(".rs");
        if top == "lib" {
            continue;
        }
        let Some(may) = table.get(top) else {
            panic!("docs/architecture.md, layers: no row for the module `{top}`: add one");
        };
        let Some(may) = may else { continue };
        checked += 1;
        for import in imports(&read(&file)) {
            // Macros and items of the crate's root are no modules.
            if import != top && table.contains_key(&import) && !may.contains(&import) {
                wrong.push(format!("{} imports `{import}`", file.display()));
            }
        }
    }
    assert!(checked > 150, "{checked} files");
    assert!(
        wrong.is_empty(),
        "imports against the layers of docs/architecture.md; move the item to a lower module, or \
         change the table if the new import goes the same way as the others:\n{wrong:#?}"
    );
}

#[test]
fn imports_are_found_in_lists_and_paths() {
    let text = "use crate::{\n    domain::{self, Status},\n    store::jobs,\n};\n\
                // crate::comment\nfn of() -> crate::config::Config {}\n\
                #[cfg(test)]\nuse crate::tests;";
    let found: Vec<String> = imports(text).into_iter().collect();
    assert_eq!(found, ["config", "domain", "store"]);
}

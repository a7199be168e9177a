//! How the code is laid out: the size of files, where SQL stands, that operators change something
//! through `operations` alone, and that files do not import one another in circles.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::{files, read};

/// Most lines of a file, without its tests.
const MAX_LINES: usize = 450;

/// The part of a file that is no test.
fn production(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

fn is_test(file: &Path) -> bool {
    file.components()
        .any(|part| ["tests", "tests.rs"].contains(&&*part.as_os_str().to_string_lossy()))
}

#[test]
fn files_are_short() {
    let mut long = Vec::new();
    for file in files("src", &[".rs"]).iter().filter(|file| !is_test(file)) {
        let lines = production(&read(file)).lines().count();
        if lines > MAX_LINES {
            long.push(format!("{}: {lines} lines", file.display()));
        }
    }
    assert!(
        long.is_empty(),
        "more than {MAX_LINES} lines without tests: split the file by its concepts\n{long:#?}"
    );
}

#[test]
fn sql_stands_in_the_store() {
    let mut elsewhere = Vec::new();
    for file in files("src", &[".rs"]) {
        let macros = ["query!(", "query_as!(", "query_scalar!("];
        let text = read(&file);
        if !file.starts_with("src/store") && macros.iter().any(|name| text.contains(name)) {
            elsewhere.push(file);
        }
    }
    assert!(elsewhere.is_empty(), "a query belongs into a function of src/store: {elsewhere:?}");
}

/// Where operators are answered: here, nothing is changed but through `src/operations`.
const OPERATORS_SIDE: [&str; 3] = ["src/cli", "src/http/console", "src/http/operator"];

/// The functions of `src/store` that the operators' side may call: they read. Connecting and
/// migrating change no row that an operator acts on.
const READS: &[&str] = &[
    "audit::list",
    "circuit::get",
    "circuit::get_all",
    "clients::find_by_name",
    "clients::list",
    "connect",
    "console_sessions::is_signed_out",
    "dead_letters::count_open",
    "dead_letters::get",
    "dead_letters::open_ids",
    "evidence::list",
    "jobs::job_list::cursor",
    "jobs::job_list::get",
    "jobs::job_list::list",
    "jobs::leases::count_alive",
    "maintenance::list",
    "migrate",
    "migrate_within",
    "minute_figures::since",
    "now",
    "postgres::diagnosis::explain",
    "postgres::diagnosis::explain_migration",
    "queues::list",
    "reconcile::findings",
    "rejected_webhooks::list",
    "summary::dead_letter_counts",
    "summary::evidence_counts",
    "summary::job_counts",
    "summary::progress",
    "summary::settled",
    "transaction_list::list",
    "transaction_search::by_id",
    "transaction_search::by_reference",
    "transaction_search::rows",
];

/// The functions of `src/store` that a file names.
fn store_functions(text: &str, modules: &BTreeSet<Vec<String>>) -> BTreeSet<String> {
    let is_lower = |name: &str| name.starts_with(|c: char| c.is_lowercase());
    let code = production(text).lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n");
    let mut names = BTreeMap::from([("crate".to_owned(), Vec::new())]);
    for mut path in used_paths(text) {
        if !path.starts_with(&["crate".to_owned(), "store".to_owned()]) {
            continue;
        }
        path.remove(0);
        path.pop_if(|last| last == "self");
        let name = path.last().unwrap().clone();
        for renaming in [format!("{name} as "), format!("{name}::{{self as ")] {
            for renamed in code.split(&renaming).skip(1) {
                let end = renamed.find(|c: char| !(c.is_alphanumeric() || c == '_'));
                names.insert(renamed[..end.unwrap_or(renamed.len())].to_owned(), path.clone());
            }
        }
        names.insert(name, path);
    }
    let mut found = BTreeSet::new();
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let statements =
        code.split_inclusive(';').filter(|part| !part.trim_start().starts_with("use "));
    for token in statements.flat_map(|part| part.split(|c| !is_part(c))) {
        let segments: Vec<&str> = token.split("::").collect();
        let Some(start) = names.get(segments[0]) else { continue };
        let rest = segments[1..].iter().map(|segment| (*segment).to_owned());
        let path: Vec<String> = start.iter().cloned().chain(rest).collect();
        let is_of_store = path.first().is_some_and(|first| first == "store");
        if is_of_store && path.iter().all(|name| is_lower(name)) && !modules.contains(&path) {
            found.insert(path[1..].join("::"));
        }
    }
    found
}

#[test]
fn operators_change_something_through_operations_alone() {
    let modules = files("src/store", &[".rs"]).iter().map(|file| module("src", file)).collect();
    let (mut used, mut wrong) = (BTreeSet::new(), Vec::new());
    for file in OPERATORS_SIDE.iter().flat_map(|folder| files(folder, &[".rs"])) {
        for function in store_functions(&read(&file), &modules) {
            if !READS.contains(&function.as_str()) {
                wrong.push(format!("{}: store::{function}", file.display()));
            }
            used.insert(function);
        }
    }
    assert!(
        wrong.is_empty(),
        "the API, the console and the command line call `store` to read alone. A function that \
         writes: call it from one in src/operations, which wakes the workers, and call that here. \
         A function that reads: add it to READS in tests/docs/code.rs\n{wrong:#?}"
    );
    let unused: Vec<_> = READS.iter().filter(|name| !used.contains(**name)).collect();
    assert!(unused.is_empty(), "take out of READS what is called no more: {unused:?}");
}

#[test]
fn functions_of_the_store_are_found() {
    let modules = ["", "queues", "jobs", "jobs::job_list"].map(|name| {
        let parts = name.split("::").filter(|part| !part.is_empty()).map(str::to_owned);
        ["store".to_owned()].into_iter().chain(parts).collect()
    });
    let text = "\nuse crate::{\n    domain::Status,\n    store::{\n        self, Database, ping,\n        \
                audit::{self as log, Actor},\n        jobs::job_list::{self, JobRow},\n        \
                queues,\n    },\n};\n\
                fn act(queues: &[JobRow]) {\n    // queues::comment\n    queues.len();\n    \
                job_list::retry(pool);\n    store::clients::disable(pool);\n    \
                ids.map(queues::pause);\n    ping(pool);\n    log::record(pool);\n    \
                crate::store::settle::apply(pool);\n    job_list::JobRow::new();\n}\n\
                #[cfg(test)]\nmod tests { fn of() { queues::resume() } }\n";
    let found: Vec<_> = store_functions(text, &modules.into()).into_iter().collect();
    let expected = [
        "audit::record",
        "clients::disable",
        "jobs::job_list::retry",
        "ping",
        "queues::pause",
        "settle::apply",
    ];
    assert_eq!(found, expected);
}

/// A file's module, `store::jobs` for `src/store/jobs/mod.rs` below `src`.
fn module(root: &str, file: &Path) -> Vec<String> {
    let parts = file.strip_prefix(root).unwrap().with_extension("");
    let parts = parts.components().map(|part| part.as_os_str().to_string_lossy());
    parts.filter(|part| part != "mod").map(|part| part.into_owned()).collect()
}

/// The paths that a file's `use` lines name, relative ones as they are written; re-exports are
/// none.
fn used_paths(text: &str) -> Vec<Vec<String>> {
    fn flatten(tree: &str, prefix: &[String], found: &mut Vec<Vec<String>>) {
        let (path, list) = match tree.split_once('{') {
            Some((path, list)) => (path, list.rsplit_once('}').map(|(list, _)| list)),
            None => (tree, None),
        };
        let segments = path.split("::").map(str::trim).filter(|segment| !segment.is_empty());
        let name = |segment: &str| segment.split(" as ").next().unwrap().trim().to_owned();
        let path: Vec<String> = prefix.iter().cloned().chain(segments.map(name)).collect();
        let Some(list) = list else {
            found.push(path);
            return;
        };
        let (mut depth, mut start) = (0, 0);
        for (index, character) in list.char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    flatten(&list[start..index], &path, found);
                    start = index + 1;
                }
                _ => {}
            }
        }
        if !list[start..].trim().is_empty() {
            flatten(&list[start..], &path, found);
        }
    }

    let mut found = Vec::new();
    let lines = production(text).lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    for statement in code.split("\nuse ").skip(1) {
        flatten(statement.split(';').next().unwrap(), &[], &mut found);
    }
    found
}

/// Which modules each module below `root` imports: neither those that it lies in nor those within
/// it.
fn imports(root: &str) -> BTreeMap<String, BTreeSet<String>> {
    let files = files(root, &[".rs"]);
    let files: Vec<_> = files.iter().filter(|file| !is_test(file)).collect();
    let modules: BTreeSet<Vec<String>> = files.iter().map(|file| module(root, file)).collect();
    let mut graph = BTreeMap::new();
    for file in files {
        let own = module(root, file);
        let mut imported = BTreeSet::new();
        for path in used_paths(&read(file)) {
            let climbs = path.iter().take_while(|segment| *segment == "super").count();
            let absolute: Vec<String> = match path[0].as_str() {
                "crate" => path[1..].to_vec(),
                "self" => own.iter().chain(&path[1..]).cloned().collect(),
                "super" => {
                    own[..own.len() - climbs].iter().chain(&path[climbs..]).cloned().collect()
                }
                _ => continue,
            };
            let mut starts = (1..=absolute.len()).rev().map(|length| &absolute[..length]);
            let target = starts.find(|start| modules.contains(*start));
            let is_near = |other: &[String]| own.starts_with(other) || other.starts_with(&own);
            imported.extend(target.filter(|other| !is_near(other)).map(|other| other.join("::")));
        }
        graph.insert(own.join("::"), imported);
    }
    graph
}

/// The modules of a circle, if there is one: each imports another one of them.
fn circle(imports: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<&str> {
    let mut left: BTreeSet<&str> = imports.keys().map(String::as_str).collect();
    loop {
        let is_needed = |module: &str| {
            let others = left.iter().filter(|other| **other != module);
            others.clone().any(|other| imports[*other].contains(module))
        };
        let needed: BTreeSet<&str> = left.iter().copied().filter(|left| is_needed(left)).collect();
        if needed.len() == left.len() {
            return left;
        }
        left = needed;
    }
}

#[test]
fn files_do_not_import_one_another_in_circles() {
    for (root, least) in [("src", 200), ("benches/quartet", 20)] {
        let imports = imports(root);
        assert!(imports.len() > least, "{root}: {} modules", imports.len());
        let circle = circle(&imports);
        assert!(
            circle.is_empty(),
            "{root}: these import one another in a circle, or are imported from one; move what \
             both sides need to a file of its own: {circle:#?}"
        );
    }
}

#[test]
fn a_circle_is_found() {
    let of = |list: &[(&str, &[&str])]| -> BTreeMap<String, BTreeSet<String>> {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        list.iter().map(|(name, imports)| ((*name).to_owned(), names(imports))).collect()
    };
    assert!(circle(&of(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &["other"])])).is_empty());
    let found =
        of(&[("main", &["a"]), ("a", &["b"]), ("b", &["c", "d"]), ("c", &["b"]), ("d", &[])]);
    assert!(circle(&found).contains("c"));
}

#[test]
fn used_paths_are_found_in_lists() {
    let text = "\nuse super::{\n    StoreError,\n    jobs::{self, Lease as L},\n};\n\
                use crate::domain::Status;\npub use self::x::Y;\n#[cfg(test)]\nuse super::z;\n";
    let found: Vec<String> = used_paths(text).iter().map(|path| path.join("::")).collect();
    let expected =
        ["super::StoreError", "super::jobs::self", "super::jobs::Lease", "crate::domain::Status"];
    assert_eq!(found, expected);
}

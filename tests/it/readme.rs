//! The README says what the code does.

use quartet::config;

#[test]
fn the_configuration_table_is_the_codes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(path).expect("README.md is there");
    let table = config::reference_table();
    for line in table.lines() {
        assert!(readme.contains(line), "README.md lacks, or has another text for:\n{line}");
    }
    assert!(readme.contains(&table), "the table in README.md has other lines or another order");
}

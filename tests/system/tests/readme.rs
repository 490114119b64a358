//! The table of bad input in the README is true: each test that it names is in the file that it names.

use std::path::Path;

#[test]
fn every_test_that_the_readme_names_is_there() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(here.join("README.md")).unwrap();
    let mut named = 0;
    for row in readme.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, _, test, file, _] = cells[..] else {
            panic!("{row}: a row has three cells");
        };
        let test = test.trim_matches('`');
        let source = here.join(format!("tests/{file}.rs"));
        let source = std::fs::read_to_string(&source).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(
            source.contains(&format!("#[test]\nfn {test}() {{")),
            "{file} has no test {test}"
        );
        named += 1;
    }
    assert!(named > 30, "{named} rows");
}

//! The guide's table of log lines has every line of `src/telemetry/`, and no other line.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A log line: its level, its text and the names of its fields.
type Line = (String, String, Vec<String>);

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Splits the arguments of a macro call at the commas outside brackets and strings. `code` starts after the macro's
/// bracket.
fn arguments(code: &str) -> Vec<String> {
    let (mut depth, mut in_string, mut escaped) = (0, false, false);
    let mut arguments = vec![String::new()];
    for char in code.chars() {
        match char {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            _ if in_string => {}
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => return arguments,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        arguments.last_mut().unwrap().push(char);
    }
    panic!("the call doesn't end: {code}")
}

/// Returns the line of a call of `log!`.
fn line(code: &str) -> Line {
    let arguments = arguments(code);
    let arguments = arguments.iter().map(|each| each.trim());
    let mut arguments: Vec<_> = arguments.filter(|each| !each.is_empty()).collect();
    let text = arguments.pop().expect("a text");
    let text = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    // A backslash at the end of a line also removes the spaces at the start of the next line.
    let parts = text
        .expect("the text is last")
        .split("\\\n")
        .map(str::trim_start);
    let text = parts.collect::<String>();
    let level = arguments.remove(0).to_owned();
    arguments.retain(|each| !each.starts_with("parent:"));
    let name = |field: &str| {
        let (name, _) = field.split_once('=').unwrap_or((field, ""));
        name.trim().trim_start_matches(['?', '%']).to_owned()
    };
    (level, text, arguments.into_iter().map(name).collect())
}

fn lines_of_the_source() -> BTreeSet<Line> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/telemetry");
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let sources = files.filter(|path| path.is_file()).map(read);
    let calls = sources.flat_map(|source| {
        let code = source
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let code = code.collect::<Vec<_>>().join("\n");
        code.split("log!(").skip(1).map(line).collect::<Vec<_>>()
    });
    calls.collect()
}

fn lines_of_the_guide() -> BTreeSet<Line> {
    let guide = read("src/guide/operating.md");
    let rows = guide
        .lines()
        .skip_while(|line| *line != "| level | text | fields | when |");
    let rows = rows.skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let fields = cells[3].split_whitespace();
        let fields = fields.map(|field| field.trim_matches('`').to_owned());
        (
            cells[1].trim_matches('`').to_owned(),
            cells[2].to_owned(),
            fields.collect(),
        )
    })
    .collect()
}

#[test]
fn the_guides_table_has_every_log_line_and_no_other_line() {
    let (source, guide) = (lines_of_the_source(), lines_of_the_guide());
    assert!(source.len() > 25, "{source:?}");
    let missing: Vec<_> = source.difference(&guide).collect();
    let outdated: Vec<_> = guide.difference(&source).collect();
    assert!(
        missing.is_empty() && outdated.is_empty(),
        "`# Logs` in src/guide/operating.md lacks {missing:#?}, and the source lacks {outdated:#?}"
    );
}

/// Other modules report occurrences through `src/telemetry/`.
#[test]
fn only_the_telemetry_folder_logs() {
    fn check(folder: &Path) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if !path.ends_with("telemetry") {
                    check(&path);
                }
                continue;
            }
            if path.extension().is_some_and(|extension| extension == "rs") {
                let source = read(&path);
                let code = source
                    .lines()
                    .filter(|line| !line.trim_start().starts_with("//"));
                for line in code {
                    let macros = [
                        "trace!(", "debug!(", "info!(", "warn!(", "error!(", "event!(",
                    ];
                    let logs = macros
                        .iter()
                        .any(|each| line.contains(&format!("tracing::{each}")));
                    assert!(!logs, "{}: {line}", path.display());
                }
            }
        }
    }
    check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
}

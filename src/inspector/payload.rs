//! The body of an event as indented JSON, as a command line, and as a request of a test.

/// Returns valid JSON with one member or element per line. Strings and numbers stay as they were received. If the indentation would
/// multiply the length, returns the JSON as it is.
pub(super) fn pretty(json: &str) -> String {
    let most = json.len().saturating_mul(4).saturating_add(4096);
    let mut pretty = String::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let mut chars = json.chars().peekable();
    while let Some(c) = chars.next() {
        if pretty.len() > most {
            return json.to_owned();
        }
        match c {
            '"' => {
                pretty.push(c);
                let mut is_escaped = false;
                for c in chars.by_ref() {
                    pretty.push(c);
                    match c {
                        '"' if !is_escaped => break,
                        _ => is_escaped = c == '\\' && !is_escaped,
                    }
                }
            }
            '{' | '[' => {
                pretty.push(c);
                while chars.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(close) = chars.next_if(|c| matches!(c, '}' | ']')) {
                    pretty.push(close);
                } else {
                    depth += 1;
                    line(&mut pretty, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut pretty, depth);
                pretty.push(c);
            }
            ',' => {
                pretty.push(c);
                line(&mut pretty, depth);
            }
            ':' => pretty.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => pretty.push(c),
        }
    }
    pretty
}

fn line(pretty: &mut String, depth: usize) {
    pretty.push('\n');
    for _ in 0..depth {
        pretty.push_str("  ");
    }
}

/// Returns a command line that sends the body to the URL in the variable `URL`.
pub(super) fn curl(body: &str) -> String {
    // A shell reads everything between single quotes as it is.
    let quoted = body.replace('\'', "'\\''");
    format!("curl \"$URL\" -H 'content-type: application/json' --data-raw '{quoted}'")
}

/// Returns the Rust expression of a request with the body, for a test.
pub(super) fn mock_request(event_type: &str, body: &str) -> String {
    // A raw string ends with a quote and as many `#` as it began with.
    let longest = body
        .split('"')
        .skip(1)
        .map(|rest| rest.len() - rest.trim_start_matches('#').len());
    let hashes = "#".repeat(longest.max().map_or(1, |longest| longest + 1));
    // A raw string can't contain a carriage return.
    let literal = if body.contains('\r') {
        format!("{body:?}")
    } else {
        format!("r{hashes}\"{body}\"{hashes}")
    };
    format!("MockRequest::event({event_type:?}).body({literal})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_and_its_values_stay() {
        let json = "{\"a\":[1.50,{}, [ ] ,\"x\\\"y, z\"],\"b\":{\"c\":1e400}}";
        let wanted = "{\n  \"a\": [\n    1.50,\n    {},\n    [],\n    \"x\\\"y, z\"\n  ],\n  \"b\": {\n    \"c\": 1e400\n  }\n}";
        assert_eq!(pretty(json), wanted);
        assert_eq!(pretty(&pretty(json)), wanted);
    }

    #[test]
    fn deep_nesting_doesnt_multiply_the_length() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(pretty(&deep), deep);
    }

    #[test]
    fn quotes_stay_inside_their_literals() {
        assert!(curl("{\"a\":\"it's\"}").ends_with("--data-raw '{\"a\":\"it'\\''s\"}'"));
        assert_eq!(
            mock_request("a.b", "\"##x"),
            "MockRequest::event(\"a.b\").body(r###\"\"##x\"###)"
        );
    }
}

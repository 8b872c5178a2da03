//! Server-sent events, with a limit of their size.

/// The maximum size of a message, in bytes. The feed's longest message has 50 events with 25 attempts each.
const MAX_MESSAGE: usize = 64 << 20;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) name: String,
    pub(super) data: String,
}

/// Reads messages from the chunks of a body.
#[derive(Default)]
pub(super) struct Parser {
    /// The beginning of a line.
    line: Vec<u8>,
    name: String,
    data: String,
}

impl Parser {
    /// Reads a chunk, and returns the messages that it completes.
    ///
    /// Returns an error if a message is too long.
    pub(super) fn read(&mut self, chunk: &[u8]) -> Result<Vec<Message>, &'static str> {
        let mut messages = Vec::new();
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + self.data.len() + part.len() > MAX_MESSAGE {
                return Err("the server sent a message that is too long");
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                let line = String::from_utf8_lossy(&line);
                messages.extend(self.end_line(line.trim_end_matches(['\r', '\n'])));
            }
        }
        Ok(messages)
    }

    fn end_line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            let message = Message {
                name: std::mem::take(&mut self.name),
                data: std::mem::take(&mut self.data),
            };
            return (!message.data.is_empty()).then_some(message);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            // A comment has an empty field.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_may_be_cut_at_any_byte() {
        let text =
            ": ping\n\nevent: events\r\ndata: {\"a\":\"é\"}\r\n\r\nid: 7\n\ndata: 1\ndata:2\n\n";
        let wanted = [("events", "{\"a\":\"é\"}"), ("", "1\n2")];
        for size in 1..=text.len() {
            let mut parser = Parser::default();
            let chunks = text.as_bytes().chunks(size);
            let read = chunks.map(|chunk| parser.read(chunk).expect("the messages are short"));
            let messages: Vec<_> = read.flatten().collect();
            let messages: Vec<_> = messages.iter().map(|m| (&*m.name, &*m.data)).collect();
            assert_eq!(messages, wanted, "{size}");
        }
    }

    #[test]
    fn an_endless_message_is_refused() {
        let mut parser = Parser::default();
        let chunk = vec![b'x'; 8 << 20];
        let results: Vec<_> = (0..9).map(|_| parser.read(&chunk).is_ok()).collect();
        assert_eq!(results.iter().filter(|good| **good).count(), 8);
    }
}

//! What a log line shows of a text that the server did not write.

use std::fmt::{self, Write as _};

use tracing_subscriber::{
    field::MakeExt as _,
    fmt::{FormatFields, format},
};

/// Longest value of a field, in bytes. A panic's backtrace is the longest that is worth reading.
const MAX_VALUE_BYTES: usize = 16 << 10;

/// Writes fields as `name=value`, with every character escaped that could end the line, command a terminal or turn
/// the direction of writing, and long values cut.
pub(super) fn fields() -> impl for<'a> FormatFields<'a> + 'static {
    let write =
        |writer: &mut format::Writer<'_>, field: &tracing::field::Field, value: &dyn fmt::Debug| {
            if field.name() != "message" {
                write!(writer, "{}=", field.name())?;
            }
            let mut printable = Printable { to: writer, left: MAX_VALUE_BYTES };
            match write!(printable, "{value:?}") {
                // The text was cut, which ends it.
                Err(_) if printable.left == 0 => writer.write_str("..."),
                written => written,
            }
        };
    format::debug_fn(write).delimited(" ")
}

/// A writer that escapes what should not reach a reader's terminal.
struct Printable<'w, W> {
    to: &'w mut W,
    /// Bytes of text that may still be written.
    left: usize,
}

impl<W: fmt::Write> fmt::Write for Printable<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let Some(left) = self.left.checked_sub(character.len_utf8()) else {
                self.left = 0;
                return Err(fmt::Error);
            };
            self.left = left;
            if is_harmful(character) {
                write!(self.to, "{}", character.escape_default())?;
            } else {
                self.to.write_char(character)?;
            }
        }
        Ok(())
    }
}

/// Control characters (a newline, ESC, the C1 controls among them), separators of lines, and marks that turn the
/// direction of writing or are invisible.
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{061C}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(text: &str, bytes: usize) -> String {
        let mut to = String::new();
        let mut printable = Printable { to: &mut to, left: bytes };
        let _ = printable.write_str(text);
        to
    }

    #[test]
    fn nothing_ends_the_line_or_reaches_the_terminal() {
        for (text, shown) in [
            ("a\nERROR forged", "a\\nERROR forged"),
            ("\u{1b}[2J\u{7}\r", "\\u{1b}[2J\\u{7}\\r"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("\u{202e}gnp.exe\u{2066}", "\\u{202e}gnp.exe\\u{2066}"),
            ("\u{2028}\u{2029}\u{feff}", "\\u{2028}\\u{2029}\\u{feff}"),
            ("고양이 café \"quoted\" 猫", "고양이 café \"quoted\" 猫"),
        ] {
            assert_eq!(printed(text, 1000), shown);
        }
    }

    #[test]
    fn long_values_are_cut_at_a_character() {
        assert_eq!(printed("abc", 2), "ab");
        assert_eq!(printed("고양이", 4), "고");
    }
}

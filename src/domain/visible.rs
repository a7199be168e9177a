//! Escapes control and format characters in others' text before people see it.
//!
//! A reference, a note, a client's name or a peer's answer may hold escape sequences that drive a
//! terminal, marks that turn the direction of writing around (U+202E), or characters of no width.
//! Everything that a command, a page of the console or a log line shows goes through here. The
//! escapes are those of JSON, so that JSON stays JSON, with the same values.

use std::{borrow::Cow, fmt::Write};

use icu_properties::{CodePointMapData, props::GeneralCategory};

/// The text with every control and format character written as `\u202e`. Line breaks and tabs stay.
pub fn visible(text: &str) -> Cow<'_, str> {
    // A carriage return alone goes back over what the line says.
    let is_line_break = |at: usize, c| match c {
        '\n' | '\t' => true,
        '\r' => text[at + 1..].starts_with('\n'),
        _ => false,
    };
    escape(text, |at, c| is_invisible(c) && !is_line_break(at, c))
}

/// The same on one line: line breaks and tabs are written as `\n`, `\r` and `\t`.
pub fn visible_line(text: &str) -> Cow<'_, str> {
    escape(text, |_, c| is_invisible(c))
}

fn escape(text: &str, is_escaped: impl Fn(usize, char) -> bool) -> Cow<'_, str> {
    let Some((first, _)) = text.char_indices().find(|(at, c)| is_escaped(*at, *c)) else {
        return Cow::Borrowed(text);
    };
    let mut escaped = text[..first].to_owned();
    for (at, c) in text[first..].char_indices() {
        if !is_escaped(first + at, c) {
            escaped.push(c);
            continue;
        }
        match c {
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // A String takes everything.
                    let _ = write!(escaped, "\\u{unit:04x}");
                }
            }
        }
    }
    Cow::Owned(escaped)
}

/// Whether a character is invisible, and may change how others are displayed.
fn is_invisible(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    matches!(
        CodePointMapData::<GeneralCategory>::new().get(c),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_does_not_show_is_escaped_and_everything_else_stays() {
        for (text, escaped) in [
            ("\u{1b}[2J\u{1b}]0;title\u{7}", "\\u001b[2J\\u001b]0;title\\u0007"),
            ("paid \u{202e}gpj.exe\u{202c}", "paid \\u202egpj.exe\\u202c"),
            ("\u{200b}\u{200d}\u{2066}\u{feff}\u{ad}", "\\u200b\\u200d\\u2066\\ufeff\\u00ad"),
            ("\u{9b}31m\u{7f}\0", "\\u009b31m\\u007f\\u0000"),
            ("\u{2028}\u{2029}", "\\u2028\\u2029"),
            // Tags, which spell text that nobody sees.
            ("\u{e0041}", "\\udb40\\udc41"),
            ("one\ntwo\tthree\r\nfour", "one\ntwo\tthree\r\nfour"),
            ("refused\rsettled", "refused\\rsettled"),
            ("Größe 12 € · 支付 ✓ דוח", "Größe 12 € · 支付 ✓ דוח"),
            ("", ""),
        ] {
            assert_eq!(visible(text), escaped, "{text:?}");
        }
        assert_eq!(visible_line("a\n2026 ERROR b\r\n\tc"), "a\\n2026 ERROR b\\r\\n\\tc");
    }

    proptest! {
        #[test]
        fn nothing_invisible_is_left_and_json_keeps_its_value(text in any::<String>()) {
            prop_assert!(!visible_line(&text).chars().any(is_invisible));
            let escaped = visible(&text);
            prop_assert_eq!(visible(&escaped), escaped.clone());
            let json = serde_json::to_string(&text).unwrap();
            let read: String = serde_json::from_str(&visible_line(&json)).unwrap();
            prop_assert_eq!(read, text);
        }
    }
}

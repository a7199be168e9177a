//! Numbers with units, as pages and settings write them.

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Quantity {
    Number(f64),
    Seconds(f64),
    Bytes(f64),
}

/// Every quantity in a text: `64 KiB`, `1.8 s`, `15m`, `4,096`.
pub fn all(text: &str) -> Vec<Quantity> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(|character: char| character.is_ascii_digit()) {
        let is_word = rest[..start].ends_with(|character: char| character.is_alphanumeric());
        rest = &rest[start..];
        let end =
            rest.find(|character: char| !(character.is_ascii_digit() || ".,".contains(character)));
        let (digits, after) = rest.split_at(end.unwrap_or(rest.len()));
        let digits = digits.trim_end_matches(['.', ',']).replace(',', "");
        let after_digits = after;
        rest = after;
        let (Ok(number), false) = (digits.parse::<f64>(), is_word) else { continue };
        let word = after_digits.trim_start_matches(' ');
        let unit = &word[..word.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(word.len())];
        found.push(match unit {
            "ms" => Quantity::Seconds(number / 1_000.0),
            "s" | "second" | "seconds" => Quantity::Seconds(number),
            "m" | "min" | "minute" | "minutes" => Quantity::Seconds(number * 60.0),
            "h" | "hour" | "hours" => Quantity::Seconds(number * 3_600.0),
            "d" | "day" | "days" => Quantity::Seconds(number * 86_400.0),
            "KiB" => Quantity::Bytes(number * 1_024.0),
            "MiB" => Quantity::Bytes(number * 1_024.0 * 1_024.0),
            _ => Quantity::Number(number),
        });
    }
    found
}

/// The first quantity in a text.
pub fn first(text: &str) -> Option<Quantity> {
    all(text).first().copied()
}

#[test]
fn quantities_are_read_with_their_units() {
    use Quantity::{Bytes, Number, Seconds};
    assert_eq!(
        all("64 KiB, 1.8 s, 15m, 7d"),
        [Bytes(65_536.0), Seconds(1.8), Seconds(900.0), Seconds(604_800.0)]
    );
    assert_eq!(all("4,096, of which 2; HTTP2 and v1"), [Number(4_096.0), Number(2.0)]);
    assert_eq!(first("none"), None);
}

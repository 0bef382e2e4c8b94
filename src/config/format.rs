//! How the value of an option is written: as one text on the command line and in the environment, as a typed value in
//! the file. Both become the same items of text, which one reader turns into the option's type.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// One kibibyte.
pub const KIB: u64 = 1 << 10;
/// One mebibyte.
pub const MIB: u64 = 1 << 20;
/// One gibibyte.
pub const GIB: u64 = 1 << 30;

/// Units a number of bytes may carry, the largest first.
const BYTE_UNITS: [(&str, u64); 3] = [("GiB", GIB), ("MiB", MIB), ("KiB", KIB)];

/// What is wrong with a value; `None` when saying what is allowed says it all.
pub type Refusal = Option<String>;

/// Reads the items of a value: exactly one, unless the shape is a list.
type Reader<T> = Box<dyn Fn(&[String]) -> Result<T, Refusal>>;

/// How the values of one option are written and read.
pub struct Format<T> {
    pub placeholder: &'static str,
    pub allowed: String,
    pub shape: Shape,
    /// The value may hold a password and is shown nowhere.
    pub secret: bool,
    reader: Reader<T>,
}

/// How a value is written in each source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `true` or `false`; a flag without a value means `true`.
    Switch,
    /// An integer.
    Number,
    /// An integer, or a text with a unit.
    Bytes,
    /// One text.
    Text,
    /// Texts: separated by commas, by repeating the flag, or as an array in the file.
    List,
}

impl<T> Format<T> {
    /// The value that `items` stand for.
    pub fn read(&self, items: &[String]) -> Result<T, Refusal> {
        (self.reader)(items)
    }

    /// The same, but never shown.
    pub fn secret(self) -> Self {
        Format { secret: true, ..self }
    }

    fn shaped(self, shape: Shape) -> Self {
        Format { shape, ..self }
    }
}

impl<T: 'static> Format<T> {
    /// The same, where an empty text means none.
    pub fn optional(self) -> Format<Option<T>> {
        let Format { placeholder, allowed, shape, secret, reader } = self;
        let reader: Reader<Option<T>> = Box::new(move |items| match items {
            [item] if item.is_empty() => Ok(None),
            items => reader(items).map(Some),
        });
        Format { placeholder, allowed, shape, secret, reader }
    }
}

/// `true` or `false`.
pub fn switch() -> Format<bool> {
    text("BOOL", "true or false", |text| text.parse().map_err(|_| None)).shaped(Shape::Switch)
}

/// A whole number within `range`, which `T` must be able to hold.
pub fn number<T: TryFrom<u64> + 'static>(placeholder: &'static str, range: RangeInclusive<u64>) -> Format<T> {
    let allowed = format!("a whole number from {} to {}", range.start(), range.end());
    text(placeholder, &allowed, move |text| within(u64::from_str(text).ok(), &range)).shaped(Shape::Number)
}

/// A number of bytes within `range`, which `T` must be able to hold.
pub fn bytes<T: TryFrom<u64> + 'static>(range: RangeInclusive<u64>) -> Format<T> {
    let (min, max) = (with_unit(*range.start()), with_unit(*range.end()));
    let allowed = format!("a number of bytes from {min} to {max}, such as 65536 or \"64 KiB\" (KiB, MiB, GiB)");
    text("BYTES", &allowed, move |text| within(parse_bytes(text), &range)).shaped(Shape::Bytes)
}

/// A text that `read` takes.
pub fn text<T>(
    placeholder: &'static str,
    allowed: &str,
    read: impl Fn(&str) -> Result<T, Refusal> + 'static,
) -> Format<T> {
    let reader: Reader<T> = Box::new(move |items| read(&items.concat()));
    Format { placeholder, allowed: allowed.to_owned(), shape: Shape::Text, secret: false, reader }
}

/// A text that its type can parse.
pub fn parsed<T: FromStr<Err: fmt::Display>>(placeholder: &'static str, allowed: &str) -> Format<T> {
    text(placeholder, allowed, |text| text.parse().map_err(|error: T::Err| Some(error.to_string())))
}

/// Texts that `read` takes together.
pub fn list<T>(
    placeholder: &'static str,
    allowed: &str,
    read: impl Fn(&[String]) -> Result<T, Refusal> + 'static,
) -> Format<T> {
    Format { placeholder, allowed: allowed.to_owned(), shape: Shape::List, secret: false, reader: Box::new(read) }
}

fn within<T: TryFrom<u64>>(number: Option<u64>, range: &RangeInclusive<u64>) -> Result<T, Refusal> {
    let number = number.filter(|number| range.contains(number)).ok_or(None)?;
    T::try_from(number).map_err(|_| None)
}

fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor = match text[digits.len()..].trim() {
        "" => 1,
        unit => BYTE_UNITS.iter().find(|(name, _)| *name == unit)?.1,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

fn with_unit(bytes: u64) -> String {
    match BYTE_UNITS.iter().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{} {unit}", bytes / factor),
        None => bytes.to_string(),
    }
}

impl Shape {
    /// The items of a value given as text.
    pub fn items_of_text(self, text: &str) -> Vec<String> {
        match self {
            Shape::List if text.trim().is_empty() => Vec::new(),
            Shape::List => text.split(',').map(|item| item.trim().to_owned()).collect(),
            _ => vec![text.to_owned()],
        }
    }

    /// The items of a value given in the file; `None` if its type is the wrong one.
    pub fn items_of_toml(self, value: &toml::Value) -> Option<Vec<String>> {
        use toml::Value::{Array, Boolean, Integer, String};
        match (self, value) {
            (Shape::Switch, Boolean(value)) => Some(vec![value.to_string()]),
            (Shape::Number | Shape::Bytes, Integer(value)) => Some(vec![value.to_string()]),
            (Shape::Bytes | Shape::Text | Shape::List, String(text)) => Some(self.items_of_text(text)),
            (Shape::List, Array(items)) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            _ => None,
        }
    }

    /// The type the file must give it.
    pub fn toml_type(self) -> &'static str {
        match self {
            Shape::Switch => "a boolean",
            Shape::Number => "an integer",
            Shape::Bytes => "an integer or a string",
            Shape::Text => "a string",
            Shape::List => "a string or an array of strings",
        }
    }

    /// A default as the file would state it.
    pub fn default_in_toml(self, default: &str) -> String {
        match self {
            Shape::Switch | Shape::Number => default.to_owned(),
            Shape::List if default.is_empty() => "[]".to_owned(),
            Shape::Bytes | Shape::Text | Shape::List => toml::Value::from(default).to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_with_and_without_a_unit() {
        let cases = [
            ("0", Some(0)),
            ("65536", Some(65536)),
            ("64KiB", Some(64 * KIB)),
            ("64 KiB", Some(64 * KIB)),
            ("16 MiB", Some(16 * MIB)),
            ("1GiB", Some(GIB)),
            ("", None),
            ("KiB", None),
            ("-1", None),
            ("1.5 MiB", None),
            ("64 kb", None),
            ("1 1 KiB", None),
            ("64 ü", None),
            ("18446744073709551615 KiB", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_bytes(text), bytes, "{text:?}");
        }
    }

    #[test]
    fn bytes_are_shown_in_the_largest_unit_that_is_exact() {
        let shown = [0, 1, KIB, 1536 * KIB, 16 * MIB, GIB].map(with_unit);
        assert_eq!(shown, ["0", "1", "1 KiB", "1536 KiB", "16 MiB", "1 GiB"]);
    }

    #[test]
    fn a_number_too_large_for_its_type_is_refused_rather_than_cut() {
        let format: Format<u8> = number("N", 0..=1000);
        assert_eq!(format.read(&["255".to_owned()]), Ok(255));
        assert_eq!(format.read(&["256".to_owned()]), Err(None));
    }

    #[test]
    fn an_array_holds_strings_only() {
        let array = toml::Value::Array(vec!["a".into(), 1.into()]);
        assert_eq!(Shape::List.items_of_toml(&array), None);
    }
}

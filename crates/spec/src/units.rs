//! Durations and sizes as people write them: `200ms`, `1h30m`, `512MiB`.

use model::Millis;
use std::ops::RangeInclusive;

/// Units of time, longest first, in milliseconds.
const TIME: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Units of size in bytes.
const SIZE: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// What a duration looks like, for JSON Schema.
pub(crate) const DURATION_PATTERN: &str = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$";
/// What a size looks like, for JSON Schema.
pub(crate) const SIZE_PATTERN: &str = r"^[0-9]+(\.[0-9]+)?(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)$";

/// Why a text is no duration or size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    /// What is wrong with the text, as a sentence without a subject: "has no unit".
    pub(crate) problem: String,
    /// How it is to be written, if that can be guessed.
    pub(crate) instead: Option<String>,
}

impl Unreadable {
    fn new(problem: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            instead: None,
        }
    }

    fn instead(self, instead: impl Into<String>) -> Self {
        Self {
            instead: Some(instead.into()),
            ..self
        }
    }
}

/// Reads `1h30m`: one or more numbers, each with its unit, the longest unit first.
pub(crate) fn duration(text: &str) -> Result<Millis, Unreadable> {
    let mut total: u64 = 0;
    let mut smallest = u64::MAX;
    let mut rest = text;
    if text.is_empty() {
        return Err(Unreadable::new("is empty"));
    }
    while !rest.is_empty() {
        let (number, after) = split_number(rest);
        let unit_length = after
            .find(|c: char| !c.is_alphabetic() && c != 'µ')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_length);
        if number.is_empty() {
            return Err(not_a_number(text, "a duration"));
        }
        if unit.is_empty() && after.is_empty() {
            let error = Unreadable::new("has no unit");
            return Err(if number == text {
                error.instead(format!("{text}s"))
            } else {
                error
            });
        }
        if unit.is_empty() {
            return Err(not_a_number(text, "a duration"));
        }
        let Some((_, millis)) = TIME.iter().find(|(name, _)| *name == unit) else {
            let error = Unreadable::new(format!("has the unknown unit `{unit}`; there are ms, s, m, h and d"));
            return Err(match time_unit_meant_by(unit) {
                Some(meant) if number.len() + unit.len() == text.len() => error.instead(format!("{number}{meant}")),
                _ => error,
            });
        };
        if *millis >= smallest {
            return Err(Unreadable::new(
                "must have its units from long to short, each once, as in `1h30m`",
            ));
        }
        smallest = *millis;
        let part = scaled(number, *millis, "milliseconds")?;
        total = total.checked_add(part).ok_or_else(too_large)?;
        rest = after;
    }
    Ok(Millis(total))
}

/// A bare number with the unit that the example of its key has, or else another one in which the key allows it; seconds first. `None` if the text
/// is no bare number.
pub(crate) fn with_likely_unit(text: &str, example: Option<&str>, allowed: RangeInclusive<Millis>) -> Option<String> {
    let (number, rest) = split_number(text);
    if number.is_empty() || !rest.is_empty() {
        return None;
    }
    let example = example.map(|example| example.trim_matches('"'));
    let unit = example.map(|example| example.trim_start_matches(|c: char| !c.is_alphabetic()));
    // Of `1h30m` no single unit is the usual one.
    let usual = TIME.iter().map(|(name, _)| *name).find(|name| Some(*name) == unit);
    usual
        .into_iter()
        .chain(["s", "ms", "m", "h", "d"])
        .map(|unit| format!("{number}{unit}"))
        .find(|text| duration(text).is_ok_and(|span| allowed.contains(&span)))
}

/// Reads `512MiB`: a number and a unit.
pub(crate) fn size(text: &str) -> Result<u64, Unreadable> {
    let (number, unit) = split_number(text);
    if text.is_empty() {
        return Err(Unreadable::new("is empty"));
    }
    if number.is_empty() {
        return Err(not_a_number(text, "a size"));
    }
    if unit.is_empty() {
        return Err(Unreadable::new("has no unit").instead(format!("{number}B")));
    }
    match SIZE.iter().find(|(name, _)| *name == unit) {
        Some((_, bytes)) => scaled(number, *bytes, "bytes"),
        None => {
            let error = Unreadable::new(format!(
                "has the unknown unit `{}`; there are B, kB, MB, GB, TB and KiB, MiB, GiB, TiB",
                crate::source::shown(unit)
            ));
            Err(match size_unit_meant_by(unit.trim()) {
                Some(meant) => error.instead(format!("{number}{meant}")),
                None => error,
            })
        }
    }
}

/// A size as people write it, exact: in the largest unit in which it is a whole number.
pub(crate) fn show_size(bytes: u64) -> String {
    let mut best = ("B", 1);
    for (unit, factor) in SIZE {
        if bytes != 0 && bytes.is_multiple_of(factor) && factor > best.1 {
            best = (unit, factor);
        }
    }
    format!("{}{}", bytes / best.1, best.0)
}

fn split_number(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len()),
    )
}

fn not_a_number(text: &str, what: &str) -> Unreadable {
    let joined: String = text.split_whitespace().collect();
    let problem = if text.starts_with('-') {
        "must not be negative".to_owned()
    } else if joined != text {
        "must not have spaces in it".to_owned()
    } else {
        format!("is not {what}, which is a number with its unit")
    };
    let error = Unreadable::new(problem);
    if joined != text && duration(&joined).is_ok() {
        error.instead(joined)
    } else {
        error
    }
}

/// `number` times `factor`, exactly.
fn scaled(number: &str, factor: u64, unit: &str) -> Result<u64, Unreadable> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || (number.contains('.') && !digits(fraction)) {
        return Err(Unreadable::new(format!("has `{number}` where a number must be")));
    }
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let fraction = fraction.trim_end_matches('0');
    let mut total = whole.checked_mul(factor).ok_or_else(too_large)?;
    if !fraction.is_empty() {
        let power = u32::try_from(fraction.len())
            .ok()
            .and_then(|len| 10_u128.checked_pow(len));
        let value = fraction
            .parse::<u128>()
            .ok()
            .and_then(|value| value.checked_mul(u128::from(factor)));
        let part = match (value, power) {
            (Some(value), Some(power)) if value % power == 0 => u64::try_from(value / power).ok(),
            _ => None,
        };
        let Some(part) = part else {
            return Err(Unreadable::new(format!("is not a whole number of {unit}")));
        };
        total = total.checked_add(part).ok_or_else(too_large)?;
    }
    Ok(total)
}

fn too_large() -> Unreadable {
    Unreadable::new("is too large")
}

fn time_unit_meant_by(unit: &str) -> Option<&'static str> {
    match unit.to_lowercase().as_str() {
        "sec" | "secs" | "second" | "seconds" | "s" => Some("s"),
        "min" | "mins" | "minute" | "minutes" | "m" => Some("m"),
        "hour" | "hours" | "hr" | "hrs" | "h" => Some("h"),
        "day" | "days" | "d" => Some("d"),
        "msec" | "millis" | "milliseconds" | "ms" => Some("ms"),
        _ => None,
    }
}

fn size_unit_meant_by(unit: &str) -> Option<&'static str> {
    match unit.to_lowercase().as_str() {
        "b" | "byte" | "bytes" => Some("B"),
        "k" | "kb" => Some("kB"),
        "m" | "mb" => Some("MB"),
        "g" | "gb" => Some("GB"),
        "t" | "tb" => Some("TB"),
        "ki" | "kib" => Some("KiB"),
        "mi" | "mib" => Some("MiB"),
        "gi" | "gib" => Some("GiB"),
        "ti" | "tib" => Some("TiB"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{duration, show_size, size, with_likely_unit};
    use model::Millis;

    #[test]
    fn durations_as_people_write_them() {
        for (text, millis) in [
            ("200ms", 200),
            ("1s", 1_000),
            ("1.5s", 1_500),
            ("0.001s", 1),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("1d", 86_400_000),
            ("0s", 0),
            ("1.50s", 1_500),
        ] {
            assert_eq!(duration(text).unwrap().0, millis, "{text}");
        }
    }

    #[test]
    fn a_bare_number_is_given_the_unit_that_is_likely_for_its_key() {
        let within = |min, max| Millis(min)..=Millis(max);
        let told = |text, example, allowed| with_likely_unit(text, example, allowed);
        let hour = || within(10, 3_600_000);
        assert_eq!(told("300", Some(r#""200ms""#), hour()).as_deref(), Some("300ms"));
        assert_eq!(told("300", Some(r#""10s""#), hour()).as_deref(), Some("300s"));
        assert_eq!(
            told("5", Some(r#""200ms""#), hour()).as_deref(),
            Some("5s"),
            "5ms is too short there"
        );
        assert_eq!(
            told("9000", Some(r#""10s""#), hour()).as_deref(),
            Some("9000ms"),
            "9000s are too long there"
        );
        assert_eq!(told("300", None, hour()).as_deref(), Some("300s"));
        assert_eq!(told("300", Some(r#""1h30m""#), hour()).as_deref(), Some("300s"));
        assert_eq!(told("300s", None, hour()), None);
        assert_eq!(told("0", None, hour()), None, "in no unit");
    }

    #[test]
    fn what_is_no_duration_says_why_and_what_instead() {
        let told = |text: &str| {
            let error = duration(text).unwrap_err();
            format!("{} {}", error.problem, error.instead.unwrap_or_default())
        };
        assert_eq!(told("5"), "has no unit 5s");
        assert_eq!(
            told("5sec"),
            "has the unknown unit `sec`; there are ms, s, m, h and d 5s"
        );
        assert_eq!(told("1h 30m"), "must not have spaces in it 1h30m");
        assert_eq!(told("5 s"), "must not have spaces in it 5s");
        assert_eq!(told("-1s"), "must not be negative ");
        assert_eq!(told("0.5ms"), "is not a whole number of milliseconds ");
        assert_eq!(
            told("30m1h"),
            "must have its units from long to short, each once, as in `1h30m` "
        );
        assert_eq!(told("1.2.3s"), "has `1.2.3` where a number must be ");
        assert_eq!(told("99999999999999999999d"), "is too large ");
        assert_eq!(told("18446744073709551615d"), "is too large ");
        assert_eq!(told("soon"), "is not a duration, which is a number with its unit ");
        assert_eq!(told(""), "is empty ");
    }

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [("10MB", 10_000_000), ("512MiB", 512 << 20), ("1.5kB", 1_500), ("0B", 0)] {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        assert_eq!(size("512").unwrap_err().instead.as_deref(), Some("512B"));
        assert_eq!(size("512M").unwrap_err().instead.as_deref(), Some("512MB"));
        assert_eq!(size("1.0001kB").unwrap_err().problem, "is not a whole number of bytes");
    }

    #[test]
    fn sizes_are_shown_as_they_were_written() {
        for text in ["10MB", "512MiB", "1kB", "0B", "17B", "1TiB"] {
            assert_eq!(show_size(size(text).unwrap()), text);
        }
    }
}

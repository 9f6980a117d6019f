//! Words on lines: spans, counts, wrapping, cutting, and keeping foreign control characters off the terminal.

use std::time::Duration;

/// A span as people read it, to two units: `412ms`, `12s`, `3m12s`, `2h5m`, `4d1h`.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let two = |large: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit}{small}{small_unit}"),
    };
    match seconds {
        0 if span.is_zero() => "0s".into(),
        0 => format!("{}ms", span.as_millis().max(1)),
        1..60 => format!("{seconds}s"),
        60..3_600 => two(seconds / 60, "m", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// A number in groups of three: `1,204`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Microseconds: `3,488 µs`.
pub(crate) fn micros(us: u64) -> String {
    format!("{} µs", count(us))
}

/// One line without control characters: what comes from outside never moves the reader's cursor.
pub(crate) fn clean(text: &str) -> String {
    text.trim_end()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// A line of a program's log for a terminal: tabs and colours stay, every other control character becomes visible.
pub(crate) fn clean_log(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        if let Some(colour) = colour_sequence(rest) {
            out.push_str(colour);
            rest = &rest[colour.len()..];
            continue;
        }
        match c {
            '\t' => out.push('\t'),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
        rest = &rest[c.len_utf8()..];
    }
    if out.contains('\u{1b}') {
        // A program that was killed while it wrote in red must not colour what follows.
        out.push_str("\u{1b}[0m");
    }
    out
}

/// The colour sequence (`ESC [ digits m`) that the text begins with, if it does.
fn colour_sequence(text: &str) -> Option<&str> {
    let body = text.strip_prefix("\u{1b}[")?;
    let end = body.find(|c: char| !(c.is_ascii_digit() || c == ';' || c == ':'))?;
    body[end..].starts_with('m').then(|| &text[..2 + end + 1])
}

/// The text in at most `width` columns, its end replaced by `…` if need be.
pub(crate) fn elide(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// The text in lines of at most `width` columns, broken at spaces; a longer word gets a line of its own.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut columns = 0;
    for word in text.split_whitespace() {
        let wide = word.chars().count();
        if columns > 0 && columns + 1 + wide > width {
            lines.push(std::mem::take(&mut line));
            columns = 0;
        }
        if columns > 0 {
            line.push(' ');
            columns += 1;
        }
        line.push_str(word);
        columns += wide;
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// The text after `first`, wrapped, further lines indented to where the text began. Ends with a line break.
pub(crate) fn hanging(first: &str, text: &str, width: usize) -> String {
    let indent = first.chars().count();
    let mut out = String::new();
    for (index, line) in wrap(&clean(text), width.saturating_sub(indent).max(20))
        .iter()
        .enumerate()
    {
        if index == 0 {
            out.push_str(first);
        } else {
            out.extend(std::iter::repeat_n(' ', indent));
        }
        out.push_str(line);
        out.push('\n');
    }
    if out.is_empty() {
        out.push_str(first.trim_end());
        out.push('\n');
    }
    out
}

/// The first `width` columns of a line that may contain colours.
pub(crate) fn crop(line: &str, width: usize) -> String {
    let mut out = String::with_capacity(line.len());
    let mut columns = 0;
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        if let Some(colour) = colour_sequence(rest) {
            out.push_str(colour);
            rest = &rest[colour.len()..];
            continue;
        }
        if columns < width {
            out.push(c);
            columns += 1;
        }
        rest = &rest[c.len_utf8()..];
    }
    out
}

/// JSON with line breaks and two spaces of indent, otherwise exactly as it came: order of fields, numbers and all.
pub(crate) fn pretty_json(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len() * 2);
    let mut depth = 0_usize;
    let mut characters = raw
        .chars()
        .filter({
            // Outside of strings white space means nothing.
            let (mut in_string, mut escaped) = (false, false);
            move |c| {
                let keep = in_string || !c.is_ascii_whitespace();
                match (in_string, escaped, *c) {
                    (true, true, _) => escaped = false,
                    (true, false, '\\') => escaped = true,
                    (_, false, '"') => in_string = !in_string,
                    _ => {}
                }
                keep
            }
        })
        .peekable();
    let (mut in_string, mut escaped) = (false, false);
    while let Some(c) = characters.next() {
        if in_string {
            out.push(c);
            match (escaped, c) {
                (true, _) => escaped = false,
                (false, '\\') => escaped = true,
                (false, '"') => in_string = false,
                _ => {}
            }
            continue;
        }
        match c {
            '{' | '[' => {
                out.push(c);
                if characters.peek() == Some(&(if c == '{' { '}' } else { ']' })) {
                    out.extend(characters.next());
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c => {
                in_string = c == '"';
                out.push(c);
            }
        }
    }
    out
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        let said: Vec<String> = [0, 412, 12_000, 60_000, 192_000, 7_500_000, 349_200_000]
            .map(|ms| span(Duration::from_millis(ms)))
            .into();
        insta::assert_snapshot!(said.join(" "), @"0s 412ms 12s 1m 3m12s 2h5m 4d1h");
    }

    #[test]
    fn counts_are_grouped() {
        let said: Vec<String> = [0, 999, 1_000, 1_234_567].map(count).into();
        insta::assert_snapshot!(said.join(" "), @"0 999 1,000 1,234,567");
    }

    #[test]
    fn json_is_indented_and_otherwise_untouched() {
        let raw = r#"{"z":1.50,"a":[1,{"s":"a \" {,: b"}],"e":{},"f":[], "n":null}"#;
        let pretty = pretty_json(raw);
        insta::assert_snapshot!(pretty, @r#"
        {
          "z": 1.50,
          "a": [
            1,
            {
              "s": "a \" {,: b"
            }
          ],
          "e": {},
          "f": [],
          "n": null
        }
        "#);
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&pretty).unwrap(),
            serde_json::from_str::<serde_json::Value>(raw).unwrap()
        );
        assert_eq!(pretty_json(&pretty), pretty, "it is its own fixed point");
    }

    #[test]
    fn foreign_control_characters_never_reach_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\r\nc\n"), "a [2Jb  c");
        assert_eq!(clean_log("a\tb\u{1b}[2Jc\u{7}"), "a\tb\\u{1b}[2Jc\\u{7}");
        assert_eq!(clean_log("\u{1b}[31mred"), "\u{1b}[31mred\u{1b}[0m");
    }

    #[test]
    fn lines_break_at_spaces_and_long_words_stand_alone() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("a averyverylongword b", 5), ["a", "averyverylongword", "b"]);
        assert_eq!(
            hanging("x: ", "aa bb cc dd ee ff gg hh ii", 23),
            "x: aa bb cc dd ee ff gg\n   hh ii\n"
        );
        assert_eq!(hanging("x: ", "", 23), "x:\n");
    }

    #[test]
    fn cropping_counts_columns_not_colours() {
        assert_eq!(crop("\u{1b}[1mabc\u{1b}[0mdef", 4), "\u{1b}[1mabc\u{1b}[0md");
        assert_eq!(elide("abcdef", 4), "abc…");
        assert_eq!(elide("abcd", 4), "abcd");
    }
}

//! Line and column of every place in a text, without going through the text for each: a model says where each of its events stands.

/// A mark is noted each so many bytes, so that no more than these are counted for a place.
const BETWEEN_MARKS: usize = 256;

/// Where lines begin, as far as it must be known.
#[derive(Debug)]
pub(super) struct Places<'a> {
    text: &'a str,
    /// The first character at or after each multiple of [`BETWEEN_MARKS`], with its line and column.
    marks: Vec<(usize, u32, u32)>,
}

impl<'a> Places<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let mut marks = Vec::with_capacity(text.len() / BETWEEN_MARKS + 1);
        let (mut line, mut column) = (1, 1);
        for (at, character) in text.char_indices() {
            if at >= marks.len() * BETWEEN_MARKS {
                marks.push((at, line, column));
            }
            (line, column) = after(character, line, column);
        }
        Self { text, marks }
    }

    /// Line and column of the character at a byte, both from 1; past the end, where the text ends.
    pub(super) fn of_byte(&self, byte: usize) -> (u32, u32) {
        let next = self.marks.partition_point(|(at, ..)| *at <= byte);
        let (from, line, column) = match next.checked_sub(1) {
            Some(mark) => self.marks[mark],
            None => (0, 1, 1),
        };
        let rest = self.text[from..].char_indices();
        rest.take_while(|(at, _)| from + at < byte)
            .fold((line, column), |(line, column), (_, character)| {
                after(character, line, column)
            })
    }
}

fn after(character: char, line: u32, column: u32) -> (u32, u32) {
    match character {
        '\n' => (line.saturating_add(1), 1),
        _ => (line, column.saturating_add(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_that_one_counts_by_hand() {
        let places = Places::of("one\nzwei — drei\n\nvier");
        for (byte, place) in [
            (0, (1, 1)),
            (3, (1, 4)),
            (4, (2, 1)),
            (13, (2, 8)),
            (17, (2, 12)),
            (18, (3, 1)),
            (19, (4, 1)),
        ] {
            assert_eq!(places.of_byte(byte), place, "at {byte}");
        }
        assert_eq!(places.of_byte(1_000), (4, 5));
        assert_eq!(Places::of("").of_byte(0), (1, 1));
    }

    #[test]
    fn places_far_into_a_text_are_those_of_the_parser() {
        let mut text = String::from("<a>");
        for number in 0..2_000 {
            text.push_str(["<b/>", "<é>—</é>\n", "  <c/>\r\n\n"][number % 3]);
        }
        text.push_str("</a>");
        let document = roxmltree::Document::parse(&text).unwrap();
        let places = Places::of(&text);
        for node in document.descendants() {
            let at = document.text_pos_at(node.range().start);
            assert_eq!(places.of_byte(node.range().start), (at.row, at.col));
        }
    }
}

//! Finds the end of a chunked body that is passed on as it is.

/// Size lines and trailers longer than this are not from a sane server.
const LINE_BYTES_MAX: u32 = 16 * 1024;

/// Reads along a chunked body.
#[derive(Debug)]
pub(super) struct Scanner {
    state: State,
    size: u64,
    digits: u32,
    line: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    SizeEnd,
    Data,
    DataReturn,
    DataEnd,
    /// At the beginning of a trailer line, or of the last, empty line.
    Trailer,
    TrailerLine,
    TrailerEnd,
    LastEnd,
    Done,
}

/// The body is not chunked as it should be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it sent a chunked body with a mistake in it")]
pub(super) struct Malformed;

impl Scanner {
    pub(super) fn new() -> Self {
        Self {
            state: State::Size,
            size: 0,
            digits: 0,
            line: 0,
        }
    }

    /// Reads on; says how many of the bytes belong to the body once its end is among them.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let mut at = 0;
        while at < bytes.len() {
            if self.state == State::Data {
                let step = self.size.min((bytes.len() - at) as u64);
                self.size -= step;
                at += usize::try_from(step).unwrap_or(usize::MAX);
                if self.size == 0 {
                    self.state = State::DataReturn;
                }
                continue;
            }
            self.state = self.next(bytes[at])?;
            at += 1;
            if self.state == State::Done {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    fn next(&mut self, byte: u8) -> Result<State, Malformed> {
        self.line += 1;
        if self.line > LINE_BYTES_MAX {
            return Err(Malformed);
        }
        Ok(match (self.state, byte) {
            (State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if self.digits < 15 => {
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                self.size = self.size * 16 + u64::from(digit);
                self.digits += 1;
                State::Size
            }
            (State::Size, b'\r') if self.digits > 0 => State::SizeEnd,
            (State::Size, b';' | b' ' | b'\t') if self.digits > 0 => State::Extension,
            (State::Extension, b'\r') => State::SizeEnd,
            (State::Extension, byte) if byte != b'\n' => State::Extension,
            (State::SizeEnd, b'\n') => {
                self.digits = 0;
                self.line = 0;
                if self.size == 0 { State::Trailer } else { State::Data }
            }
            (State::DataReturn, b'\r') => State::DataEnd,
            (State::DataEnd, b'\n') => {
                self.line = 0;
                State::Size
            }
            (State::Trailer, b'\r') => State::LastEnd,
            (State::Trailer | State::TrailerLine, byte) if byte != b'\n' && byte != b'\r' => State::TrailerLine,
            (State::TrailerLine, b'\r') => State::TrailerEnd,
            (State::TrailerEnd, b'\n') => State::Trailer,
            (State::LastEnd, b'\n') => State::Done,
            _ => return Err(Malformed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "5\r\nhello\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: z\r\n\r\n";

    #[test]
    fn the_end_is_found_wherever_the_body_is_split() {
        let with_more = format!("{BODY}HTTP/1.1");
        let bytes = with_more.as_bytes();
        for split in 0..BODY.len() {
            let mut scanner = Scanner::new();
            assert_eq!(scanner.scan(&bytes[..split]), Ok(None), "split at {split}");
            assert_eq!(scanner.scan(&bytes[split..]), Ok(Some(BODY.len() - split)));
        }
    }

    #[test]
    fn mistakes_are_refused() {
        for body in [
            "\r\n",
            "g\r\n",
            "5\nhello",
            "5\r\nhelloX",
            "5\r\nhello\n",
            "-1\r\n",
            "0x5\r\n",
            "fffffffffffffffff\r\n",
            "0\r\n\n",
            "5;x\n",
        ] {
            assert_eq!(Scanner::new().scan(body.as_bytes()), Err(Malformed), "{body:?}");
        }
        let endless = format!("0\r\nA: {}", "x".repeat(20_000));
        assert_eq!(Scanner::new().scan(endless.as_bytes()), Err(Malformed));
    }
}

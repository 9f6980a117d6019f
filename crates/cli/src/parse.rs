//! Values as they are typed.

use std::net::SocketAddr;
use std::time::Duration;

/// Reads a span as the file writes them: `500ms`, `30s`, `2m`, `1h`; days too, so that whoever types them is told the limit.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a span; write for example 500ms, 30s, 2m or 1h");
    let digits = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let ms_each = match unit {
        "ms" => 1.0,
        "s" => 1_000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        _ => return Err(wrong()),
    };
    // A day bounds every wait that an operator types; more is a slip of the finger.
    const MS_MAX: f64 = 86_400_000.0;
    let ms = number * ms_each;
    if !(1.0..=MS_MAX).contains(&ms) {
        return Err(format!("`{text}` is not between 1ms and 24h"));
    }
    Ok(Duration::from_millis(ms as u64))
}

/// Reads why something is done, for others to read.
pub(crate) fn reason(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("say why, or leave `--because` out: others read it".into()),
        _ => Ok(text.to_owned()),
    }
}

/// Reads the number of a revision.
pub(crate) fn revision(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| "a revision is a number, as `understudy history` lists them".into())
}

/// Reads an address that only this machine can reach: the API has no password.
pub(crate) fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| format!("`{text}` is not an address; write for example 127.0.0.1:7070"))?;
    if !address.ip().is_loopback() {
        return Err(format!(
            "{} can be reached from other machines and the API has no password; use 127.0.0.1:{}",
            address.ip(),
            address.port()
        ));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_in_the_file_and_bounded() {
        assert_eq!(span("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(span("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(span("250ms"), Ok(Duration::from_millis(250)));
        for wrong in ["", "30", "s", "-1s", "1w", "1.2.3s", "0s", "25h", "30d"] {
            assert!(span(wrong).is_err(), "{wrong} was taken");
        }
    }

    #[test]
    fn whoever_asks_for_too_long_is_told_the_limit() {
        for long in ["30d", "99999d", "25h"] {
            assert_eq!(span(long), Err(format!("`{long}` is not between 1ms and 24h")));
        }
        assert_eq!(span("1d"), Ok(Duration::from_secs(86_400)));
    }

    #[test]
    fn the_api_listens_on_loopback_only() {
        assert!(loopback("127.0.0.1:7070").is_ok());
        assert!(loopback("[::1]:7070").is_ok());
        assert!(loopback("0.0.0.0:7070").unwrap_err().contains("no password"));
        assert!(loopback("localhost").is_err());
    }
}

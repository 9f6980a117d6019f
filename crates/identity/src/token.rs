//! The text of a join token: what an operator copies from one terminal to another.
//!
//! ```text
//! US1.1b4e28ba.4f0c2a91d7e35b60.SECRET.AUTHORITY.ADDRESSES.3f9a1c22
//!     cluster  id of the token   └──── base64url ────┘     checksum
//! ```
//! The secret has 256 bits. The authority is the SHA-256 of the certificate that the joiner trusts for the call.

use crate::random::{random, sha256};
use crate::{Authority, IssueError, JoinRecord, NodeRole, Secret};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use model::{NodeName, WallTime};
use std::fmt;
use std::time::Duration;
use zeroize::{Zeroize, Zeroizing};

/// How long a join token is valid unless told otherwise.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(3_600);
const PREFIX: &str = "US1";
/// Longer is no token; the bound keeps what a stranger can make us work on small.
const TEXT_BYTES_MAX: usize = 4_096;
/// A joiner asks them in turn; more would only make the token unwieldy.
const ADDRESSES_MAX: usize = 16;

/// A join token, taken apart.
#[derive(Clone)]
pub struct JoinToken {
    cluster: [u8; 4],
    id: [u8; 8],
    secret: Zeroizing<[u8; 32]>,
    authority: [u8; 32],
    addresses: Vec<String>,
}

/// A part of the token's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `US1`.
    Version,
    /// The cluster.
    Cluster,
    /// The id of the token.
    Id,
    /// The secret.
    Secret,
    /// The fingerprint of the authority.
    Authority,
    /// Whom to ask.
    Addresses,
    /// The sum over the rest.
    Checksum,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Version => "first part (the version, `US1`)",
            Part::Cluster => "second part (the cluster)",
            Part::Id => "third part (the token's id)",
            Part::Secret => "fourth part (the secret)",
            Part::Authority => "fifth part (the authority's fingerprint)",
            Part::Addresses => "sixth part (the addresses)",
            Part::Checksum => "last part (the checksum)",
        })
    }
}

/// Why a text is no join token. Never shows any of it but its length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not a token at all.
    #[error("this is no join token: one begins with `US1.`; `understudy cluster token` makes one")]
    NotAToken,
    /// A token of another version.
    #[error("this join token is of a later version than this program; install the same version on both nodes")]
    OtherVersion,
    /// It ends too early.
    #[error("this join token is cut off: it has {parts} of 7 parts; copy the whole line")]
    CutOff {
        /// How many parts it has.
        parts: usize,
    },
    /// A part is wrong.
    #[error("this join token is damaged: its {0} is wrong; copy the whole line once more")]
    Malformed(Part),
    /// The parts look right, the sum does not.
    #[error(
        "this join token is not what was made: its checksum differs, so a character is missing or changed; copy the whole line once more"
    )]
    Checksum,
    /// It is far too long.
    #[error("this is no join token: it has more than {TEXT_BYTES_MAX} characters")]
    TooLong,
}

impl JoinToken {
    /// Reads a token. White space and line breaks, as terminals add them, are left out.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let text: Zeroizing<String> = Zeroizing::new(text.chars().filter(|c| !c.is_whitespace()).collect());
        let mut parts: Vec<&str> = text.split('.').collect();
        match parts[0] {
            PREFIX => {}
            other if other.len() > 2 && other.starts_with("US") && other[2..].bytes().all(|b| b.is_ascii_digit()) => {
                return Err(TokenError::OtherVersion);
            }
            _ => return Err(TokenError::NotAToken),
        }
        // A line that was cut at a dot ends with an empty part.
        while parts.len() > 1 && parts.last() == Some(&"") {
            parts.pop();
        }
        let [_, cluster, id, secret_text, authority, addresses, sum] = parts[..] else {
            return Err(if parts.len() < 7 {
                TokenError::CutOff { parts: parts.len() }
            } else {
                TokenError::Malformed(Part::Checksum)
            });
        };
        let hex = |text: &str, part| {
            HEXLOWER
                .decode(text.as_bytes())
                .map_err(|_| TokenError::Malformed(part))
        };
        let base = |text: &str, part| {
            BASE64URL_NOPAD
                .decode(text.as_bytes())
                .map_err(|_| TokenError::Malformed(part))
        };
        let mut secret_bytes = base(secret_text, Part::Secret)?;
        let secret = fixed(&secret_bytes, Part::Secret).map(Zeroizing::new);
        secret_bytes.zeroize();
        let token = Self {
            cluster: fixed(&hex(cluster, Part::Cluster)?, Part::Cluster)?,
            id: fixed(&hex(id, Part::Id)?, Part::Id)?,
            secret: secret?,
            authority: fixed(&base(authority, Part::Authority)?, Part::Authority)?,
            addresses: read_addresses(&base(addresses, Part::Addresses)?)
                .ok_or(TokenError::Malformed(Part::Addresses))?,
        };
        let sum: [u8; 4] = fixed(&hex(sum, Part::Checksum)?, Part::Checksum)?;
        if sum != checksum(&[PREFIX, cluster, id, secret_text, authority, addresses].join(".")) {
            return Err(TokenError::Checksum);
        }
        Ok(token)
    }

    /// The text for the operator. It is a secret.
    pub fn text(&self) -> Secret {
        let mut body = Zeroizing::new(format!("{PREFIX}.{}.{}.", HEXLOWER.encode(&self.cluster), self.id()));
        body.push_str(&Zeroizing::new(BASE64URL_NOPAD.encode(&*self.secret)));
        body.push('.');
        body.push_str(&BASE64URL_NOPAD.encode(&self.authority));
        body.push('.');
        body.push_str(&BASE64URL_NOPAD.encode(self.addresses.join(",").as_bytes()));
        let sum = checksum(&body);
        Secret::new(format!("{}.{}", body.as_str(), HEXLOWER.encode(&sum)))
    }

    /// The name of the token in the store; no secret.
    pub fn id(&self) -> String {
        HEXLOWER.encode(&self.id)
    }

    /// The first eight digits of the cluster's id.
    pub fn cluster_short(&self) -> String {
        HEXLOWER.encode(&self.cluster)
    }

    /// Whom to ask, `HOST:PORT`, in this order.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// SHA-256 of the certificate of the authority to trust for the call.
    pub fn authority(&self) -> [u8; 32] {
        self.authority
    }

    /// What the store keeps of the secret.
    pub(crate) fn secret_sha256(&self) -> [u8; 32] {
        sha256(&*self.secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "JoinToken({} for {}, secret not shown)",
            self.id(),
            self.cluster_short()
        )
    }
}

/// Makes a token and the record for the store. `lifetime` is usually [`TOKEN_LIFETIME`]; `addresses` are `HOST:PORT` of
/// members, at most 16, without commas or spaces.
pub fn mint_join_token(
    authority: &Authority,
    role: NodeRole,
    node: Option<NodeName>,
    addresses: &[String],
    lifetime: Duration,
    now: WallTime,
) -> Result<(JoinToken, JoinRecord), IssueError> {
    let make = |what: &str| IssueError::Make(what.to_owned());
    if read_addresses(addresses.join(",").as_bytes()).as_deref() != Some(addresses) {
        return Err(make("a join token carries 1 to 16 addresses of the form HOST:PORT"));
    }
    let mut cluster = [0; 4];
    let short = authority.cluster_id().short();
    HEXLOWER
        .decode_mut(short.as_bytes(), &mut cluster)
        .map_err(|_| make("the cluster id is damaged"))?;
    let token = JoinToken {
        cluster,
        id: random().ok_or(IssueError::NoRandom)?,
        secret: Zeroizing::new(random().ok_or(IssueError::NoRandom)?),
        authority: authority
            .certs()
            .fingerprint()
            .ok_or_else(|| make("the authority is damaged"))?,
        addresses: addresses.to_vec(),
    };
    let record = JoinRecord {
        id: token.id(),
        cluster: authority.cluster_id(),
        secret_sha256: HEXLOWER.encode(&token.secret_sha256()),
        created: now,
        expires: WallTime(
            now.0
                .saturating_add(i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX)),
        ),
        role,
        node,
        uses_left: 1,
        used: None,
    };
    Ok((token, record))
}

fn read_addresses(bytes: &[u8]) -> Option<Vec<String>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let addresses: Vec<String> = text.split(',').map(str::to_owned).collect();
    let plain = |address: &String| {
        let port = address
            .rsplit_once(':')
            .map(|(host, port)| (!host.is_empty(), port.parse::<u16>()));
        matches!(port, Some((true, Ok(1..)))) && address.bytes().all(|b| b.is_ascii_graphic())
    };
    (addresses.len() <= ADDRESSES_MAX && addresses.iter().all(plain)).then_some(addresses)
}

/// Notices a slip of the hand; it is no protection against anybody.
fn checksum(body: &str) -> [u8; 4] {
    let sum = sha256(body.as_bytes());
    [sum[0], sum[1], sum[2], sum[3]]
}

fn fixed<const N: usize>(bytes: &[u8], part: Part) -> Result<[u8; N], TokenError> {
    bytes.try_into().map_err(|_| TokenError::Malformed(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_is_read_back_also_when_a_terminal_broke_the_line() {
        let (token, text) = token();
        let mut broken = format!("  {}\n", &text[..70]);
        broken.push_str(&format!("{}\r\n", &text[70..]));
        for text in [&text, &broken] {
            let read = JoinToken::parse(text).expect("a token");
            assert_eq!(read.id(), token.id());
            assert_eq!(read.authority(), token.authority());
            assert_eq!(read.addresses(), token.addresses());
            assert_eq!(read.secret_sha256(), token.secret_sha256());
        }
    }

    #[test]
    fn a_token_that_was_cut_anywhere_is_noticed() {
        let (_, text) = token();
        for length in 0..text.len() {
            assert!(
                JoinToken::parse(&text[..length]).is_err(),
                "the first {length} characters"
            );
        }
        let third_dot = text.match_indices('.').nth(2).expect("dots").0;
        assert_eq!(
            JoinToken::parse(&text[..third_dot]).expect_err("cut"),
            TokenError::CutOff { parts: 3 }
        );
    }

    #[test]
    fn a_changed_character_is_noticed_and_the_part_is_named() {
        let (_, text) = token();
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'a' { b'b' } else { b'a' };
            let changed = String::from_utf8(changed).expect("text");
            assert!(JoinToken::parse(&changed).is_err(), "character {at}");
        }
        let parts: Vec<&str> = text.split('.').collect();
        for (at, part) in [
            (1, Part::Cluster),
            (2, Part::Id),
            (3, Part::Secret),
            (4, Part::Authority),
            (5, Part::Addresses),
            (6, Part::Checksum),
        ] {
            let mut parts = parts.clone();
            parts[at] = "!";
            let error = JoinToken::parse(&parts.join(".")).expect_err("wrong");
            assert_eq!(error, TokenError::Malformed(part));
        }
    }

    #[test]
    fn what_is_no_token_or_of_a_later_version_is_told_apart() {
        let (_, text) = token();
        let error = |text: &str| JoinToken::parse(text).expect_err("no token");
        assert_eq!(error(""), TokenError::NotAToken);
        assert_eq!(error("K10abc::server:xyz"), TokenError::NotAToken);
        assert_eq!(error(&text.replacen("US1", "US2", 1)), TokenError::OtherVersion);
        assert_eq!(error(&"x".repeat(5_000)), TokenError::TooLong);
        assert_eq!(error(&format!("{text}.more")), TokenError::Malformed(Part::Checksum));
    }

    #[test]
    fn addresses_that_nobody_can_dial_make_no_token() {
        let authority = Authority::create(WallTime(0)).expect("authority");
        let none: &[String] = &[];
        for addresses in [
            none,
            &["a".into()],
            &["a:0".into()],
            &["a:1,b:2".into()],
            &[":7".into()],
        ] {
            let minted = mint_join_token(
                &authority,
                NodeRole::Worker,
                None,
                addresses,
                TOKEN_LIFETIME,
                WallTime(0),
            );
            assert!(minted.is_err(), "{addresses:?}");
        }
    }

    #[test]
    fn neither_token_nor_its_text_shows_its_secret() {
        let (token, text) = token();
        let secret = text.split('.').nth(3).expect("secret");
        let shown = format!("{token:?} {token:#?} {:?}", token.text());
        assert!(!shown.contains(secret), "{shown}");
        assert!(!shown.contains(&secret[..8]), "{shown}");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,300}") {
            let _ = JoinToken::parse(&text);
        }

        #[test]
        fn nothing_that_looks_like_a_token_panics(text in "US1(\\.[0-9a-zA-Z_-]{0,50}){0,9}[\\PC]{0,3}") {
            let _ = JoinToken::parse(&text);
        }

        #[test]
        fn no_change_of_a_token_is_read_as_another(at in 0usize..200, with in "\\PC{0,3}") {
            let (token, text) = token();
            let at = at.min(text.len() - 1);
            let changed = format!("{}{with}{}", &text[..at], &text[at + 1..]);
            if let Ok(read) = JoinToken::parse(&changed) {
                let (read, token) = (read.text(), token.text());
                prop_assert_eq!(read.reveal(), token.reveal());
            }
        }
    }

    fn token() -> (JoinToken, String) {
        let token = JoinToken {
            cluster: [0x1b, 0x4e, 0x28, 0xba],
            id: [1, 2, 3, 4, 5, 6, 7, 8],
            secret: Zeroizing::new([0x5a; 32]),
            authority: [0xc3; 32],
            addresses: vec!["10.0.0.1:7400".into(), "[fd00::2]:7400".into()],
        };
        let text = token.text().reveal().to_owned();
        (token, text)
    }
}

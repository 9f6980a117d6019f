//! Tokens for people and programs that use the API from another machine: `USA1.ID.SECRET`.

use crate::random::{random, same, sha256};
use crate::{IssueError, Secret};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use model::{NodeName, WallTime};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use zeroize::Zeroizing;

const PREFIX: &str = "USA1";
const TEXT_BYTES_MAX: usize = 256;

/// What an operator may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Look at everything, change nothing.
    Read,
    /// Look and change.
    Operate,
}

impl Right {
    /// Whether who has this right may do what needs `needed`.
    pub fn allows(self, needed: Right) -> bool {
        self >= needed
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Right::Read => "read",
            Right::Operate => "operate",
        })
    }
}

impl FromStr for Right {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "read" => Ok(Right::Read),
            "operate" => Ok(Right::Operate),
            _ => Err(format!("`{text}` is no right: those are `read` and `operate`")),
        }
    }
}

/// A token for the API, as it is presented. Its `Debug` shows its id only.
#[derive(Clone)]
pub struct ApiToken {
    id: [u8; 8],
    secret: Zeroizing<[u8; 32]>,
}

/// What the store keeps of it; sealed with [`crate::Purpose::Api`]. No secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiRecord {
    /// The name of the token.
    pub id: String,
    /// SHA-256 of the secret, in hexadecimal.
    pub secret_sha256: String,
    /// Whose it is, for the record of who did what.
    pub name: NodeName,
    /// What it allows.
    pub right: Right,
    /// When it was made.
    pub created: WallTime,
    /// Until when it is valid; `None` until it is withdrawn.
    pub expires: Option<WallTime>,
    /// Whether it was withdrawn.
    pub withdrawn: bool,
}

/// Why a token for the API was refused. An API answers 401 to all but [`ApiRefused::NotAllowed`], which is 403.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiRefused {
    /// The text is no such token.
    #[error("this is no API token: one looks like `USA1.ID.SECRET`; copy the whole line")]
    Malformed,
    /// A join token was given.
    #[error("this is a join token, which lets a node in; an API token begins with `USA1.`")]
    JoinToken,
    /// Unknown, or the secret is another: which of them is nobody's business.
    #[error("this API token is not known here: it is of another cluster, or was removed")]
    Unknown,
    /// It is too old.
    #[error("this API token expired {} ago by this node's clock; make a new one", crate::join::people(*by_ms))]
    Expired {
        /// For how long it has been, milliseconds.
        by_ms: u64,
    },
    /// It was withdrawn.
    #[error("this API token was withdrawn")]
    Withdrawn,
    /// It does not allow that.
    #[error("this API token allows to {has}, this needs {needs}")]
    NotAllowed {
        /// What it allows.
        has: Right,
        /// What is needed.
        needs: Right,
    },
}

impl ApiToken {
    /// Reads a token.
    pub fn parse(text: &str) -> Result<Self, ApiRefused> {
        let text = text.trim();
        if text.starts_with("US1.") {
            return Err(ApiRefused::JoinToken);
        }
        if text.len() > TEXT_BYTES_MAX {
            return Err(ApiRefused::Malformed);
        }
        let mut parts = text.split('.');
        let (Some(PREFIX), Some(id), Some(secret), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ApiRefused::Malformed);
        };
        let id = HEXLOWER.decode(id.as_bytes()).map_err(|_| ApiRefused::Malformed)?;
        let secret = BASE64URL_NOPAD
            .decode(secret.as_bytes())
            .map_err(|_| ApiRefused::Malformed)?;
        let secret = Zeroizing::new(secret);
        Ok(Self {
            id: id.try_into().map_err(|_| ApiRefused::Malformed)?,
            secret: Zeroizing::new(secret.as_slice().try_into().map_err(|_| ApiRefused::Malformed)?),
        })
    }

    /// The name of its record in the store.
    pub fn id(&self) -> String {
        HEXLOWER.encode(&self.id)
    }

    /// The text for its owner. It is a secret.
    pub fn text(&self) -> Secret {
        let secret = Zeroizing::new(BASE64URL_NOPAD.encode(&*self.secret));
        Secret::new(format!("{PREFIX}.{}.{}", self.id(), secret.as_str()))
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiToken({}, secret not shown)", self.id())
    }
}

/// Makes a token and its record. Without a `lifetime` it is valid until it is withdrawn.
pub fn mint_api_token(
    name: NodeName,
    right: Right,
    lifetime: Option<Duration>,
    now: WallTime,
) -> Result<(ApiToken, ApiRecord), IssueError> {
    let token = ApiToken {
        id: random().ok_or(IssueError::NoRandom)?,
        secret: Zeroizing::new(random().ok_or(IssueError::NoRandom)?),
    };
    let end = |span: Duration| {
        WallTime(
            now.0
                .saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)),
        )
    };
    let record = ApiRecord {
        id: token.id(),
        secret_sha256: HEXLOWER.encode(&sha256(&*token.secret)),
        name,
        right,
        created: now,
        expires: lifetime.map(end),
        withdrawn: false,
    };
    Ok((token, record))
}

/// Decides whether who shows `token` may do what needs `needs`; gives the name for the record of who did what.
pub fn verify_api_token<'a>(
    record: Option<&'a ApiRecord>,
    token: &ApiToken,
    needs: Right,
    now: WallTime,
) -> Result<&'a NodeName, ApiRefused> {
    let record = record
        .filter(|record| record.id == token.id())
        .ok_or(ApiRefused::Unknown)?;
    let expected = HEXLOWER.decode(record.secret_sha256.as_bytes()).unwrap_or_default();
    if !same(&expected, &sha256(&*token.secret)) {
        return Err(ApiRefused::Unknown);
    }
    if record.withdrawn {
        return Err(ApiRefused::Withdrawn);
    }
    if let Some(expires) = record.expires.filter(|expires| now.0 > expires.0) {
        return Err(ApiRefused::Expired {
            by_ms: now.0.abs_diff(expires.0),
        });
    }
    if !record.right.allows(needs) {
        return Err(ApiRefused::NotAllowed {
            has: record.right,
            needs,
        });
    }
    Ok(&record.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: WallTime = WallTime(1_800_000_000_000);

    #[test]
    fn who_may_operate_may_read_and_not_the_other_way_round() {
        let (reader, reads) = mint("ann", Right::Read, None);
        let (chief, operates) = mint("bob", Right::Operate, None);
        let check = |record, token, needs| verify_api_token(Some(record), token, needs, NOW).map(NodeName::as_str);
        assert_eq!(check(&reads, &reader, Right::Read), Ok("ann"));
        assert_eq!(check(&operates, &chief, Right::Read), Ok("bob"));
        assert_eq!(check(&operates, &chief, Right::Operate), Ok("bob"));
        let refused = ApiRefused::NotAllowed {
            has: Right::Read,
            needs: Right::Operate,
        };
        assert_eq!(check(&reads, &reader, Right::Operate), Err(refused));
    }

    #[test]
    fn unknown_withdrawn_and_expired_tokens_are_refused() {
        let (token, mut record) = mint("ann", Right::Operate, Some(Duration::from_secs(60)));
        let (other, _) = mint("ann", Right::Operate, None);
        let check = |record: Option<&ApiRecord>, token: &ApiToken, now| {
            verify_api_token(record, token, Right::Read, now)
                .map(|_| ())
                .expect_err("refused")
        };
        assert_eq!(check(None, &token, NOW), ApiRefused::Unknown);
        assert_eq!(check(Some(&record), &other, NOW), ApiRefused::Unknown);
        let late = WallTime(NOW.0 + 61_000);
        assert_eq!(check(Some(&record), &token, late), ApiRefused::Expired { by_ms: 1_000 });
        record.withdrawn = true;
        assert_eq!(check(Some(&record), &token, NOW), ApiRefused::Withdrawn);
        record.secret_sha256 = String::new();
        assert_eq!(
            check(Some(&record), &token, NOW),
            ApiRefused::Unknown,
            "a damaged record opens nothing"
        );
    }

    #[test]
    fn the_text_is_read_back_and_shown_by_nothing_else() {
        let (token, record) = mint("ann", Right::Read, None);
        let text = token.text();
        assert_eq!(
            ApiToken::parse(&format!(" {}\n", text.reveal()))
                .expect("token")
                .text()
                .reveal(),
            text.reveal()
        );
        let secret = text.reveal().rsplit_once('.').expect("parts").1;
        assert!(!format!("{token:?} {text:?} {record:?}").contains(secret));
        assert_eq!(ApiToken::parse("US1.a.b").expect_err("join"), ApiRefused::JoinToken);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(USA1\\.)?\\PC{0,90}") {
            let _ = ApiToken::parse(&text);
        }
    }

    fn mint(name: &str, right: Right, lifetime: Option<Duration>) -> (ApiToken, ApiRecord) {
        mint_api_token(NodeName::new(name).expect("name"), right, lifetime, NOW).expect("token")
    }
}

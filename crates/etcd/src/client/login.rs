//! User, password, and the token they are good for.

use super::failure::{Cause, Failure};
use super::link::{Link, Up};
use crate::options::Password;
use crate::pb::AuthenticateRequest;
use crate::pb::auth_client::AuthClient;
use std::sync::{Mutex, PoisonError};
use store::ServerError;
use tonic::metadata::{Ascii, MetadataValue};

/// A login, if there is one. A token is good with every member, for as long as etcd likes.
pub(crate) struct Login {
    as_whom: Option<(String, Password)>,
    token: Mutex<Token>,
    /// Held while logging in: the password is hashed on purpose slowly.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
enum Token {
    None,
    Given(MetadataValue<Ascii>),
    /// The cluster asks nobody who they are.
    NotNeeded,
}

impl Login {
    pub(crate) fn new(as_whom: Option<(String, Password)>) -> Self {
        Self {
            as_whom,
            token: Mutex::new(Token::None),
            asking: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn user(&self) -> Option<&str> {
        self.as_whom.as_ref().map(|(user, _)| user.as_str())
    }

    /// The token is not good any more.
    pub(crate) fn forget(&self) {
        self.set(Token::None);
    }

    pub(crate) async fn token(&self, link: &Link, up: &Up) -> Result<Option<MetadataValue<Ascii>>, Failure> {
        let Some((user, password)) = &self.as_whom else {
            return Ok(None);
        };
        if let Some(token) = self.have() {
            return Ok(token);
        }
        let _one = self.asking.lock().await;
        if let Some(token) = self.have() {
            return Ok(token);
        }
        let answer = AuthClient::new(up.line.channel.clone())
            .authenticate(AuthenticateRequest {
                name: user.clone(),
                password: password.expose().to_owned(),
            })
            .await;
        let token = match answer {
            Ok(answer) => MetadataValue::try_from(answer.into_inner().token)
                .map(Token::Given)
                .map_err(|_| refused(link, user, "its token is not text")),
            Err(status) if status.message().contains("authentication is not enabled") => {
                tracing::warn!(
                    user,
                    "etcd has no authentication enabled: whoever reaches it may do anything"
                );
                Ok(Token::NotNeeded)
            }
            Err(status) => {
                let failure = Failure::from_status(&link.target.name, Some(user), &status);
                // Nothing was sent but the login.
                Err(Failure::certain(&link.target.name, failure.cause))
            }
        }?;
        self.set(token);
        Ok(self.have().flatten())
    }

    fn have(&self) -> Option<Option<MetadataValue<Ascii>>> {
        match &*self.token.lock().unwrap_or_else(PoisonError::into_inner) {
            Token::None => None,
            Token::Given(token) => Some(Some(token.clone())),
            Token::NotNeeded => Some(None),
        }
    }

    fn set(&self, token: Token) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }
}

fn refused(link: &Link, user: &str, reason: &str) -> Failure {
    let error = ServerError::Login {
        endpoint: link.target.name.clone(),
        user: Some(user.to_owned()),
        reason: reason.into(),
    };
    Failure::certain(&link.target.name, Cause::Server(error))
}

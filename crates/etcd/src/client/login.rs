//! User, password, and the token they are good for.

use super::failure::{Cause, Failure};
use super::link::{Link, Up};
use crate::options::Password;
use crate::pb::AuthenticateRequest;
use crate::pb::auth_client::AuthClient;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::ServerError;
use tokio::time::timeout;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

// etcd makes a hash of the password that is slow on purpose: about 0.1 s of its processor, more if that is busy.
const LOGIN_MAX: Duration = Duration::from_secs(10);

/// A login, if there is one. A token is good with every member, for as long as etcd likes.
pub(crate) struct Login {
    as_whom: Option<(String, Password)>,
    token: Mutex<Token>,
    /// Held while logging in: one at a time.
    asking: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone)]
enum Token {
    None,
    Given(MetadataValue<Ascii>),
    /// The cluster asks nobody who they are.
    NotNeeded,
}

impl Login {
    pub(crate) fn new(as_whom: Option<(String, Password)>) -> Arc<Self> {
        Arc::new(Self {
            as_whom,
            token: Mutex::new(Token::None),
            asking: Arc::default(),
        })
    }

    pub(crate) fn user(&self) -> Option<&str> {
        self.as_whom.as_ref().map(|(user, _)| user.as_str())
    }

    /// The token is not good any more.
    pub(crate) fn forget(&self) {
        self.set(Token::None);
    }

    /// The token, if one is needed. Whoever has no time to wait for the login may go: it goes on without them.
    pub(crate) async fn token(self: &Arc<Self>, link: &Link, up: &Up) -> Result<Option<MetadataValue<Ascii>>, Failure> {
        if self.as_whom.is_none() {
            return Ok(None);
        }
        if let Some(token) = self.have() {
            return Ok(token);
        }
        let not_now = || {
            Failure::certain(
                &link.target.name,
                Cause::NotNow("the login has not succeeded yet".into()),
            )
        };
        let Ok(turn) = Arc::clone(&self.asking).try_lock_owned() else {
            drop(self.asking.lock().await);
            return self.have().ok_or_else(not_now);
        };
        let (login, endpoint, channel) = (Arc::clone(self), link.target.name.clone(), up.line.channel.clone());
        let asked = tokio::spawn(async move {
            let outcome = match timeout(LOGIN_MAX, login.ask(&endpoint, channel)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Failure::certain(&endpoint, Cause::TimedOut)),
            };
            drop(turn);
            outcome
        });
        asked.await.map_err(|_| not_now())??;
        self.have().ok_or_else(not_now)
    }

    async fn ask(&self, endpoint: &str, channel: Channel) -> Result<(), Failure> {
        let Some((user, password)) = &self.as_whom else {
            return Ok(());
        };
        let answer = AuthClient::new(channel)
            .authenticate(AuthenticateRequest {
                name: user.clone(),
                password: password.expose().to_owned(),
            })
            .await;
        let token = match answer {
            Ok(answer) => MetadataValue::try_from(answer.into_inner().token)
                .map(Token::Given)
                .map_err(|_| refused(endpoint, user, "its token is not text"))?,
            Err(status) if status.message().contains("authentication is not enabled") => {
                tracing::warn!(
                    user,
                    "etcd has no authentication enabled: whoever reaches it may do anything"
                );
                Token::NotNeeded
            }
            Err(status) => {
                let failure = Failure::from_status(endpoint, Some(user), &status);
                // Nothing was sent but the login.
                return Err(Failure::certain(endpoint, failure.cause));
            }
        };
        self.set(token);
        Ok(())
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

fn refused(endpoint: &str, user: &str, reason: &str) -> Failure {
    let error = ServerError::Login {
        endpoint: endpoint.to_owned(),
        user: Some(user.to_owned()),
        reason: reason.into(),
    };
    Failure::certain(endpoint, Cause::Server(error))
}

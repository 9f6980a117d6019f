//! A member is taken out, living or dead.

use super::judge::{Refusal, judge_removal};
use super::progress::{LETS_GO, Progress};
use super::view::View;
use super::{Choice, Cluster, Error, choose_leader};
use crate::MemberError;
use crate::client::Member;
use crate::server::PATIENCE;
use std::io::ErrorKind;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tonic::transport::Uri;

/// Between two tries: etcd believes in a connection only after 5 s.
const AGAIN_LATER: Duration = Duration::from_millis(250);
/// A host that is there refuses, or takes, a connection within that.
const CONNECTS_WITHIN: Duration = Duration::from_secs(1);

impl Cluster {
    /// Removes a member, after it has handed over its leadership. Refused if the others could not decide anything then, unless
    /// the operator typed its name; etcd itself may still refuse. What takes long is told.
    pub async fn remove(
        &mut self,
        name: &str,
        force: Option<&str>,
        tell: &mut (dyn FnMut(Progress) + Send + Sync),
    ) -> Result<(), Error> {
        let view = self.look().await?;
        if let Err(refusal) = judge_removal(&view, name) {
            insist(refusal, name, force)?;
        }
        let Some(leaving) = view.find(name) else {
            return Ok(());
        };
        let leads = |id| view.leader().is_some_and(|leader| leader.member.id == id);
        if leads(leaving.member.id) {
            // Else the others elect one, which takes a little longer.
            self.lead_elsewhere(&view, name).await;
        } else if leaving.status.is_err() && !refuses(&leaving.member).await {
            tell(Progress::LettingGo);
            if let Some(leader) = view.leader() {
                self.lead_elsewhere(&view, leader.name()).await;
            }
            tokio::time::sleep(LETS_GO).await;
        }
        let begun = Instant::now();
        loop {
            match self.client.admin().remove(leaving.member.id).await {
                Ok(()) | Err(crate::Error::Member(MemberError::NotFound)) => return Ok(()),
                // Whoever has just come is believed only after a while.
                Err(crate::Error::Member(MemberError::Unhealthy { .. })) if begun.elapsed() < PATIENCE => {
                    tokio::time::sleep(AGAIN_LATER).await;
                }
                Err(error) => return Err(Error::etcd("remove a member")(error)),
            }
        }
    }

    /// Another member leads, if one can.
    async fn lead_elsewhere(&self, view: &View, than: &str) {
        if let Choice::Move { to, .. } = choose_leader(view, &[than.to_owned()].into()) {
            let _ = self.move_leader(to).await;
        }
    }
}

/// Lets the operator insist by typing the member's name, where that is possible at all.
pub(super) fn insist(refusal: Refusal, name: &str, force: Option<&str>) -> Result<(), Error> {
    match force {
        Some(typed) if refusal.can_be_forced() && typed == name => Ok(()),
        Some(typed) if refusal.can_be_forced() => Err(Error::NotConfirmed {
            name: name.into(),
            typed: typed.into(),
        }),
        _ => Err(refusal.into()),
    }
}

/// Whether its host says that nothing listens where the member was: then nobody waits to get rid of what he sends there.
async fn refuses(member: &Member) -> bool {
    let uris = member.peer_urls.iter().filter_map(|url| url.parse::<Uri>().ok());
    let address = |uri: Uri| Some((uri.host()?.trim_matches(['[', ']']).to_owned(), uri.port_u16()?));
    let Some(address) = uris.filter_map(address).next() else {
        return false;
    };
    let connected = tokio::time::timeout(CONNECTS_WITHIN, TcpStream::connect(address)).await;
    matches!(connected, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::super::view::made_up::view;
    use super::*;

    #[test]
    fn only_the_members_name_forces_and_only_what_can_be_forced() {
        let loses = || judge_removal(&view("a* b c!"), "b").unwrap_err();
        assert!(matches!(insist(loses(), "b", None), Err(Error::Refused(_))));
        assert!(matches!(
            insist(loses(), "b", Some("yes")),
            Err(Error::NotConfirmed { .. })
        ));
        assert!(insist(loses(), "b", Some("b")).is_ok());
        let last = judge_removal(&view("a*"), "a").unwrap_err();
        assert!(matches!(
            insist(last, "a", Some("a")),
            Err(Error::Refused(Refusal::Last { .. }))
        ));
    }

    #[tokio::test]
    async fn a_host_without_the_member_is_told_from_one_that_is_silent() {
        let mut member = view("a*").members.remove(0).member;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        member.peer_urls = vec![format!("https://{}", listener.local_addr().unwrap())];
        assert!(
            !refuses(&member).await,
            "whoever hangs has a kernel that accepts for him"
        );
        drop(listener);
        assert!(refuses(&member).await);
        member.peer_urls.clear();
        assert!(!refuses(&member).await, "nobody knows where it was");
    }
}

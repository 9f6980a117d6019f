//! A request on its way, and what every answer has.

use crate::pb;
use std::future::Future;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// Answers are bounded by what we ask for; the database is the bound of last resort.
pub(crate) const ANSWER_BYTES_MAX: usize = i32::MAX as usize;

/// Where to send a request, and what goes with it.
#[derive(Clone)]
pub(crate) struct Wire {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
    deadline: Option<Instant>,
}

/// One kind of call, ready to be sent any number of times.
pub(crate) trait Rpc {
    type Answer: Headed;
    fn send(&self, wire: Wire) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send;
}

impl<F, R, A> Rpc for F
where
    F: Fn(Wire) -> R,
    R: Future<Output = Result<Response<A>, Status>> + Send,
    A: Headed,
{
    type Answer = A;
    fn send(&self, wire: Wire) -> impl Future<Output = Result<Response<A>, Status>> + Send {
        self(wire)
    }
}

impl Wire {
    pub(crate) fn new(channel: Channel, token: Option<MetadataValue<Ascii>>, deadline: Option<Instant>) -> Self {
        Self {
            channel,
            token,
            deadline,
        }
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// `message` with the token, and with the wish to be refused at once where no leader is known.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = self.local_request(message);
        request
            .metadata_mut()
            .insert("hasleader", MetadataValue::from_static("true"));
        request
    }

    /// `message` with the token, for what a member answers by itself.
    pub(crate) fn local_request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        if let Some(deadline) = self.deadline {
            // So that the member, too, stops waiting.
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        }
        request
    }
}

/// An answer that says which cluster gave it, at which revision.
pub(crate) trait Headed {
    fn header(&self) -> Option<&pb::ResponseHeader>;
}

macro_rules! headed {
    ($($answer:ident)*) => {
        $(impl Headed for pb::$answer {
            fn header(&self) -> Option<&pb::ResponseHeader> {
                self.header.as_ref()
            }
        })*
    };
}

headed!(
    RangeResponse TxnResponse CompactionResponse WatchResponse
    MemberAddResponse MemberRemoveResponse MemberUpdateResponse MemberListResponse MemberPromoteResponse
    AlarmResponse StatusResponse DefragmentResponse MoveLeaderResponse
    AuthEnableResponse AuthDisableResponse AuthUserAddResponse AuthUserDeleteResponse
    AuthUserChangePasswordResponse AuthUserGrantRoleResponse AuthRoleAddResponse AuthRoleGrantPermissionResponse
);

//! A request on its way, and what every answer has.

use crate::pb;
use store::BoxFuture;
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

/// A request that can be sent any number of times.
pub(crate) trait Rpc: Clone + Send + Sync {
    /// What it is answered with.
    type Answer: Headed + Send;
    fn send(&self, wire: &Wire) -> BoxFuture<'static, Result<Response<Self::Answer>, Status>>;
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
    pub(crate) fn led<T>(&self, message: T) -> Request<T> {
        let mut request = self.local(message);
        request
            .metadata_mut()
            .insert("hasleader", MetadataValue::from_static("true"));
        request
    }

    /// `message` with the token, for what a member answers by itself.
    pub(crate) fn local<T>(&self, message: T) -> Request<T> {
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

impl Headed for pb::WatchResponse {
    fn header(&self) -> Option<&pb::ResponseHeader> {
        self.header.as_ref()
    }
}

/// `how request => client::method -> answer`; `local` for what a member does by itself, `led` for what takes a leader.
macro_rules! rpcs {
    ($($how:ident $request:ident => $module:ident::$client:ident::$method:ident -> $answer:ident;)*) => {
        $(
            impl Rpc for pb::$request {
                type Answer = pb::$answer;
                fn send(&self, wire: &Wire) -> BoxFuture<'static, Result<Response<pb::$answer>, Status>> {
                    let request = wire.$how(self.clone());
                    let client = pb::$module::$client::new(wire.channel());
                    Box::pin(async move {
                        client.max_decoding_message_size(ANSWER_BYTES_MAX).$method(request).await
                    })
                }
            }

            impl Headed for pb::$answer {
                fn header(&self) -> Option<&pb::ResponseHeader> {
                    self.header.as_ref()
                }
            }
        )*
    };
}

rpcs! {
    led RangeRequest => kv_client::KvClient::range -> RangeResponse;
    led TxnRequest => kv_client::KvClient::txn -> TxnResponse;
    led CompactionRequest => kv_client::KvClient::compact -> CompactionResponse;
    local MemberListRequest => cluster_client::ClusterClient::member_list -> MemberListResponse;
    led MemberAddRequest => cluster_client::ClusterClient::member_add -> MemberAddResponse;
    led MemberRemoveRequest => cluster_client::ClusterClient::member_remove -> MemberRemoveResponse;
    led MemberUpdateRequest => cluster_client::ClusterClient::member_update -> MemberUpdateResponse;
    led MemberPromoteRequest => cluster_client::ClusterClient::member_promote -> MemberPromoteResponse;
    local StatusRequest => maintenance_client::MaintenanceClient::status -> StatusResponse;
    local DefragmentRequest => maintenance_client::MaintenanceClient::defragment -> DefragmentResponse;
    local AlarmRequest => maintenance_client::MaintenanceClient::alarm -> AlarmResponse;
    led MoveLeaderRequest => maintenance_client::MaintenanceClient::move_leader -> MoveLeaderResponse;
    led AuthEnableRequest => auth_client::AuthClient::auth_enable -> AuthEnableResponse;
    led AuthDisableRequest => auth_client::AuthClient::auth_disable -> AuthDisableResponse;
    led AuthUserAddRequest => auth_client::AuthClient::user_add -> AuthUserAddResponse;
    led AuthUserDeleteRequest => auth_client::AuthClient::user_delete -> AuthUserDeleteResponse;
    led AuthUserChangePasswordRequest
        => auth_client::AuthClient::user_change_password -> AuthUserChangePasswordResponse;
    led AuthUserGrantRoleRequest => auth_client::AuthClient::user_grant_role -> AuthUserGrantRoleResponse;
    led AuthRoleAddRequest => auth_client::AuthClient::role_add -> AuthRoleAddResponse;
    led AuthRoleGrantPermissionRequest
        => auth_client::AuthClient::role_grant_permission -> AuthRoleGrantPermissionResponse;
}

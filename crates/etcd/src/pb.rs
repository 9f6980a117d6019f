//! etcd's messages and stubs, as `build.rs` makes them from `proto/`.
#![expect(
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "made by a program"
)]

pub(crate) mod mvccpb {
    tonic::include_proto!("mvccpb");
}
pub(crate) mod authpb {
    tonic::include_proto!("authpb");
}
pub(crate) mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

pub(crate) use etcdserverpb::*;

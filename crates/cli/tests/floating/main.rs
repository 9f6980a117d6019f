//! A floating address, for real: three hosts, the real program, etcd, and a client that knows one address and nothing else. Needs root, and what
//! hosts need: `iproute2`, `nftables`, `util-linux`, `e2fsprogs`, `procps`, `etcd-server`, `python3`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod alone;
mod exchange;
mod hang;
mod moves;
mod parting;
mod watch;
mod world;

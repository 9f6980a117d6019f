//! Who is who in a cluster of agents: certificate authority, join tokens, mutual TLS, and how all of it is renewed
//! without a gap.
//!
//! ```text
//!   cluster init                       another node: cluster join TOKEN
//!   ────────────                       ────────────────────────────────
//!   Authority::create ──┐              JoinToken::parse
//!   Keys::generate      │              Keys::generate        (keys stay where they are made)
//!   Authority::enrol ───┤              join_client_config    (trusts the one authority the token names)
//!   Folder::save        │     TLS      JoinRequest ─────────► redeem, Registrar::enrol ─► Bundle
//!                       ▼              Bundle::check, Folder::save
//!                Tls::new ─► server_config, client_config, store_client_config
//!                       ▲
//!   renewal::Plan ──────┘  Tls::replace_own, replace_trust, replace_revoked: swapped between two handshakes
//! ```
//!
//! # Two authorities, one cluster
//!
//! Whoever has a client certificate of the authority that etcd trusts may write to etcd. So there are two: the *cluster*
//! authority signs nodes and operators, the *store* authority signs what speaks to etcd. A certificate for an operator with
//! the right to read opens no store. The peer port of etcd takes only the common name [`etcd::PEER_NAME`], so that a store
//! client is no peer.
//!
//! # Where the authority's keys are
//!
//! In the `pki` folder of every *member*, mode 0600, so that no single node is needed to let another one in or to renew a
//! certificate. They are handed over in the answer to a join, inside TLS that the joiner authenticated by the fingerprint
//! in its token. They are never in the store, not even encrypted: a key for it would have to be on the same nodes.
//! Witnesses and workers do not get them.
//!
//! # What an attacker with one node can do
//!
//! - **A member:** everything. It has the authority's keys: it can make itself any node or operator. Revoking its
//!   certificate is not enough; replace the authority (see [`rotation`]), and change what the services themselves knew.
//! - **A witness:** it is an etcd member, so it can read and change every record. It cannot make certificates. Records that
//!   give rights (join tokens, API tokens, the revocation list, the list of trusted authorities) carry a signature of the
//!   authority ([`Sealed`]), so it cannot forge them; it can delete them or put an older one back. Nodes
//!   refuse an older revocation list and an older list of authorities than they know; a used join token that is put back
//!   works again until it expires, for whoever has its secret.
//! - **A worker:** it has a store client certificate, and with it what a witness can do to records. That
//!   includes slots, sessions and the declared services: **what is declared is run by all nodes**, so a worker that is taken
//!   over can have programs run elsewhere unless the store's own users limit it (its common name is the
//!   node's name, for etcd's role-based access) or the declaration is sealed like the other records.
//! - **Any node:** it can present itself as itself until it is revoked. It cannot present itself as another: peers
//!   check the name in the certificate, and nobody signs a name for a key that did not prove the right to it.
//! - **The network alone:** nothing but cutting connections. TLS 1.3, both sides authenticated, no resumption
//!   (a resumed session would pass by the revocation list). Whoever reaches an agent's port is told two things without a certificate, for
//!   one that was revoked ends the handshake: the generation of the cluster, and whether a node that it names was removed.

mod api_token;
mod authority;
mod bundle;
mod certificate;
pub mod etcd;
mod files;
mod join;
mod pass;
mod random;
mod refused;
mod registrar;
pub mod renewal;
mod revoked;
pub mod rotation;
mod sealed;
mod secret;
mod sign;
mod tls;
mod token;
mod trust;
mod verify;
mod who;

pub use api_token::{ApiRecord, ApiRefused, ApiToken, Right, mint_api_token, verify_api_token};
pub use authority::{Authority, BACKDATED, CaCerts, Enrolment, IssueError, Lifetime, NODE_LIFETIME, OPERATOR_LIFETIME};
pub use bundle::{Bundle, BundleError, Certificates, JoinRequest, Keys, save_revoked, save_trust};
pub use certificate::{IssueId, Peer};
pub use files::{FileError, Folder};
pub use join::{JoinRecord, JoinRefused, Presented, Redeemed, Used, redeem};
pub use pass::{Pass, PassKey, PassKeyError, PassRefused, PassUse, SESSION_LIFETIME, SIGN_IN_LIFETIME};
pub use refused::{Refused, Why};
pub use registrar::{Registrar, RenewError};
pub use revoked::{Issued, Revocation, RevocationList};
pub use sealed::{Purpose, SealError, Sealed};
pub use secret::Secret;
pub use tls::{ConfigError, Expect, Tls, join_client_config, server_name};
pub use token::{JoinToken, Part, TOKEN_LIFETIME, TokenError, mint_join_token};
pub use trust::{Stale, TrustError};
pub use who::{ClusterId, Kind, NodeRole, Who};

//! The first words of whoever connects to the control socket: only an agent of the same protocol gets further.

use crate::wire::Wire;
use api::proxy::{FromProxy, PROTOCOL, ToProxy};
use std::time::Duration;

/// Who has not greeted by then is no agent.
const PATIENCE: Duration = Duration::from_secs(5);

/// Hears the greeting; gives the connection back if an agent is at the other end.
pub(crate) async fn greet(mut wire: Wire) -> Option<Wire> {
    let greeting = tokio::time::timeout(PATIENCE, wire.receive::<ToProxy>()).await;
    match greeting {
        Ok(Ok((ToProxy::Hello { protocol }, _))) if protocol == PROTOCOL => return Some(wire),
        Ok(Ok((ToProxy::Hello { protocol }, _))) => {
            tracing::error!(
                theirs = protocol,
                ours = PROTOCOL,
                "refusing an agent of another protocol"
            );
            let refusal = FromProxy::Hello {
                protocol: PROTOCOL,
                pid: std::process::id(),
                fronts: Vec::new(),
            };
            // It reads our version from this and says what to do; if it is gone already, so be it.
            if wire.queue(&refusal, Vec::new()).is_ok() {
                let _ = tokio::time::timeout(PATIENCE, wire.flush()).await;
            }
        }
        Ok(Ok(_)) => tracing::warn!("refusing a connection that did not begin with a greeting"),
        Ok(Err(error)) => {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "refusing a connection to the control socket");
        }
        Err(_) => tracing::warn!("closing a connection to the control socket that said nothing"),
    }
    None
}

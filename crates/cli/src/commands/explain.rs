//! `explain`

use super::{Done, Error, Session};
use crate::args;
use crate::client::segment;
use crate::names::{Kind, find};
use crate::render;
use api::Explanation;
use std::net::{IpAddr, SocketAddr};

pub(super) async fn run(session: &Session, args: &args::Explain) -> Result<Done, Error> {
    let client = session.client().await?;
    let kinds = [Kind::Service, Kind::Slot, Kind::Instance, Kind::Node];
    let status = client.status().await?;
    // What is at an address is for the agent to say: it knows all of them.
    if args.name != status.cluster && !is_address(&args.name) {
        find(&status, &args.name, &kinds)?;
    }
    let mut path = format!("/v1/explain/{}", segment(&args.name));
    if let Some(node) = &args.if_dies {
        find(&status, node, &[Kind::Node])?;
        path.push_str(&format!("?if_dies={}", segment(node)));
    }
    let answer = client.get::<Explanation>(&path).await?;
    if args.json {
        session.json(&answer.raw);
    } else {
        session
            .output
            .answer(&render::explain::page(&answer.value, &session.output.view));
    }
    Ok(Done::Yes)
}

/// `10.0.0.5`, `10.0.0.5:80`, `10.0.0.100/24`, and the like with IPv6.
fn is_address(name: &str) -> bool {
    let address = name.split_once('/').map_or(name, |(address, _)| address);
    address.parse::<IpAddr>().is_ok() || address.parse::<SocketAddr>().is_ok()
}

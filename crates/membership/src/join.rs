//! Another machine becomes a node.

use crate::call::{ask_to_join, chain};
use crate::error::Error;
use crate::init::{ETCD_LOOK, MEASURE, etcd_up, machine, member_record, refuse_if_taken};
use crate::place::{make_folders, now, put_leftovers_aside};
use crate::records::{Settings, decode, encode, joining_key, member_key};
use crate::{Place, Progress, check, server_config};
use api::layout::Layout;
use api::node::{Member as StoreMember, Node, StorePlace};
use etcd::server::binary::Etcd;
use etcd::server::config::Initial;
use etcd::server::{Server, measure};
use identity::rotation::TrustRecord;
use identity::{Bundle, Folder, JoinRequest, JoinToken, Keys, NodeRole, Tls};
use model::NodeName;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use store::{Compare, Op, Store, Txn};

/// A new member has the little there is within seconds; over a slow line it takes longer.
const CATCH_UP: Duration = Duration::from_secs(120);

/// What a machine wants to be.
#[derive(Debug)]
pub struct Join {
    /// The token as it was typed.
    pub token: String,
    /// Folder of the clusters of this machine.
    pub base: PathBuf,
    /// Name of the node.
    pub node: NodeName,
    /// Its place.
    pub zone: String,
    /// Where the others reach it.
    pub host: IpAddr,
    /// Port of its agent; etcd takes the next two.
    pub port: u16,
}

/// Joins a cluster. Afterwards the agent of this machine can be started.
pub async fn join(join: &Join, tell: Progress<'_>) -> Result<Place, Error> {
    let token = JoinToken::parse(&join.token)?;
    let program = Etcd::find(None);
    before_the_token_is_used(join, &token, program.is_ok(), tell)?;
    let keys = Keys::generate()?;
    let hosts = vec![join.host.to_string()];
    // Without etcd this machine can be nothing else; a token for another role is then refused, not used up.
    let role = program.is_err().then_some(NodeRole::Worker);
    let request = JoinRequest {
        now: Some(now()),
        ..keys.request(Some(&token), &join.node, role, &hosts)?
    };
    std::fs::create_dir_all(&join.base).map_err(|source| Error::Io {
        doing: "make the folder",
        path: join.base.clone(),
        source,
    })?;
    tell("asking to be let in");
    let (bundle, address) = match (ask_to_join(&token, &request).await, program) {
        (Err(Error::Said { text, .. }), Err(missing)) if text.contains("wants to be a worker") => {
            return Err(missing.into());
        }
        (answer, _) => answer?,
    };
    bundle.check(&keys, &join.node, Some(&token))?;
    let settings: Settings = serde_json::from_value(bundle.profile.clone()).map_err(|source| Error::Record {
        key: "settings".into(),
        source,
    })?;
    check::clocks(now().0, settings.now_ms, &address)?;
    let layout = Layout::new(&join.base, &settings.cluster);
    refuse_if_taken(&layout, &settings.cluster)?;
    make_folders(&layout)?;
    let of_another = |trusted: TrustRecord| trusted.cluster != bundle.cluster;
    let before = Folder::open(layout.pki())
        .ok()
        .and_then(|folder| Tls::load(&folder).ok());
    if before.is_none_or(|tls| of_another(tls.trusted()))
        && let Some(aside) = put_leftovers_aside(&layout)?
    {
        tell(&format!(
            "an earlier attempt was cut off; what it left is in {}",
            aside.display()
        ));
    }
    let folder = Folder::create(layout.pki())?;
    bundle.save(&folder, &keys)?;
    if let Some(access) = &settings.access {
        access.save(&folder)?;
    }
    let place = Place {
        node: node_of(join, &bundle, &settings),
        layout,
    };
    let others: Vec<SocketAddr> = bundle
        .endpoints
        .iter()
        .filter_map(|url| url.split("//").nth(1)?.parse().ok())
        .collect();
    let measured = measure::measure(place.layout.root(), &others, MEASURE).await?;
    for misfit in etcd::server::misfits(&measured, settings.profile) {
        tell(&format!("note: for the timing `{}` {misfit}", settings.profile));
    }
    let votes = bundle.role.votes() && settings.managed;
    if votes {
        vote(&place, tell).await?;
    }
    let store = etcd_up(&place).await?;
    let key = member_key(&join.node);
    let txn = Txn::new()
        .when(Compare::absent(&*key))
        .then(Op::put(&*key, encode(&key, &member_record(&place.node, votes))?))
        .then(Op::delete(joining_key(&join.node)))
        .otherwise(Op::get(&*key));
    let result = store.txn(txn).await?;
    if !result.succeeded {
        let joined = result.reads.into_iter().flatten().next();
        let member = joined
            .map(|entry| decode::<api::record::Member>(&key, &entry.value))
            .transpose()?;
        return Err(Error::NameTaken {
            node: join.node.clone(),
            joined: member.map_or_else(String::new, |member| crate::admit::shown(member.joined)),
        });
    }
    place.node.write(&place.layout.node())?;
    Ok(place)
}

/// What is wrong here is found before the token is used up.
fn before_the_token_is_used(join: &Join, token: &JoinToken, etcd: bool, tell: Progress<'_>) -> Result<(), Error> {
    let nodes = check::nodes_here(&join.base);
    let short = |node: &Node| node.cluster_id.starts_with(&token.cluster_short().replace('-', ""));
    if let Some(node) = nodes.iter().find(|node| short(node)) {
        return Err(Error::AlreadyNode {
            node: node.node.clone(),
            cluster: node.cluster.clone(),
            path: Layout::new(&join.base, &node.cluster).node(),
        });
    }
    check::address(join.host, join.port, etcd && !check::cut_off_here(&join.base))?;
    let others: Vec<IpAddr> = token
        .addresses()
        .iter()
        .filter_map(|address| Some(address.parse::<SocketAddr>().ok()?.ip()))
        .collect();
    if let Some(note) = check::note_on_address(join.host, &others) {
        tell(&note);
    }
    Ok(())
}

fn node_of(join: &Join, bundle: &Bundle, settings: &Settings) -> Node {
    let client = SocketAddr::new(join.host, join.port + 1);
    let member = (bundle.role.votes() && settings.managed).then(|| StoreMember {
        client,
        peer: SocketAddr::new(join.host, join.port + 2),
    });
    let mut endpoints = bundle.endpoints.clone();
    let own = format!("https://{client}");
    if member.is_some() && !endpoints.contains(&own) {
        endpoints.push(own);
    }
    Node {
        cluster: settings.cluster.clone(),
        cluster_id: settings.cluster_id.clone(),
        node: join.node.clone(),
        zone: join.zone.clone(),
        host: join.host,
        agent_port: join.port,
        runs_services: bundle.role != NodeRole::Witness,
        machine: machine(),
        profile: settings.profile,
        because: settings.because.clone(),
        timing: settings.timing,
        store: StorePlace {
            endpoints,
            prefix: settings.prefix.clone(),
            member,
            user: settings
                .access
                .as_ref()
                .and_then(|access| Some(access.login.as_ref()?.0.clone())),
            tls: settings.managed || settings.access.as_ref().is_some_and(|access| access.tls.is_some()),
        },
        watchdog: None,
        whole_up_to: None,
        generation: 0,
        left_behind: Vec::new(),
    }
}

/// Becomes a member of the store: first one that only listens, and when it has everything, one that votes. A join that was cut off
/// is taken up where it was.
async fn vote(place: &Place, tell: Progress<'_>) -> Result<(), Error> {
    let others = Place {
        node: Node {
            store: StorePlace {
                endpoints: place
                    .node
                    .store
                    .endpoints
                    .iter()
                    .filter(|url| !is_own(place, url))
                    .cloned()
                    .collect(),
                ..place.node.store.clone()
            },
            ..place.node.clone()
        },
        layout: place.layout.clone(),
    };
    let client = etcd_up(&others).await?;
    let admin = client.client().admin();
    let Some(mut config) = server_config(&place.node, &place.layout) else {
        return Ok(());
    };
    let own_url = config.peer_url();
    tell("joining the store");
    let deadline = tokio::time::Instant::now() + CATCH_UP;
    // One that listens at a time: another machine may be joining.
    let mut told = false;
    loop {
        let members = admin.members(false).await?;
        if members.iter().any(|member| member.peer_urls.contains(&own_url)) {
            break;
        }
        let added = admin.add(std::slice::from_ref(&own_url), true).await;
        match added {
            Ok(_) => break,
            Err(error) if tokio::time::Instant::now() >= deadline => return Err(error.into()),
            Err(error) => {
                if !told {
                    told = true;
                    tell(&format!("waiting: {}", chain(&error)));
                }
                tokio::time::sleep(ETCD_LOOK * 10).await;
            }
        }
    }
    let members = admin.members(false).await?;
    let known = members.iter().filter(|member| !member.peer_urls.contains(&own_url));
    let known = known.filter_map(|member| Some((member.name.clone(), member.peer_urls.first()?.clone())));
    config.initial = Initial::Join(known.collect());
    let _server = Server::start(config).await?;
    tell("catching up with the store");
    loop {
        let members = admin.members(false).await?;
        let own = members.iter().find(|member| member.peer_urls.contains(&own_url));
        match own {
            Some(own) if !own.learner => return Ok(()),
            Some(own) => {
                if let Err(error) = admin.promote(own.id).await
                    && tokio::time::Instant::now() >= deadline
                {
                    return Err(error.into());
                }
            }
            None => {
                return Err(Error::Unsafe {
                    what: "this machine was taken out of the store while it joined".into(),
                    hint: "ask who did it, then join with a new token".into(),
                });
            }
        }
        tokio::time::sleep(ETCD_LOOK).await;
    }
}

fn is_own(place: &Place, url: &str) -> bool {
    let own = place
        .node
        .store
        .member
        .as_ref()
        .map(|member| format!("https://{}", member.client));
    own.as_deref() == Some(url)
}

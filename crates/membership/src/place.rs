//! Where the parts of a node lie, and how its store is reached.

use crate::{Access, Error};
use api::layout::Layout;
use api::node::Node;
use identity::Folder;
use model::WallTime;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Files of a node's identity that etcd and its clients use.
pub(crate) const STORE_CA: &str = "store-ca.crt";
const STORE_SERVER: &str = "store-server.crt";
const STORE_PEER: &str = "store-peer.crt";
const STORE_CLIENT: &str = "store-client.crt";
const STORE_KEY: &str = "store.key";
const STORE_REVOKED: &str = "store.crl";
/// Clients of other etcds bring these.
const OTHER_CA: &str = "etcd-ca.pem";
const OTHER_CERT: &str = "etcd-client.pem";
const OTHER_KEY: &str = "etcd-client.key";
const PASSWORD: &str = "etcd-password";

/// A node on this machine.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its paths.
    pub layout: Layout,
    /// What it is.
    pub node: Node,
}

impl Place {
    /// The node of `cluster` below `base`.
    pub fn open(base: &Path, cluster: &str) -> Result<Self, Error> {
        let layout = Layout::new(base, cluster);
        let node = Node::read(&layout.node())?.ok_or_else(|| Error::NoNode {
            cluster: cluster.into(),
        })?;
        Ok(Self { layout, node })
    }

    /// Whether the store is run by nodes of this cluster; this one need not be one of those.
    pub fn store_is_ours(&self) -> bool {
        self.node.store.member.is_some() || self.node.store.tls && !self.layout.pki().join(OTHER_CA).exists()
    }

    /// Its keys and certificates.
    pub fn folder(&self) -> Result<Folder, Error> {
        Ok(Folder::open(self.layout.pki())?)
    }
}

impl Access {
    /// That of a node whose etcd is not ours.
    pub(crate) fn of(place: &Place) -> Result<Option<Self>, Error> {
        if place.node.store.member.is_some() {
            return Ok(None);
        }
        let folder = place.folder()?;
        let tls = match folder.file(OTHER_CA).exists() {
            true => Some((
                folder.read_public(OTHER_CA)?,
                folder.read_public(OTHER_CERT)?,
                folder.read_secret(OTHER_KEY)?,
            )),
            false => None,
        };
        let login = match &place.node.store.user {
            Some(user) => Some((user.clone(), folder.read_secret(PASSWORD)?)),
            None => None,
        };
        Ok(Some(Self { tls, login }))
    }

    /// Keeps it for this node.
    pub(crate) fn save(&self, folder: &Folder) -> Result<(), Error> {
        if let Some((ca, cert, key)) = &self.tls {
            folder.write_public(OTHER_CA, ca)?;
            folder.write_public(OTHER_CERT, cert)?;
            folder.write_secret(OTHER_KEY, key)?;
        }
        if let Some((_, password)) = &self.login {
            folder.write_secret(PASSWORD, password)?;
        }
        Ok(())
    }
}

/// How the store of a node is reached.
pub fn etcd_options(node: &Node, layout: &Layout) -> Result<etcd::Options, Error> {
    let timing = node.timing();
    let timeout = timing.request_timeout.duration();
    let own = node
        .store
        .member
        .as_ref()
        .map(|member| format!("https://{}", member.client));
    let mut endpoints = node.store.endpoints.clone();
    endpoints.sort_by_key(|url| own.as_ref() != Some(url));
    let near = own.is_some_and(|own| endpoints.first() == Some(&own));
    let mut options = etcd::Options::new(endpoints)
        .deadlines(timeout.max(Duration::from_millis(100)) * 2, Duration::from_secs(5))
        .prefix(node.store.prefix.clone());
    options.renewal.attempt = timeout;
    options.near = near;
    // Somebody renews at least every five R; a watch whose member went silent goes on at another one well before W, also if nobody tells it that
    // the connection is dead.
    options.silence = timing.renew.duration() * 3;
    options.mute = timeout * 3 / 2;
    options.reconnect = timing.renew.duration().min(Duration::from_millis(100));
    let folder = || Folder::open(layout.pki());
    if node.store.tls {
        let folder = folder()?;
        let (ca, cert, key) =
            if node.store.member.is_some() || folder.file(STORE_CLIENT).exists() && !folder.file(OTHER_CA).exists() {
                (STORE_CA, STORE_CLIENT, STORE_KEY)
            } else {
                (OTHER_CA, OTHER_CERT, OTHER_KEY)
            };
        let key = etcd::Password::from(folder.read_secret(key)?.reveal().to_owned());
        options = options.tls(etcd::Tls {
            ca: folder.read_public(ca)?,
            identity: Some((folder.read_public(cert)?, key)),
        });
    }
    if let Some(user) = &node.store.user {
        let password = folder()?.read_secret(PASSWORD)?.reveal().trim_end().to_owned();
        options = options.login(user.clone(), password);
    }
    Ok(options)
}

/// The store of a node, for what operators do there. Not for a node that was removed: until the others have heard of that, their members of the
/// store would still let it in.
pub async fn connect(place: &Place) -> Result<etcd::Etcd, Error> {
    let store = etcd::Etcd::connect(etcd_options(&place.node, &place.layout)?).await?;
    match place.taken_out_by(&store).await {
        Ok(Some(told)) => Err(Error::Unsafe {
            what: told.text(&place.node.node),
            hint: told.hint(place),
        }),
        _ => Ok(store),
    }
}

/// The member of etcd that a node runs, if it runs one.
pub fn server_config(node: &Node, layout: &Layout) -> Option<etcd::server::Config> {
    let member = node.store.member.as_ref()?;
    let mut config = etcd::server::Config::new(
        node.node.as_str(),
        layout.root(),
        member.client.port(),
        member.peer.port(),
    );
    config.data_dir = layout.etcd();
    config.initial = etcd::server::config::Initial::Present;
    config.log = layout.own_log("etcd");
    config.record = layout.run().join("etcd.json");
    config.address = member.client.ip();
    config.profile = node.profile;
    config.token = node.cluster_id.clone();
    config.witness = !node.runs_services;
    if node.store.tls {
        let file = |name: &str| layout.pki().join(name);
        config.tls = Some(etcd::server::config::Tls {
            ca: file(STORE_CA),
            cert: file(STORE_SERVER),
            key: file(STORE_KEY),
            peer_cert: Some(file(STORE_PEER)),
            peer_name: Some(identity::etcd::PEER_NAME.into()),
            revoked: Some(file(STORE_REVOKED)),
        });
    }
    Some(config)
}

pub(crate) fn now() -> WallTime {
    WallTime(jiff::Timestamp::now().as_millisecond())
}

/// Puts what an earlier attempt left here out of the way: without `node.json` it belongs to no node. Nothing is deleted.
pub(crate) fn put_leftovers_aside(layout: &Layout) -> Result<Option<PathBuf>, Error> {
    let aside = layout.root().join(format!("left-over-{}", now().0 / 1_000));
    let mut moved = None;
    for path in [layout.pki(), layout.etcd()] {
        let Some(name) = path.file_name().filter(|_| path.exists()) else {
            continue;
        };
        let failed = |source| Error::Io {
            doing: "put aside",
            path: path.clone(),
            source,
        };
        std::fs::create_dir_all(&aside).map_err(failed)?;
        std::fs::rename(&path, aside.join(name)).map_err(failed)?;
        moved = Some(aside.clone());
    }
    Ok(moved)
}

/// Makes the folders that a node needs.
pub(crate) fn make_folders(layout: &Layout) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    for path in [
        layout.root().to_owned(),
        layout.run(),
        layout.logs(),
        layout.instances(),
    ] {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&path)
            .map_err(|source| Error::Io {
                doing: "make the folder",
                path,
                source,
            })?;
    }
    Ok(())
}

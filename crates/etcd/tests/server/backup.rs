//! The whole store in a file, and back.

use crate::rig::{PATIENCE, World, cluster, get, measured, put};
use etcd::server::backup::{BackupError, VerifyError, snapshot, verify};
use etcd::server::cluster::wait_ready;
use etcd::server::restore::{Error, Old, restore};
use etcd::server::{Config, Server};
use std::path::Path;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_backup_comes_back_and_a_damaged_one_touches_nothing() {
    let world = World::new();
    let a = world.first().await;
    put(&a, "k", "then").await;
    let file = world.folder.path().join("backup.db");
    let (client, endpoint) = (cluster(&a), a.config().client_url());
    let begun = Instant::now();
    let meta = serde_json::json!({ "generation": 4 });
    let made = snapshot(client.client(), &endpoint, &file, meta).await.unwrap();
    measured("backup", begun.elapsed());
    assert_eq!(verify(&file).unwrap(), made);
    assert_eq!(
        (made.version.as_str(), &made.meta["generation"]),
        (version().as_str(), &4.into())
    );
    assert!(made.revision >= 2 && made.revision_max >= made.revision, "{made:?}");
    let again = snapshot(client.client(), &endpoint, &file, serde_json::Value::Null).await;
    assert!(matches!(again, Err(BackupError::Exists { .. })), "{again:?}");
    assert_eq!(unfinished(world.folder.path()), 0);

    put(&a, "k", "now").await;
    let config = a.config().clone();
    let running = restore(&file, &config, Old::MoveAside).await.unwrap_err();
    assert!(matches!(running, Error::Lock(_)), "{running}");
    a.stop(Duration::from_secs(10)).await.unwrap();

    damaged(&file, &config).await;
    let refused = restore(&file, &config, Old::Refuse).await.unwrap_err();
    assert!(matches!(refused, Error::NotEmpty { .. }), "{refused}");
    let untouched = Server::start(config.clone()).await.unwrap();
    wait_ready(&untouched, PATIENCE).await.unwrap();
    assert_eq!(get(&untouched, "k").await.as_deref(), Some("now"));
    untouched.stop(Duration::from_secs(10)).await.unwrap();

    let begun = Instant::now();
    let restored = restore(&file, &config, Old::MoveAside).await.unwrap();
    measured("restore", begun.elapsed());
    let bumps = matches!(
        etcd::server::binary::Tool::find().unwrap(),
        etcd::server::binary::Tool::Etcdutl {
            bumps_revision: true,
            ..
        }
    );
    assert_eq!(restored.revision_bumped, bumps);
    assert_eq!(restored.description, made);
    let kept = restored.kept.unwrap();
    assert!(kept.join("member/snap/db").exists(), "the old data are kept");
    let back = Server::start(config.clone()).await.unwrap();
    wait_ready(&back, PATIENCE).await.unwrap();
    assert_eq!(get(&back, "k").await.as_deref(), Some("then"));
    put(&back, "k", "again").await;

    // What was kept is as good as it was.
    back.stop(Duration::from_secs(10)).await.unwrap();
    let mut old = world.config("a", 3);
    old.data_dir = kept;
    let old = Server::start(old).await.unwrap();
    wait_ready(&old, PATIENCE).await.unwrap();
    assert_eq!(get(&old, "k").await.as_deref(), Some("now"));
}

async fn damaged(file: &Path, config: &Config) {
    let whole = std::fs::read(file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (bytes, expected) in [(&whole[..whole.len() - 512], "Length"), (&flipped[..], "Sha256")] {
        std::fs::write(file, bytes).unwrap();
        let refused = restore(file, config, Old::MoveAside).await.unwrap_err();
        assert!(
            matches!(&refused, Error::Backup(error) if format!("{error:?}").starts_with(expected)),
            "{refused}"
        );
    }
    std::fs::write(file, whole).unwrap();
    let nowhere = restore(Path::new("/nonexistent/backup"), config, Old::Refuse).await;
    assert!(matches!(nowhere, Err(Error::Backup(VerifyError::Read { .. }))));
}

fn unfinished(folder: &Path) -> usize {
    let names = std::fs::read_dir(folder).unwrap().flatten();
    names
        .filter(|entry| entry.file_name().to_string_lossy().contains("unfinished"))
        .count()
}

fn version() -> String {
    etcd::server::binary::Etcd::find(None).unwrap().version.to_string()
}

//! A hook must not outlive what it was run for: the next process may listen on the same port.

use super::{HEAL, PROGRAM, kill};
use bench::rig::{self, Rig};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// One exclusive service; its promote hook takes a second and then writes down who was promoted, and at which epoch.
struct Slow {
    rig: Rig,
    promoted: PathBuf,
    began: PathBuf,
    _folder: tempfile::TempDir,
}

impl Slow {
    fn up() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (promoted, began) = (folder.path().join("promoted"), folder.path().join("began"));
        let hook = format!(
            "echo {{instance}} {{epoch}} >> {}; sleep 1; echo {{instance}} {{epoch}} >> {}",
            began.display(),
            promoted.display()
        );
        let file = format!(
            "name = \"slow\"\n[service.db]\ncommand = [\"sleep\", \"1000\"]\nexclusive = true\nstandby = 1\non_promote = [\"sh\", \"-c\", \"{hook}\"]\n"
        );
        let rig = Rig::up(Path::new(PROGRAM), "slow", &file).unwrap();
        Self {
            rig,
            promoted,
            began,
            _folder: folder,
        }
    }

    fn lines(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until so many promotions have begun.
    fn until_begun(&self, count: usize) {
        let begun = Instant::now();
        while Self::lines(&self.began).len() < count {
            assert!(begun.elapsed() < HEAL, "no promotion begins");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for redundancy, and for whatever an old hook might still do.
    fn settled(&self, gone: &[u32]) -> Vec<String> {
        let whole = |status: &api::Status| rig::redundant_without(status, "db", gone);
        self.rig.wait_for("redundancy", HEAL, whole).unwrap();
        std::thread::sleep(Duration::from_millis(1500));
        Self::lines(&self.promoted)
    }
}

#[test]
fn a_promotion_ends_with_the_process_it_was_for() {
    let slow = Slow::up();
    assert_eq!(Slow::lines(&slow.promoted).len(), 1);
    let (_, first) = rig::holder(&slow.rig.status().unwrap(), "db", 0).unwrap();
    kill(first);
    slow.until_begun(2);
    let (second_name, second) = rig::holder(&slow.rig.status().unwrap(), "db", 0).unwrap();
    kill(second);
    let promoted = slow.settled(&[first, second]);
    let of_the_dead = format!("{second_name} 2");
    assert!(!promoted.contains(&of_the_dead), "its hook went on: {promoted:?}");
    assert_eq!(promoted.len(), 2, "{promoted:?}");
}

#[test]
fn a_promotion_ends_with_the_agent_that_began_it() {
    let slow = Slow::up();
    let (_, first) = rig::holder(&slow.rig.status().unwrap(), "db", 0).unwrap();
    kill(first);
    slow.until_begun(2);
    kill(slow.rig.own().unwrap().agent);
    let promoted = slow.settled(&[first]);
    let begun = Slow::lines(&slow.began);
    // The next agent cannot know how far it was: it promotes at an epoch of its own.
    assert!(
        !promoted.contains(&begun[1]),
        "the orphan went on: {promoted:?} of {begun:?}"
    );
    assert_eq!(promoted.last(), begun.last());
}

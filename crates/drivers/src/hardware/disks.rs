//! From a mount down to the disks: through partitions, LVM, encryption, RAID and loop devices, by `/sys/dev/block`.
//!
//! ```text
//! /dev/mapper/data (dm) ─ slaves ─► sda2 (partition) ─ folder above ─► sda: its wwid
//! /dev/md0 ─ level raid1 ─► of these any may fail: the array is the disk
//! ```

use super::mounts::{self, Mount};
use super::read;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Deeper stacks than this are taken for a circle.
const DEPTH_MAX: usize = 16;
/// RAID levels that outlive the loss of a disk.
const REDUNDANT: [&str; 6] = ["raid1", "raid4", "raid5", "raid6", "raid10", "raid1e"];

/// Each disk without which a mount is lost, with its name the world over if it has one.
pub(super) fn below(sys: &Path, mounts: &[Mount], mount: &Mount) -> BTreeMap<String, Option<String>> {
    let mut found = BTreeMap::new();
    if let Some(device) = device(sys, mount) {
        walk(sys, mounts, &device, DEPTH_MAX, &mut found);
    }
    found
}

/// The folder of a mount's device. Of btrfs and the like the number is none of a device; the source names one.
fn device(sys: &Path, mount: &Mount) -> Option<PathBuf> {
    let by_number = |number: &str| std::fs::canonicalize(sys.join("dev/block").join(number)).ok();
    by_number(&mount.device).or_else(|| {
        let node = mount
            .source
            .starts_with("/dev/")
            .then(|| std::fs::metadata(&mount.source).ok())??;
        let (major, minor) = (rustix::fs::major(node.rdev()), rustix::fs::minor(node.rdev()));
        by_number(&format!("{major}:{minor}"))
    })
}

fn walk(sys: &Path, mounts: &[Mount], device: &Path, depth: usize, found: &mut BTreeMap<String, Option<String>>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    if device.join("partition").exists() {
        if let Some(whole) = device.parent() {
            walk(sys, mounts, whole, depth, found);
        }
        return;
    }
    if let Some(file) = read(&device.join("loop/backing_file")) {
        let file = PathBuf::from(file.trim());
        if let Some(below) = mounts::of(mounts, &file).and_then(|mount| self::device(sys, mount)) {
            walk(sys, mounts, &below, depth, found);
        }
        return;
    }
    let level = read(&device.join("md/level"));
    let outlives = level.is_some_and(|level| REDUNDANT.contains(&level.trim()));
    let slaves: Vec<PathBuf> = match outlives {
        true => Vec::new(),
        false => entries(&device.join("slaves")),
    };
    for slave in &slaves {
        if let Ok(slave) = std::fs::canonicalize(slave) {
            walk(sys, mounts, &slave, depth, found);
        }
    }
    if let Some(name) = device.file_name().filter(|_| slaves.is_empty()) {
        found.insert(name.to_string_lossy().into_owned(), worldwide(device));
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The name that no other disk has. Serial numbers alone are none: those that virtual machines are shown repeat from one to the next.
fn worldwide(disk: &Path) -> Option<String> {
    let told = ["wwid", "device/wwid"]
        .into_iter()
        .find_map(|file| read(&disk.join(file)))?;
    let name = told.split_whitespace().collect::<Vec<_>>().join(" ");
    let (scheme, rest) = name.split_once('.')?;
    let is_assigned = matches!(scheme, "naa" | "eui" | "uuid" | "nvme");
    let is_blank = rest.chars().all(|digit| matches!(digit, '0' | '-' | '.'));
    (is_assigned && !is_blank).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::below;
    use crate::hardware::mounts::{Mount, parse};
    use std::collections::BTreeMap;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    /// A `/sys` as kernels lay it out.
    struct Sys(tempfile::TempDir);

    impl Sys {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(folder.path().join("dev/block")).unwrap();
            Self(folder)
        }

        fn device(&self, number: &str, path: &str, files: &[(&str, &str)]) -> PathBuf {
            let device = self.0.path().join("devices").join(path);
            std::fs::create_dir_all(device.join("slaves")).unwrap();
            for (file, text) in files {
                let file = device.join(file);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(file, text).unwrap();
            }
            symlink(&device, self.0.path().join("dev/block").join(number)).unwrap();
            device
        }

        fn found(&self, mounts: &[Mount], index: usize) -> BTreeMap<String, Option<String>> {
            below(self.0.path(), mounts, &mounts[index])
        }
    }

    fn on(upper: &Path, lower: &Path) {
        symlink(lower, upper.join("slaves").join(lower.file_name().unwrap())).unwrap();
    }

    fn disks(of: &[(&str, Option<&str>)]) -> BTreeMap<String, Option<String>> {
        of.iter()
            .map(|(name, id)| ((*name).to_owned(), id.map(str::to_owned)))
            .collect()
    }

    #[test]
    fn lvm_over_encryption_over_a_partition_is_one_disk() {
        let sys = Sys::new();
        sys.device("8:0", "pci/block/sda", &[("device/wwid", "naa.5000c500a1b2c3d4\n")]);
        let part = sys.device("8:2", "pci/block/sda/sda2", &[("partition", "2\n")]);
        let crypt = sys.device("253:0", "virtual/block/dm-0", &[]);
        let lv = sys.device("253:1", "virtual/block/dm-1", &[]);
        on(&crypt, &part);
        on(&lv, &crypt);
        let mounts = parse("27 1 253:1 / / rw - ext4 /dev/mapper/vg-root rw\n");
        assert_eq!(sys.found(&mounts, 0), disks(&[("sda", Some("naa.5000c500a1b2c3d4"))]));
    }

    #[test]
    fn striped_disks_are_all_needed_and_mirrored_ones_are_not() {
        let sys = Sys::new();
        let a = sys.device("8:0", "pci/block/sda", &[("wwid", "naa.1")]);
        let b = sys.device("8:16", "pci/block/sdb", &[("wwid", "naa.2")]);
        let striped = sys.device("9:0", "virtual/block/md0", &[("md/level", "raid0\n")]);
        let mirrored = sys.device("9:1", "virtual/block/md1", &[("md/level", "raid1\n")]);
        for array in [&striped, &mirrored] {
            on(array, &a);
            on(array, &b);
        }
        let mounts = parse("1 0 9:0 / /a rw - xfs /dev/md0 rw\n2 0 9:1 / /b rw - xfs /dev/md1 rw\n");
        assert_eq!(
            sys.found(&mounts, 0),
            disks(&[("sda", Some("naa.1")), ("sdb", Some("naa.2"))])
        );
        assert_eq!(sys.found(&mounts, 1), disks(&[("md1", None)]));
    }

    #[test]
    fn a_loop_device_is_what_its_file_lies_on() {
        let sys = Sys::new();
        sys.device("259:0", "pci/block/nvme0n1", &[("wwid", "eui.0025385b71b0c0de")]);
        sys.device(
            "7:0",
            "virtual/block/loop0",
            &[("loop/backing_file", "/images/data.img\n")],
        );
        let mounts = parse("1 0 259:0 / / rw - ext4 /dev/nvme0n1 rw\n2 1 7:0 / /data rw - ext4 /dev/loop0 rw\n");
        assert_eq!(
            sys.found(&mounts, 1),
            disks(&[("nvme0n1", Some("eui.0025385b71b0c0de"))])
        );
    }

    #[test]
    fn names_that_repeat_from_machine_to_machine_are_none() {
        let sys = Sys::new();
        for (number, name, wwid) in [
            (
                "8:0",
                "sda",
                "t10.ATA     QEMU HARDDISK                           QM00001",
            ),
            ("8:16", "sdb", "naa.0000000000000000"),
            ("8:32", "sdc", ""),
        ] {
            sys.device(number, &format!("pci/block/{name}"), &[("device/wwid", wwid)]);
            let mounts = parse(&format!("1 0 {number} / / rw - ext4 /dev/{name} rw\n"));
            assert_eq!(sys.found(&mounts, 0), disks(&[(name, None)]), "{wwid}");
        }
    }

    #[test]
    fn a_circle_and_a_device_that_is_not_there_end() {
        let sys = Sys::new();
        let one = sys.device("253:0", "virtual/block/dm-0", &[]);
        let other = sys.device("253:1", "virtual/block/dm-1", &[]);
        on(&one, &other);
        on(&other, &one);
        let mounts = parse("1 0 253:0 / / rw - ext4 /dev/dm-0 rw\n2 1 0:50 / /b rw - btrfs /dev/nothing rw\n");
        assert_eq!(sys.found(&mounts, 0), disks(&[]));
        assert_eq!(sys.found(&mounts, 1), disks(&[]));
    }
}

//! `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// `254:0`; of some file systems a number that no device has.
    pub(super) device: String,
    /// Where it is.
    pub(super) at: PathBuf,
    /// `ext4`
    pub(super) kind: String,
    /// What is mounted: `/dev/sda1`, `nas:/export`.
    pub(super) source: String,
}

/// File systems whose data another machine has, with where in the source its name ends.
const REMOTE: [(&str, &str); 9] = [
    ("nfs", ":/"),
    ("nfs4", ":/"),
    ("ceph", ":/"),
    ("glusterfs", ":"),
    ("fuse.glusterfs", ":"),
    ("cifs", "/"),
    ("smb3", "/"),
    ("fuse.sshfs", ":"),
    ("afs", ":"),
];

/// All mounts, in the order of the kernel. A line that is not understood is left out.
pub(super) fn parse(text: &str) -> Vec<Mount> {
    text.lines().filter_map(line).collect()
}

/// The mount that a path lies on: the deepest, and of several at one place the last.
pub(super) fn of<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let holds = mounts.iter().filter(|mount| path.starts_with(&mount.at));
    holds.max_by_key(|mount| mount.at.components().count())
}

impl Mount {
    /// The file server that has what is on it.
    pub(super) fn server(&self) -> Option<String> {
        let (_, end) = REMOTE.iter().find(|(kind, _)| *kind == self.kind)?;
        let source = self.source.trim_start_matches('/');
        // Of a user at a server, the server; of several servers, all of them: they are one cluster.
        let name = source.split_once(end).map_or(source, |(name, _)| name);
        let name = name.rsplit('@').next().unwrap_or(name);
        (!name.is_empty()).then(|| name.to_owned())
    }
}

/// `27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw`: between the sixth field and the dash are as many more as there are.
fn line(line: &str) -> Option<Mount> {
    let (head, tail) = line.split_once(" - ")?;
    let mut head = head.split(' ').skip(2);
    let (device, at) = (head.next()?, head.nth(1)?);
    let mut tail = tail.split(' ');
    let (kind, source) = (tail.next()?, tail.next()?);
    Some(Mount {
        device: device.to_owned(),
        at: OsString::from_vec(unescaped(at)).into(),
        kind: kind.to_owned(),
        source: String::from_utf8_lossy(&unescaped(source)).into_owned(),
    })
}

/// Spaces and the like are written as `\040`.
fn unescaped(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let octal = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (first, octal) {
            (b'\\', Some(byte)) => {
                out.push(byte);
                rest = &after[3..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{of, parse};
    use std::path::Path;

    /// As recorded on machines; the third line has no optional field, the fourth two.
    const RECORDED: &str = r"22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
36 27 0:45 / /srv/my\040data rw,relatime shared:5 - nfs4 nas1.example:/export/a rw,vers=4.2,addr=10.0.0.9
37 27 0:46 / /srv/share rw shared:6 master:2 - cifs //files/team rw
38 27 0:47 / /srv/ceph rw - ceph 10.0.0.1:6789,10.0.0.2:6789:/vol rw,name=admin
39 27 0:48 / /srv/old rw - nfs [fd00::9]:/export rw
40 27 253:1 / /srv rw - xfs /dev/mapper/data rw
41 27 0:49 / /srv/tmp rw - tmpfs tmpfs rw
not a line of it
";

    #[test]
    fn a_folder_lies_on_the_deepest_mount() {
        let mounts = parse(RECORDED);
        assert_eq!(mounts.len(), 8);
        let on = |path: &str| of(&mounts, Path::new(path)).map(|mount| mount.source.as_str());
        assert_eq!(on("/var/lib/understudy"), Some("/dev/vda"));
        assert_eq!(on("/srv/x"), Some("/dev/mapper/data"));
        assert_eq!(on("/srv/my data/db-1"), Some("nas1.example:/export/a"));
        // A name that only begins alike is another folder.
        assert_eq!(on("/srv/tmpx"), Some("/dev/mapper/data"));
    }

    #[test]
    fn a_file_server_is_named_without_what_it_serves() {
        let servers: Vec<Option<String>> = parse(RECORDED).iter().map(super::Mount::server).collect();
        let named: Vec<&str> = servers.iter().flatten().map(String::as_str).collect();
        let ceph = "10.0.0.1:6789,10.0.0.2:6789";
        assert_eq!(named, ["nas1.example", "files", ceph, "[fd00::9]"]);
    }
}

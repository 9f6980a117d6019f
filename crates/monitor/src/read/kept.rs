//! A file of the kernel's that is read once a second.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// What is read of a file: those we read are shorter.
const BYTES_MAX: usize = 8 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    file: Option<File>,
    /// It was not there: most likely it will not be there the next time either.
    missing: bool,
    keep: bool,
}

impl Kept {
    /// A file that stays open between reads, or not.
    pub(super) fn new(path: impl Into<PathBuf>, keep: bool) -> Self {
        Self {
            path: path.into(),
            file: None,
            missing: false,
            keep,
        }
    }

    /// Its content now. `None` if it cannot be read; one that was not there is not looked for again.
    pub(super) fn read<'a>(&mut self, buffer: &'a mut Vec<u8>) -> Option<&'a str> {
        if self.missing {
            return None;
        }
        if self.file.is_none() {
            match File::open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(_) => {
                    self.missing = true;
                    return None;
                }
            }
        }
        buffer.resize(BYTES_MAX, 0);
        let mut filled = 0;
        let whole = loop {
            // What the kernel makes up is told in one read as a rule; an end is told by a read of nothing.
            match self.file.as_ref()?.read_at(&mut buffer[filled..], filled as u64) {
                Ok(0) => break true,
                Ok(read) => filled += read,
                Err(_) => break false,
            }
            if filled < 4_000 || filled == BYTES_MAX {
                break true;
            }
        };
        if !self.keep || !whole {
            self.file = None;
        }
        whole.then_some(())?;
        std::str::from_utf8(&buffer[..filled]).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_read_is_of_now_and_what_is_missing_stays_missing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cpu.stat");
        let mut buffer = Vec::new();
        let mut missing = Kept::new(&path, true);
        assert_eq!(missing.read(&mut buffer), None);
        std::fs::write(&path, "usage_usec 5\n").expect("is written");
        assert_eq!(missing.read(&mut buffer), None);
        for keep in [true, false] {
            let mut kept = Kept::new(&path, keep);
            std::fs::write(&path, "usage_usec 5\n").expect("is written");
            assert_eq!(kept.read(&mut buffer), Some("usage_usec 5\n"));
            std::fs::write(&path, "usage_usec 77\n").expect("is written");
            assert_eq!(kept.read(&mut buffer), Some("usage_usec 77\n"));
        }
    }
}

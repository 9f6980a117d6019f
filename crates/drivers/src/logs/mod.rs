//! What instances write, kept bounded, shown and followed.
//!
//! A service writes straight to its log file, through a descriptor that it has from its start, and is never asked to open
//! it again. So a log is rotated under the writer's feet: what is old is copied to `FILE.1` and cut off the *front* of `FILE`.
//! `FILE.N … FILE.1 FILE`, one after the other, are what was written; a line may begin in one and end in the next.
//!
//! How much was ever cut off stands in `.FILE.cut`, so that whoever follows a log knows where its place has moved to.
//!
//! Readers and the rotation exclude each other by a lock (`flock`) on `FILE`, which writers do not know of.

mod follow;
mod rotate;
mod tail;

pub use follow::Follower;
pub use rotate::{RotateError, Rotated, Rotator};
pub use tail::tail;

use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Longer lines are cut, so that a binary that is printed by mistake does not fill memory and screen.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// The `n`th rotated file of a log; the live one for 0.
fn nth(path: &Path, n: u32) -> PathBuf {
    if n == 0 {
        return path.to_path_buf();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    PathBuf::from(name)
}

/// How many bytes were ever cut off the front of a log.
fn cut_of(path: &Path) -> u64 {
    fs::read_to_string(cut_file(path))
        .ok()
        .and_then(|cut| cut.trim().parse().ok())
        .unwrap_or(0)
}

fn cut_file(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.cut"))
}

/// Opens a log for reading, with no rotation until it is closed. `None` if there is none yet.
fn open_shared(path: &Path) -> io::Result<Option<File>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    flock(&file, FlockOperation::LockShared)?;
    Ok(Some(file))
}

/// The bytes of a line as text; bytes that are none are replaced, and what is too long is cut with a note.
fn line_of(bytes: &[u8], cut_already: bool) -> String {
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    let kept = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let mut line = String::from_utf8_lossy(kept).into_owned();
    if cut_already || kept.len() < bytes.len() {
        line.push_str(" … [the line goes on and was cut at 16 KiB]");
    }
    line
}

//! The operator's file, read and understood before anything is sent or started.

use super::{Error, Session};
use crate::who;
use api::ApplyRequest;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// A file without errors.
#[derive(Debug)]
pub(super) struct File {
    /// What it says.
    pub(super) parsed: spec::Parsed,
    /// Where it lies, absolute: relative paths in it are meant from there.
    path: PathBuf,
}

/// Reads a file; its errors and warnings are told with pictures.
pub(super) fn read(session: &Session, path: &Path) -> Result<File, Error> {
    let color = session.output.talk.color;
    match parse(&bytes(path)?, path) {
        Ok(file) => {
            for warning in &file.parsed.warnings {
                session.output.say(&format!("{}\n", warning.render(color)));
            }
            Ok(file)
        }
        Err(errors) => {
            session.output.say(&format!("{}\n", errors.render(color)));
            Err(Error::BadFile {
                path: path.to_owned(),
                errors: errors.len(),
            })
        }
    }
}

/// What a file contains; of one that is too large, enough to be told so.
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, Error> {
    bounded(path, spec::FILE_BYTES_MAX)
}

/// The same with another bound.
pub(super) fn bounded(path: &Path, bytes_max: usize) -> Result<Vec<u8>, Error> {
    let read = |source| Error::ReadFile {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    // Asked before it is opened: a named pipe would wait for somebody to write.
    if !is_handed_over(path)
        && let Some(what) = no_file(std::fs::metadata(path).map_err(read)?.file_type())
    {
        return Err(Error::NoFile {
            path: path.to_owned(),
            what,
        });
    }
    let file = std::fs::File::open(path).map_err(read)?;
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(read)?;
    Ok(bytes)
}

/// What somebody hands over on purpose, be it a pipe: `understudy check /dev/stdin`, `understudy check <(…)`.
fn is_handed_over(path: &Path) -> bool {
    path == Path::new("/dev/stdin") || path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd")
}

/// What a path is that is no file.
fn no_file(kind: std::fs::FileType) -> Option<&'static str> {
    if kind.is_file() {
        return None;
    }
    Some(match () {
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a named pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    })
}

/// Understands it.
pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<File, spec::Errors> {
    let parsed = spec::parse_bytes(bytes, &path.display().to_string())?;
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Ok(File { parsed, path })
}

impl File {
    /// What it declares.
    pub(super) fn cluster(&self) -> &model::Cluster {
        &self.parsed.cluster
    }

    /// The folder it lies in, absolute.
    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// The cluster to which it belongs, if that is not another one than was asked for.
    pub(super) fn cluster_of(&self, session: &Session) -> Result<String, Error> {
        match &session.place.asked {
            Some(asked) if *asked != self.cluster().name => Err(Error::OtherCluster {
                file: self.cluster().name.clone(),
                asked: asked.clone(),
            }),
            _ => Ok(self.cluster().name.clone()),
        }
    }

    /// What is sent to the agent.
    pub(super) fn request(&self, against: Option<u64>) -> ApplyRequest {
        ApplyRequest {
            text: self.parsed.text().to_owned(),
            path: self.path.display().to_string(),
            against,
            by: who::caller(),
            first: false,
        }
    }
}

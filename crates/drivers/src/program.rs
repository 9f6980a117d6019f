//! Finds the program of a command, as a shell would, and says what is wrong with it.

use rustix::fs::{Access, AtFlags, CWD, accessat};
use std::io;
use std::path::{Path, PathBuf};

/// Where programs are looked up when neither a command nor the agent itself has a `PATH`.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why the program of a command cannot be run.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The command is empty, or begins with an empty word.
    #[error("the command names no program")]
    Empty,
    /// A name without `/` that no folder of `PATH` has.
    #[error("`{program}` is in none of the folders of PATH ({path})")]
    NotInPath {
        /// The name.
        program: String,
        /// The folders searched.
        path: String,
    },
    /// A path that does not begin with `/`, and nothing to take it from.
    #[error("`{program}` is a relative path, and there is no folder to take it from")]
    Relative {
        /// The path.
        program: String,
    },
    /// There is no such file.
    #[error("`{}` does not exist", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It is a folder, a socket or the like.
    #[error("`{}` is {what}, not a file", path.display())]
    NotAFile {
        /// Its path.
        path: PathBuf,
        /// "a folder", say.
        what: &'static str,
    },
    /// The file is there, but whoever runs the agent may not execute it.
    #[error("`{}` is not executable", path.display())]
    NotExecutable {
        /// The file.
        path: PathBuf,
    },
    /// The file system refused to tell.
    #[error("cannot look at `{}`: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What it said.
        why: String,
    },
}

/// The file that `program` names: looked up in `path` (folders separated by `:`) unless it contains a `/`;
/// a relative path is taken from `base`. The file is there and the agent may execute it.
pub fn locate(program: &str, base: Option<&Path>, path: &str) -> Result<PathBuf, Error> {
    if program.is_empty() {
        return Err(Error::Empty);
    }
    if program.contains('/') {
        let file = match base {
            _ if program.starts_with('/') => PathBuf::from(program),
            Some(base) => base.join(program.trim_start_matches("./")),
            None => {
                return Err(Error::Relative {
                    program: program.into(),
                });
            }
        };
        return runnable(&file).map(|()| file);
    }
    let mut refused = None;
    // An empty entry of PATH means the current folder, which for a daemon is chance: left out.
    for folder in path.split(':').filter(|folder| folder.starts_with('/')) {
        let file = Path::new(folder).join(program);
        match runnable(&file) {
            Ok(()) => return Ok(file),
            Err(error @ Error::NotExecutable { .. }) => {
                refused.get_or_insert(error);
            }
            Err(_) => {}
        }
    }
    Err(refused.unwrap_or_else(|| Error::NotInPath {
        program: program.into(),
        path: path.into(),
    }))
}

fn runnable(file: &Path) -> Result<(), Error> {
    let path = || file.to_path_buf();
    let kind = std::fs::metadata(file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::Missing { path: path() },
        _ => Error::Unreadable {
            path: path(),
            why: error.to_string(),
        },
    })?;
    if !kind.is_file() {
        let what = if kind.is_dir() {
            "a folder"
        } else {
            "a device, pipe or socket"
        };
        return Err(Error::NotAFile { path: path(), what });
    }
    accessat(CWD, file, Access::EXEC_OK, AtFlags::EACCESS).map_err(|_| Error::NotExecutable { path: path() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_bare_name_is_looked_up_in_path_and_skips_what_cannot_run() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        let path = format!("relative::{}:{}", first.display(), second.display());
        file(&first.join("tool"), 0o644);
        assert_eq!(
            locate("tool", None, &path),
            Err(Error::NotExecutable {
                path: first.join("tool")
            })
        );
        file(&second.join("tool"), 0o755);
        assert_eq!(locate("tool", None, &path), Ok(second.join("tool")));
        assert_eq!(
            locate("other", None, &path).unwrap_err().to_string(),
            format!("`other` is in none of the folders of PATH ({path})")
        );
    }

    #[test]
    fn a_path_is_taken_from_the_base_and_must_be_a_file() {
        let dir = tempfile::tempdir().unwrap();
        file(&dir.path().join("bin/tool"), 0o755);
        let found = locate("./bin/tool", Some(dir.path()), "");
        assert_eq!(found, Ok(dir.path().join("bin/tool")));
        assert_eq!(
            locate("./bin/tool", None, ""),
            Err(Error::Relative {
                program: "./bin/tool".into()
            })
        );
        assert!(matches!(
            locate("./bin", Some(dir.path()), ""),
            Err(Error::NotAFile { what: "a folder", .. })
        ));
        assert!(matches!(locate("/no/such/file", None, ""), Err(Error::Missing { .. })));
        assert_eq!(locate("", None, DEFAULT_PATH), Err(Error::Empty));
    }

    fn file(path: &Path, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

//! Whether a file would run: for whom, on what, and by which interpreter.

use super::Finding;
use crate::account::Account;
use crate::program;
use rustix::fs::{Access, AtFlags, CWD, StatVfsMountFlags, accessat, statvfs};
use std::fmt;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The kernel reads no more of a `#!` line.
const FIRST_BYTES: usize = 256;

/// Who is to run it.
#[derive(Debug)]
pub(super) enum Who {
    /// The user of this agent.
    Us,
    /// One that the agent switches to.
    Other(Account),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Us => f.write_str("understudy"),
            Who::Other(account) => write!(f, "user `{}`", account.name),
        }
    }
}

impl Who {
    /// Judged by the mode of the file for another user; access lists are not looked at.
    fn may_execute(&self, path: &Path) -> bool {
        match self {
            Who::Us => accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_ok(),
            Who::Other(account) => path.metadata().is_ok_and(|of| may_execute(account, &of)),
        }
    }

    /// The first folder on the way to and including `folder` that this user may not enter.
    pub(super) fn shut_out_of(&self, folder: &Path) -> Option<PathBuf> {
        let mut folders: Vec<&Path> = folder
            .ancestors()
            .filter(|above| !above.as_os_str().is_empty())
            .collect();
        folders.reverse();
        folders
            .into_iter()
            .find(|above| !self.may_execute(above))
            .map(Path::to_path_buf)
    }
}

fn may_execute(account: &Account, of: &Metadata) -> bool {
    let mode = of.mode();
    let bits = if account.uid == of.uid() {
        mode >> 6
    } else if account.groups.contains(&of.gid()) {
        mode >> 3
    } else {
        mode
    };
    bits & 1 == 1 || (account.uid == 0 && (of.is_dir() || mode & 0o111 != 0))
}

/// Whether `who` can run `file`, which exists and which the agent itself may execute. `path` is the `PATH` it runs with.
pub(super) fn executable(key: &'static str, file: &Path, path: &str, who: &Who) -> Result<(), Finding> {
    let finding = |problem: String, help: String| Finding { key, problem, help };
    let shown = file.display();
    if let Some(folder) = file.parent().and_then(|folder| who.shut_out_of(folder)) {
        let problem = format!("{who} may not enter `{}`, where `{shown}` lies", folder.display());
        return Err(finding(problem, format!("allow it: chmod a+x {}", folder.display())));
    }
    if !who.may_execute(file) {
        let problem = format!("{who} may not execute `{shown}`");
        return Err(finding(problem, format!("allow it: chmod a+rx {shown}")));
    }
    // A program may well be executable and not readable; then there is nothing more to see.
    let Ok(opened) = File::open(file) else { return Ok(()) };
    let mut first = Vec::with_capacity(FIRST_BYTES);
    if (&opened).take(FIRST_BYTES as u64).read_to_end(&mut first).is_err() {
        return Ok(());
    }
    if first.starts_with(b"\x7fELF") {
        binary(&opened, &first).map_err(|(problem, help)| finding(format!("`{shown}` {problem}"), help))
    } else if first.starts_with(b"#!") {
        script(&first, path).map_err(|(problem, help)| finding(format!("`{shown}` {problem}"), help))
    } else if knows_other_formats() {
        Ok(())
    } else if first.is_empty() {
        Err(finding(format!("`{shown}` is empty"), "build or copy it again".into()))
    } else {
        let problem = format!("`{shown}` is neither a program nor a script that begins with `#!`");
        Err(finding(
            problem,
            "begin a script with its interpreter, as in `#!/bin/sh`".into(),
        ))
    }
}

/// What to do about a file that may not be executed.
pub(super) fn why_not_executable(file: &Path) -> String {
    let noexec = statvfs(file).is_ok_and(|disk| disk.f_flag.contains(StatVfsMountFlags::NOEXEC));
    if noexec {
        "its file system is mounted with `noexec`: put the program elsewhere".into()
    } else {
        format!("allow it: chmod a+rx {}", file.display())
    }
}

/// What is wrong, and what to do.
type Problem = (String, String);

fn script(first: &[u8], path: &str) -> Result<(), Problem> {
    let line = first[2..].split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    if line.ends_with('\r') {
        let problem = "has Windows line ends, so that its interpreter is not found".into();
        return Err((problem, "convert it, for instance with `dos2unix`".into()));
    }
    let mut words = line.split_ascii_whitespace();
    let Some(interpreter) = words.next() else {
        return Err((
            "names no interpreter after `#!`".into(),
            "write one, as in `#!/bin/sh`".into(),
        ));
    };
    let missing = |error: &program::Error| {
        let problem = format!("needs an interpreter that cannot be run: {error}");
        (
            problem,
            "install the interpreter, or correct the first line of the script".to_owned(),
        )
    };
    program::locate(interpreter, Some(Path::new("/")), path).map_err(|error| missing(&error))?;
    if Path::new(interpreter).file_name().is_some_and(|name| name == "env") {
        // `env -S python3 -u`, `env LANG=C python3`: the first word that is no option and no variable.
        if let Some(program) = words.find(|word| !word.starts_with('-') && !word.contains('=')) {
            program::locate(program, Some(Path::new("/")), path).map_err(|error| missing(&error))?;
        }
    }
    Ok(())
}

fn binary(file: &File, first: &[u8]) -> Result<(), Problem> {
    let little_endian_64_bits = first.get(4..6) == Some(&[2, 1]);
    let machine = first.get(18..20).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    let native: &[u16] = match std::env::consts::ARCH {
        // The second is the 32-bit kind, which most kernels of the first run as well.
        "x86_64" => &[62, 3],
        "aarch64" => &[183, 40],
        "riscv64" => &[243],
        _ => return Ok(()),
    };
    if let Some(machine) = machine.filter(|machine| !native.contains(machine))
        && !knows_other_formats()
    {
        let built = match machine {
            3 => "32-bit x86",
            40 => "32-bit ARM",
            62 => "x86_64",
            183 => "aarch64",
            243 => "RISC-V",
            _ => "another processor",
        };
        let problem = format!("is built for {built}, and this machine is {}", std::env::consts::ARCH);
        return Err((problem, "install the build for this machine".into()));
    }
    let Some(loader) = little_endian_64_bits.then(|| loader(file, first)).flatten() else {
        return Ok(());
    };
    if Path::new(&loader).exists() {
        return Ok(());
    }
    let problem = format!("needs the loader `{loader}`, which does not exist");
    Err((
        problem,
        "install the C library it was built for, or a static build of the program".into(),
    ))
}

/// The dynamic loader that a 64-bit program asks for.
fn loader(file: &File, first: &[u8]) -> Option<String> {
    const SEGMENT_BYTES: usize = 56;
    const LOADER: u32 = 3;
    let table = u64::from_le_bytes(first.get(32..40)?.try_into().ok()?);
    let count = u16::from_le_bytes(first.get(56..58)?.try_into().ok()?);
    for index in 0..u64::from(count.min(128)) {
        let mut segment = [0; SEGMENT_BYTES];
        let at = table.checked_add(index * SEGMENT_BYTES as u64)?;
        file.read_exact_at(&mut segment, at).ok()?;
        if u32::from_le_bytes(segment[..4].try_into().ok()?) != LOADER {
            continue;
        }
        let offset = u64::from_le_bytes(segment[8..16].try_into().ok()?);
        let length = usize::try_from(u64::from_le_bytes(segment[32..40].try_into().ok()?)).ok()?;
        let mut name = vec![0; length.min(4096)];
        file.read_exact_at(&mut name, offset).ok()?;
        return Some(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned());
    }
    None
}

/// Whether the kernel was told to run files of other kinds (Java, Wine, emulators).
fn knows_other_formats() -> bool {
    let Ok(entries) = std::fs::read_dir("/proc/sys/fs/binfmt_misc") else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.file_name() != "register" && entry.file_name() != "status")
}

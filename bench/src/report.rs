//! The written result: a page of Markdown that says what was measured, on what, and how to do it again.

use crate::sample::Sample;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// A page under construction.
#[derive(Debug)]
pub struct Page {
    name: &'static str,
    text: String,
}

impl Page {
    /// Begins a page: title, how to reproduce it, machine and versions.
    pub fn new(name: &'static str, title: &str, settings: &str, program: &Path, disk: &Path) -> Result<Self> {
        let mut text = format!("# {title}\n\n`cargo xtask bench {name}` made this page. Settings: {settings}.\n\n");
        let fsync = fsync_us(disk)?;
        let rows = [
            ("machine", machine()),
            ("kernel", first_line("uname", &["-sr"])),
            (
                "disk",
                format!(
                    "4 KiB appended and synced: p50 {:.0} µs, p99 {:.0} µs",
                    fsync.median(),
                    fsync.quantile(0.99)
                ),
            ),
            (
                "understudy",
                format!(
                    "{} ({})",
                    first_line(&program.to_string_lossy(), &["--version"]),
                    commit()
                ),
            ),
        ];
        for (what, value) in rows {
            // Writing to a `String` cannot fail.
            writeln!(text, "- {what}: {value}").ok();
        }
        text.push('\n');
        Ok(Self { name, text })
    }

    /// Adds a paragraph.
    pub fn paragraph(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push_str("\n\n");
    }

    /// Adds a table.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let mut line = |cells: &[String]| {
            writeln!(self.text, "| {} |", cells.join(" | ")).ok();
        };
        line(&head.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>());
        line(&head.iter().map(|_| "---".to_owned()).collect::<Vec<_>>());
        rows.iter().for_each(|row| line(row));
        self.text.push('\n');
    }

    /// Writes the page into a folder, and to stdout. Returns where.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        std::fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
        let path = folder.join(format!("{}.md", self.name));
        let text = format!("{}\n", self.text.trim_end());
        std::fs::write(&path, &text).with_context(|| format!("failed to write {}", path.display()))?;
        print!("{text}");
        Ok(path)
    }
}

/// "median (min to max)" with so many decimals.
pub fn spread(sample: &Sample, decimals: usize) -> String {
    format!(
        "{:.decimals$} ({:.decimals$} to {:.decimals$})",
        sample.median(),
        sample.min(),
        sample.max()
    )
}

/// The first line that a program prints, or why there is none.
pub fn first_line(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).output() {
        Err(error) => format!("not available ({error})"),
        // nginx and wrk tell their version on stderr.
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            first_of(&String::from_utf8_lossy(&said))
        }
    }
}

/// The first line, without the brackets that a program leaves empty where it was built from no known commit.
fn first_of(said: &str) -> String {
    let line = said.lines().next().unwrap_or("unknown");
    line.replace(" ()", "").trim().to_owned()
}

/// How long the disk takes to confirm 4 KiB appended to a file in this folder, in microseconds.
pub fn fsync_us(folder: &Path) -> Result<Sample> {
    const TRIES: usize = 100;
    let mut file = tempfile::tempfile_in(folder).context("failed to make a file to sync")?;
    (0..TRIES).map(|_| sync_once(&mut file)).collect()
}

/// One append of 4 KiB and its sync, in microseconds.
pub fn sync_once(file: &mut File) -> Result<f64> {
    let begun = Instant::now();
    file.write_all(&[1; 4096])?;
    file.sync_data()?;
    Ok(begun.elapsed().as_secs_f64() * 1e6)
}

fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.lines().find_map(|line| {
        let rest = line.strip_prefix("MemTotal:")?;
        rest.split_ascii_whitespace().next()?.parse::<u64>().ok()
    });
    format!(
        "{cores} cores ({model}), {} GiB of memory",
        kib.unwrap_or(0) / (1024 * 1024)
    )
}

fn commit() -> String {
    let folder = env!("CARGO_MANIFEST_DIR");
    let commit = first_line("git", &["-C", folder, "rev-parse", "--short", "HEAD"]);
    let changed = first_line("git", &["-C", folder, "status", "--porcelain", "--untracked-files=no"]);
    let changed = if changed == "unknown" {
        ""
    } else {
        ", with local changes"
    };
    format!("commit {commit}{changed}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_told_without_empty_brackets() {
        assert_eq!(first_of("SCRAM 0.16.2 ()\n\nDependencies:\n"), "SCRAM 0.16.2");
        assert_eq!(first_of("wrk 4.1.0 [epoll] (C) 2012\n"), "wrk 4.1.0 [epoll] (C) 2012");
        assert_eq!(first_of(""), "unknown");
    }

    #[test]
    fn a_page_tells_machine_and_table_and_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut page = Page::new("try", "A try", "none", Path::new("/bin/true"), dir.path()).unwrap();
        page.table(&["a", "b"], &[vec!["1".into(), "2".into()]]);
        let path = page.write(&dir.path().join("results")).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        for part in [
            "# A try",
            "cargo xtask bench try",
            "cores",
            "synced: p50",
            "| a | b |\n| --- | --- |\n| 1 | 2 |",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }

    #[test]
    fn a_spread_is_median_and_extremes() {
        let sample: Sample = [3.0, 1.0, 2.0].into_iter().collect();
        assert_eq!(spread(&sample, 1), "2.0 (1.0 to 3.0)");
    }
}

//! Holds the documents to the truth: relative links lead somewhere, tests that `GUARANTEES.md` names exist, and commands
//! are ones that the program knows.
//!
//! ```text
//!   every *.md ──► links ────► a file, and the heading in it
//!              ├─► commands ─► `docs/cli.md`, which is made from the program, and the tasks of this one
//!              ├─► `Type::name` and `file.rs` ─► the sources below `crates/`
//!   GUARANTEES.md ► rows of tables ─► [`file.rs`](path) `test` `test` …: each is a test in that file
//! ```
//! Text within code fences holds no links, and commands are looked for in code only.

use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Commands that the program runs itself with, or that are only for developers: not in `docs/cli.md`.
const HIDDEN_COMMANDS: [&str; 4] = ["agent", "guard", "proxy", "markdown-help"];
/// What stands before the words of the command line wherever a document shows one.
const PROGRAM: [&str; 2] = ["understudy ", "cargo run --release -- "];
/// Folders with documents, beside the root's own.
const FOLDERS: [&str; 3] = ["docs", "bench", "examples"];
/// Folders with sources.
const SOURCES: [&str; 3] = ["crates", "bench", "xtask"];
/// Each of its tables' rows names a test.
const GUARANTEES: &str = "GUARANTEES.md";

/// Fails with everything that is wrong in the documents below `root`. `tasks` are the words that `cargo xtask` takes.
pub(crate) fn check(root: &Path, tasks: &[String]) -> Result<()> {
    let pages = pages(root)?;
    let cli = fs::read_to_string(root.join("docs/cli.md")).context("failed to read docs/cli.md")?;
    let commands = Commands {
        headings: headings(&cli),
        text: &cli,
        tasks,
    };
    let sources = Sources::read(root)?;
    let mut findings = Vec::new();
    for page in &pages {
        let text = fs::read_to_string(root.join(page)).with_context(|| format!("failed to read {}", page.display()))?;
        let mut found = links(&text, &|target| problem_of_link(root, page, target));
        found.extend(commands.problems(&text));
        found.extend(sources.problems(&text));
        if page == Path::new(GUARANTEES) {
            found.extend(guarantees(&text, &|path| fs::read_to_string(root.join(path)).ok()));
        }
        findings.extend(
            found
                .into_iter()
                .map(|(line, what)| format!("{}:{line}: {what}", page.display())),
        );
    }
    if !findings.is_empty() {
        bail!("the documents say what is not so:\n  {}", findings.join("\n  "));
    }
    Ok(())
}

/// What is wrong, and in which line.
type Finding = (usize, String);

/// All documents, relative to the root.
fn pages(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    collect(root, root, false, "md", &mut found)?;
    for folder in FOLDERS
        .iter()
        .map(|folder| root.join(folder))
        .filter(|folder| folder.is_dir())
    {
        collect(root, &folder, true, "md", &mut found)?;
    }
    found.sort();
    Ok(found)
}

fn collect(root: &Path, folder: &Path, deep: bool, extension: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() && deep {
            collect(root, &path, deep, extension, found)?;
        } else if path.extension().is_some_and(|known| known == extension) {
            found.push(path.strip_prefix(root)?.to_owned());
        }
    }
    Ok(())
}

/// The links of a page that `problem` finds something wrong with.
fn links(text: &str, problem: &dyn Fn(&str) -> Option<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in prose(text) {
        for target in targets(&without_code(line)) {
            findings.extend(problem(&target).map(|what| (number, what)));
        }
    }
    findings
}

/// Numbered lines outside of code fences.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    lines(text)
        .filter(|(_, _, is_code)| !is_code)
        .map(|(number, line, _)| (number, line))
}

/// Numbered lines, and whether they stand within a code fence. Fences themselves are left out.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str, bool)> {
    let mut is_code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
            return None;
        }
        Some((index + 1, line, is_code))
    })
}

/// A line with its code spans blanked: what looks like a link there is none.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join(" ")
}

/// The code spans of a line.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Where the links and pictures of a line lead.
fn targets(line: &str) -> Vec<String> {
    let of_markdown = line
        .match_indices("](")
        .filter_map(|(at, _)| line[at + 2..].split(')').next());
    let of_html = ["src=\"", "href=\"", "srcset=\""]
        .into_iter()
        .flat_map(|before| line.match_indices(before).map(move |(at, _)| at + before.len()))
        .filter_map(|at| line[at..].split('"').next());
    of_markdown.chain(of_html).map(str::to_owned).collect()
}

fn problem_of_link(root: &Path, page: &Path, target: &str) -> Option<String> {
    if ["http://", "https://", "mailto:"]
        .iter()
        .any(|scheme| target.starts_with(scheme))
    {
        return None;
    }
    let (path, heading) = target.split_once('#').unwrap_or((target, ""));
    let Some(path) = resolve(page, path) else {
        return Some(format!("the link to `{target}` leads out of the repository"));
    };
    let file = root.join(&path);
    if !file.exists() {
        return Some(format!(
            "the link to `{target}` leads nowhere: there is no `{}`",
            path.display()
        ));
    }
    if heading.is_empty() {
        return None;
    }
    let text = fs::read_to_string(file).unwrap_or_default();
    let is_there = headings(&text).iter().any(|known| slug(known) == heading);
    (!is_there).then(|| format!("`{}` has no heading `#{heading}`", path.display()))
}

/// The path that a link on a page means, from the root; an empty one means the page itself.
fn resolve(page: &Path, link: &str) -> Option<PathBuf> {
    if link.is_empty() {
        return Some(page.to_owned());
    }
    let mut path = page.parent().map(PathBuf::from).unwrap_or_default();
    for part in Path::new(link).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if !path.pop() => return None,
            Component::ParentDir => {}
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

fn headings(text: &str) -> BTreeSet<String> {
    let heading = |line: &str| Some(line.strip_prefix('#')?.trim_start_matches('#').trim().to_owned());
    prose(text).filter_map(|(_, line)| heading(line)).collect()
}

/// The name by which a heading is linked to, as code hosts make it.
fn slug(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// What a command line in a document may say.
struct Commands<'a> {
    headings: BTreeSet<String>,
    text: &'a str,
    tasks: &'a [String],
}

impl Commands<'_> {
    fn problems(&self, text: &str) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (number, line, is_code) in lines(text) {
            let shown: Vec<&str> = if is_code { vec![line] } else { spans(line).collect() };
            findings.extend(
                shown
                    .into_iter()
                    .filter_map(|shown| Some((number, self.problem(shown.trim())?))),
            );
        }
        findings
    }

    fn problem(&self, shown: &str) -> Option<String> {
        let shown = shown.strip_prefix("$ ").unwrap_or(shown);
        // What follows is for people.
        let shown = shown.split("  #").next().unwrap_or(shown);
        if let Some(words) = shown.strip_prefix("cargo xtask ") {
            let task = words.split_whitespace().next().filter(|word| is_word(word))?;
            let is_task = self.tasks.iter().any(|known| known == task);
            return (!is_task).then(|| format!("`cargo xtask {task}` is no task"));
        }
        let words = PROGRAM.iter().find_map(|program| shown.strip_prefix(program))?;
        let mut words = words.split_whitespace();
        let command = words.next().filter(|word| is_word(word))?;
        if !self.headings.contains(command) && !HIDDEN_COMMANDS.contains(&command) {
            return Some(format!("`understudy {command}` is no command"));
        }
        let mut options = words.filter(|word| word.starts_with("--") && word.len() > 2);
        let described = self.describes(command);
        let is_unknown = |option: &&str| {
            let name = option.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            let is_there = |end: char| described.contains(&format!("`{name}{end}"));
            !HIDDEN_COMMANDS.contains(&command) && !is_there('`') && !is_there(' ')
        };
        options
            .find(is_unknown)
            .map(|option| format!("`understudy {command}` knows no `{option}`"))
    }

    /// What the reference says of all commands, and of this one.
    fn describes(&self, command: &str) -> String {
        let mut parts = self.text.split("\n## ");
        let of_all = parts.next().unwrap_or("").to_owned();
        let of_it = parts.find(|part| part.lines().next() == Some(command)).unwrap_or("");
        of_all + of_it
    }
}

/// A word of the command line, and neither an option nor a name to be filled in.
fn is_word(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_lowercase()) && word.chars().all(|c| c.is_ascii_lowercase() || c == '-')
}

/// What the sources call things.
struct Sources {
    files: Vec<String>,
    words: BTreeSet<String>,
}

impl Sources {
    fn read(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for folder in SOURCES
            .iter()
            .map(|folder| root.join(folder))
            .filter(|folder| folder.is_dir())
        {
            collect(root, &folder, true, "rs", &mut files)?;
        }
        let mut words = BTreeSet::new();
        for file in &files {
            let text =
                fs::read_to_string(root.join(file)).with_context(|| format!("failed to read {}", file.display()))?;
            words.extend(
                text.split(|c: char| !c.is_alphanumeric() && c != '_')
                    .map(str::to_owned),
            );
        }
        let files = files.iter().map(|file| format!("/{}", file.display())).collect();
        Ok(Self { files, words })
    }

    fn problems(&self, text: &str) -> Vec<Finding> {
        let spans = prose(text).flat_map(|(number, line)| spans(line).map(move |span| (number, span)));
        spans
            .filter_map(|(number, span)| Some((number, self.problem(span)?)))
            .collect()
    }

    /// A span may be the path of a source file, or its end; or a path of names, of which each must be used somewhere.
    fn problem(&self, span: &str) -> Option<String> {
        let name = span.split(['(', '<']).next().unwrap_or(span);
        let is_path = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./:".contains(c));
        if name.ends_with(".rs") && is_path(name) {
            let is_there = self.files.iter().any(|file| file.ends_with(&format!("/{name}")));
            return (!is_there).then(|| format!("there is no source file `{name}`"));
        }
        if !name.contains("::") || !is_path(name) {
            return None;
        }
        let unknown = name.split("::").find(|part| !self.words.contains(*part));
        unknown.map(|part| format!("`{span}`: nothing is called `{part}`"))
    }
}

/// Rows of tables that name no test, or one that is not there.
fn guarantees(text: &str, read: &dyn Fn(&Path) -> Option<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut rows = 0;
    let rows_of_tables = prose(text).filter(|(_, line)| line.starts_with('|') && line.trim_end().ends_with('|'));
    for (number, line) in rows_of_tables {
        let held_by = line.trim().trim_matches('|').rsplit('|').next().unwrap_or("").trim();
        // The head of a table, and the line below it.
        if held_by == "held by" || held_by.chars().all(|c| matches!(c, '-' | ':' | ' ')) {
            continue;
        }
        rows += 1;
        let mut named = 0;
        for (path, tests) in references(held_by) {
            let Some(source) = read(Path::new(&path)) else {
                findings.push((number, format!("there is no `{path}`")));
                continue;
            };
            named += tests.len();
            let missing = tests.into_iter().filter(|test| !is_test(&source, test));
            findings.extend(missing.map(|test| (number, format!("`{path}` has no test `{test}`"))));
        }
        if named == 0 {
            findings.push((number, "this promise names no test that holds it".into()));
        }
    }
    if rows == 0 {
        findings.push((1, "there is no promise in it".into()));
    }
    findings
}

/// The files of a cell, each with the tests named after it.
fn references(cell: &str) -> Vec<(String, Vec<String>)> {
    let files = cell.split("](").skip(1);
    let of_file = |rest: &str| {
        let (path, after) = rest.split_once(')')?;
        // The name of the next file's link is a code span too.
        let after = after.split('[').next().unwrap_or(after);
        Some((path.to_owned(), spans(after).map(str::to_owned).collect()))
    };
    files.filter_map(of_file).collect()
}

/// Whether a source file has a test function of this name, or hands this name, or a function of it, to a macro that makes tests.
fn is_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let begins = |line: &str| {
        let rest = ["pub(crate) ", "pub "]
            .iter()
            .find_map(|shown| line.strip_prefix(shown))
            .unwrap_or(line);
        let rest = rest.strip_prefix("async ").unwrap_or(rest);
        rest.strip_prefix("fn ")
            .is_some_and(|rest| rest.split(['(', '<']).next() == Some(name))
    };
    let attributed = |index: usize| {
        let above = lines[..index].iter().rev();
        let mut above = above.take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        above.any(|line| line.starts_with("#[") && line.contains("test"))
    };
    let by_macro = || {
        let blocks = source.split("both! {").skip(1);
        let mut words = blocks.flat_map(|block| block.split('}').next().unwrap_or("").split_whitespace());
        words.any(|word| word == name)
    };
    // `name: what it is about;` in the list of a macro that is in the file itself.
    let listed = || {
        let makes_tests = source.contains("macro_rules!") && source.contains("#[test]");
        let entry = |line: &str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(": ")) && line.ends_with([';', ','])
        };
        makes_tests && lines.iter().copied().any(entry)
    };
    if listed() {
        return true;
    }
    let found: Vec<usize> = (0..lines.len()).filter(|index| begins(lines[*index])).collect();
    found.iter().any(|index| attributed(*index)) || (!found.is_empty() && by_macro())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_of_this_repository_hold() {
        check(&crate::root().unwrap(), &crate::tasks()).unwrap();
    }

    #[test]
    fn a_link_must_lead_to_a_file_and_a_heading() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("docs")).unwrap();
        fs::write(root.path().join("docs/tour.md"), "# The tour\n## What's `next`?\n").unwrap();
        let problem = |target: &str| problem_of_link(root.path(), Path::new("docs/tour.md"), target);
        for good in [
            "https://example.org/x",
            "tour.md",
            "./tour.md#the-tour",
            "#whats-next",
            "../docs/tour.md",
            "..",
        ] {
            assert_eq!(problem(good), None, "{good}");
        }
        assert!(problem("turn.md").unwrap().contains("docs/turn.md"));
        assert!(problem("#elsewhere").unwrap().contains("no heading"));
        assert!(problem("../../etc/passwd").unwrap().contains("out of the repository"));
        assert!(problem("/etc/passwd").unwrap().contains("out of the repository"));
    }

    #[test]
    fn links_are_found_in_prose_and_not_in_code() {
        let page = "See [a](a.md) and ![b](b.svg).\n```\n[c](c.md)\n```\nNot `[d](d.md)`, but <img src=\"e.svg\">.\n";
        let found: Vec<Finding> = links(page, &|target| Some(target.to_owned()));
        assert_eq!(
            found,
            [(1, "a.md".to_owned()), (1, "b.svg".to_owned()), (5, "e.svg".to_owned())]
        );
    }

    #[test]
    fn commands_and_their_options_must_be_known() {
        let text = "# The command line\n## up\n- `-d`, `--detach`: x\n- `--nodes N`: x\n";
        let tasks = ["test".to_owned()];
        let commands = Commands {
            headings: headings(text),
            text,
            tasks: &tasks,
        };
        let problem = |shown: &str| commands.problem(shown);
        for good in [
            "understudy up FILE --nodes 3 --detach",
            "understudy guard --watch 1",
            "understudy --help",
        ] {
            assert_eq!(problem(good), None, "{good}");
        }
        assert_eq!(
            problem("cargo run --release -- up examples/shop.toml  # --anything"),
            None
        );
        assert_eq!(problem("the understudy upstairs"), None);
        assert!(problem("understudy dwon").unwrap().contains("no command"));
        assert!(problem("$ understudy up --node 3").unwrap().contains("--node"));
        assert!(problem("cargo xtask tset").unwrap().contains("no task"));
        assert_eq!(
            commands
                .problems("Say `understudy stop`.\n\n```\nunderstudy go\n```\nunderstudy in prose\n")
                .len(),
            2
        );
    }

    #[test]
    fn names_of_the_sources_must_be_used_in_them() {
        let sources = Sources {
            files: vec!["/crates/core/src/slot.rs".into()],
            words: ["Service", "claim"].map(str::to_owned).into(),
        };
        for good in [
            "slot.rs",
            "core/src/slot.rs",
            "Service::claim",
            "Service::claim(now)",
            "a: b",
            "127.0.0.1:80",
        ] {
            assert_eq!(sources.problem(good), None, "{good}");
        }
        assert!(sources.problem("lot.rs").unwrap().contains("no source file"));
        assert!(sources.problem("Service::clam").unwrap().contains("`clam`"));
    }

    #[test]
    fn a_promise_must_name_a_test_that_is_there() {
        let source = "#[test]\nfn holds() {}\n#[tokio::test(flavor = \"multi_thread\")]\n/// Why.\nasync fn waits() {}\n\
                      fn helper() {}\nboth! {\n    twice\n}\nasync fn twice(world: &World) {}\n";
        let read = |path: &Path| (path == Path::new("a/t.rs")).then(|| source.to_owned());
        let page = |cell: &str| format!("| promise | held by |\n|---|---|\n| It holds. | {cell} |\n");
        let problems = |cell: &str| guarantees(&page(cell), &read);
        assert_eq!(problems("[`t.rs`](a/t.rs) `holds` `waits` `twice`"), []);
        assert_eq!(
            problems("[`t.rs`](a/t.rs) `helper`"),
            [(3, "`a/t.rs` has no test `helper`".to_owned())]
        );
        assert_eq!(
            problems("[`t.rs`](a/t.rs) `hold`"),
            [(3, "`a/t.rs` has no test `hold`".to_owned())]
        );
        assert_eq!(problems("[`t.rs`](a/t.rs)").len(), 1);
        assert_eq!(problems("hope").len(), 1);
        assert_eq!(
            problems("[`t.rs`](a/t.rs) `holds`, [`u.rs`](a/u.rs) `x`"),
            [(3, "there is no `a/u.rs`".to_owned())]
        );
        assert_eq!(guarantees("No table.\n", &read).len(), 1);
    }
}

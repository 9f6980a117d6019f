//! The reference page of the file: made from [`crate::keys`].

use crate::keys::TABLES;
use crate::kind::{Default, Key, Kind};
use crate::placeholders::MEANINGS;

/// The page, as Markdown.
pub fn reference() -> String {
    let mut page = String::from(HEAD);
    for table in TABLES {
        page += &format!(
            "\n## {}\n\n{}\n\n| key | value | default | meaning |\n|---|---|---|---|\n",
            table.heading, table.doc
        );
        for key in table.keys {
            page += &row(key);
        }
    }
    page += PLACEHOLDERS;
    for (name, place, meaning) in MEANINGS {
        page += &format!("| `{{{name}}}` | {place} | {meaning} |\n");
    }
    page += UNITS;
    page
}

const HEAD: &str = r#"<!-- Made from crates/spec/src/keys/ by `UPDATE_DOCS=1 cargo nextest run -p understudy-spec`; change it there. -->
# The file

A cluster is declared in one TOML file. `understudy check FILE` says all that is wrong with one, line by line. Editors that
know JSON Schema complete and check it by `docs/understudy.schema.json`: put `#:schema PATH/understudy.schema.json` in the
first line.

```toml
[service.web]
command = ["./web", "--port", "{port}"]
active  = 2
standby = 1
listen  = "127.0.0.1:8080"
check   = { http = "/healthz" }
```
"#;

const PLACEHOLDERS: &str = r"
## Placeholders

They are filled in in `command`, `env`, `dir`, hooks, and `exec`, `http` and `body` of checks. `{{port}}` gives `{port}` itself; braces around
anything that is no name, as in JSON or in `awk '{print $1}'`, are left as they are.

| placeholder | where | value |
|---|---|---|
";

const UNITS: &str = r#"
## Units

A duration is a number with its unit, or several from long to short: `"200ms"`, `"1.5s"`, `"2m"`, `"1h30m"`, `"1d"`. A size is a
number with its unit: `"10MB"` (millions), `"512MiB"` (powers of two); units are B, kB, MB, GB, TB, KiB, MiB, GiB, TiB.
"#;

fn row(key: &Key) -> String {
    let default = match key.default {
        Default::Required => "required".to_owned(),
        Default::Is(literal) => format!("`{literal}`"),
        Default::Rule(rule) => rule.to_owned(),
    };
    let mut meaning = key.doc.to_owned();
    if let Kind::Choice { of, .. } = &key.kind {
        for (word, what) in of.iter().filter(|(_, what)| !what.is_empty()) {
            meaning += &format!(" `{word}`: {what}.");
        }
    }
    meaning += &format!(" Example: `{} = {}`", key.name, key.example);
    let cells = [format!("`{}`", key.name), key.kind.expected(), default, meaning];
    format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "))
}

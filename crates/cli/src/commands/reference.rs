//! `completions`, `openapi`, `markdown-help`: what the program says about itself.

use super::{Done, Error, to_json};
use crate::args::Cli;
use crate::output::Output;
use clap::{Arg, Command, CommandFactory};
use clap_complete::Shell;

/// `completions`
pub(super) fn completions(output: &Output, shell: Shell) -> Result<Done, Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "understudy", &mut script);
    output.verbatim(&String::from_utf8_lossy(&script));
    Ok(Done::Yes)
}

/// `openapi`
pub(super) fn openapi(output: &Output) -> Result<Done, Error> {
    output.verbatim_line(&to_json(&agent::openapi()));
    Ok(Done::Yes)
}

/// `markdown-help`
pub(super) fn markdown(output: &Output) -> Result<Done, Error> {
    output.verbatim(&reference());
    Ok(Done::Yes)
}

/// The whole command line as Markdown.
fn reference() -> String {
    let mut command = Cli::command();
    command.build();
    let mut out = String::from(
        "# The command line\n\n<!-- Made from the program by `understudy markdown-help`; do not edit. -->\n\n",
    );
    paragraphs(&mut out, &command);
    out.push_str("Options that every command takes:\n\n");
    let global: Vec<&Arg> = command.get_arguments().filter(|arg| arg.is_global_set()).collect();
    list(&mut out, &global);
    out.push_str("| command | does |\n|---|---|\n");
    for sub in visible(&command) {
        out.push_str(&format!(
            "| [`{}`](#{}) | {} |\n",
            sub.get_name(),
            anchor(sub),
            about(sub)
        ));
    }
    for sub in visible(&command) {
        section(&mut out, sub, 2);
    }
    out.push_str("\n## Run by Understudy itself\n\nThese are started by `up`, by the agent and by the examples; they are listed so that a process list makes sense.\n\n");
    for sub in command
        .get_subcommands()
        .filter(|sub| sub.is_hide_set() && sub.get_name() != "markdown-help")
    {
        out.push_str(&format!("- `understudy {}`: {}\n", sub.get_name(), about(sub)));
    }
    // Sections leave a blank line behind, and begin with one.
    while out.contains("\n\n\n") {
        out = out.replace("\n\n\n", "\n\n");
    }
    out
}

fn section(out: &mut String, command: &Command, depth: usize) {
    let name = full_name(command);
    out.push_str(&format!("\n{} {name}\n\n", "#".repeat(depth)));
    let usage = command.clone().render_usage().to_string();
    out.push_str(&format!(
        "```text\n{}\n```\n\n",
        usage.trim_start_matches("Usage:").trim()
    ));
    paragraphs(out, command);
    let own: Vec<&Arg> = command
        .get_arguments()
        .filter(|arg| {
            !arg.is_global_set() && !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version")
        })
        .collect();
    list(out, &own);
    for sub in visible(command) {
        section(out, sub, depth + 1);
    }
}

fn paragraphs(out: &mut String, command: &Command) {
    let text = command
        .get_long_about()
        .or_else(|| command.get_about())
        .map(ToString::to_string)
        .unwrap_or_default();
    for paragraph in text.split("\n\n") {
        out.push_str(paragraph.trim());
        out.push_str("\n\n");
    }
}

fn list(out: &mut String, args: &[&Arg]) {
    for arg in args {
        out.push_str(&format!(
            "- {}: {}",
            spelled(arg),
            arg.get_help().map(ToString::to_string).unwrap_or_default()
        ));
        let defaults: Vec<String> = arg
            .get_default_values()
            .iter()
            .map(|value| format!("`{}`", value.to_string_lossy()))
            .collect();
        if !defaults.is_empty() && arg.get_action().takes_values() {
            out.push_str(&format!(" (default {})", defaults.join(", ")));
        }
        if let Some(name) = arg.get_env() {
            out.push_str(&format!(" (environment: `{}`)", name.to_string_lossy()));
        }
        out.push('\n');
    }
    if !args.is_empty() {
        out.push('\n');
    }
}

/// `-n`, `--lines N`; `FILE`.
fn spelled(arg: &Arg) -> String {
    let value = arg
        .get_value_names()
        .filter(|_| arg.get_action().takes_values())
        .and_then(|names| names.first())
        .map(ToString::to_string)
        .unwrap_or_default();
    if arg.is_positional() {
        return format!("`{value}`");
    }
    let value = match value.is_empty() {
        true => value,
        false if arg.is_require_equals_set() => format!("[={value}]"),
        false => format!(" {value}"),
    };
    let short = arg.get_short().map(|short| format!("`-{short}`"));
    let long = arg.get_long().map(|long| format!("`--{long}{value}`"));
    [short, long].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

fn full_name(command: &Command) -> String {
    command
        .get_bin_name()
        .unwrap_or(command.get_name())
        .trim_start_matches("understudy ")
        .to_owned()
}

fn anchor(command: &Command) -> String {
    full_name(command).replace(' ', "-")
}

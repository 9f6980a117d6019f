//! stdout is the answer, stderr the conversation.

use crate::args::ColorChoice;
use crate::render::{Tone, View};
use jiff::tz::TimeZone;
use std::borrow::Cow;
use std::io::{self, BufRead, IsTerminal, Write};

/// Where a command speaks.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    /// How stdout is read.
    pub(crate) view: View,
    /// How stderr is read.
    pub(crate) talk: View,
    /// Options that were typed and that each command needs too that is told of: it is to work when it is pasted.
    pub(crate) options: String,
}

/// What the operator said to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consent {
    /// Go on.
    Yes,
    /// Do not.
    No,
    /// There is nobody to ask.
    NoTerminal,
}

/// What the operator wrote as an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// A line, without the space around it.
    Words(String),
    /// There is nobody to ask.
    NoTerminal,
}

impl Output {
    /// As asked for, and as the terminal is.
    pub(crate) fn new(choice: ColorChoice, options: &str) -> Self {
        let zone = TimeZone::system();
        let color = |terminal: bool| match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
                terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
            }
        };
        let view = |terminal: bool, columns: Option<usize>| View {
            color: color(terminal),
            width: columns.unwrap_or(80).clamp(40, 140),
            zone: zone.clone(),
        };
        let (stdout, stderr) = (io::stdout(), io::stderr());
        Self {
            view: view(stdout.is_terminal(), columns(&stdout)),
            talk: view(stderr.is_terminal(), columns(&stderr)),
            options: options.to_owned(),
        }
    }

    /// Part of the answer, in our words.
    pub(crate) fn answer(&self, text: &str) {
        self.verbatim(&with_options(text, &self.options));
    }

    /// Part of the answer that is not in our words, or for a program.
    pub(crate) fn verbatim(&self, text: &str) {
        let mut stdout = io::stdout().lock();
        if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            // Whoever reads has enough (`| head`): that is no failure. Anything else is: the answer is not complete.
            std::process::exit(i32::from(error.kind() != io::ErrorKind::BrokenPipe));
        }
    }

    /// A line of the answer.
    pub(crate) fn answer_line(&self, text: &str) {
        self.answer(&format!("{text}\n"));
    }

    /// A line of it.
    pub(crate) fn verbatim_line(&self, text: &str) {
        self.verbatim(&format!("{text}\n"));
    }

    /// Part of the conversation. Nobody may be listening; that changes nothing.
    pub(crate) fn say(&self, text: &str) {
        let mut stderr = io::stderr().lock();
        let _ = stderr.write_all(with_options(text, &self.options).as_bytes());
        let _ = stderr.write_all(b"\n");
    }

    /// An error: what happened, why, and what to do.
    pub(crate) fn error(&self, error: &dyn std::error::Error, hint: Option<&str>) {
        let mut said = error.to_string();
        let mut text = headed(&said, &self.talk);
        let mut cause = error.source();
        while let Some(source) = cause {
            let own = source.to_string();
            // Some errors repeat their cause in their own words.
            if !said.contains(&own) {
                text.push_str(&format!("\n  because: {own}"));
                said = own;
            }
            cause = source.source();
        }
        if let Some(hint) = hint {
            text.push_str(&format!("\n  {} {hint}", self.talk.paint(Tone::Strong, "hint:")));
        }
        self.say(&text);
    }

    /// Asks for a line of words.
    pub(crate) fn ask_for_words(&self, question: &str) -> Said {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Said::NoTerminal;
        }
        let mut stderr = io::stderr().lock();
        let _ = write!(stderr, "{question}: ");
        let _ = stderr.flush();
        let mut line = String::new();
        match io::stdin().lock().read_line(&mut line) {
            Ok(_) => Said::Words(line.trim().to_owned()),
            Err(_) => Said::Words(String::new()),
        }
    }

    /// Asks for a yes. Anything else is a no.
    pub(crate) fn ask(&self, question: &str) -> Consent {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Consent::NoTerminal;
        }
        let mut stderr = io::stderr().lock();
        let _ = write!(stderr, "{question} [y/N] ");
        let _ = stderr.flush();
        let mut line = String::new();
        match io::stdin().lock().read_line(&mut line) {
            Ok(_) if matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes") => Consent::Yes,
            _ => Consent::No,
        }
    }
}

/// The same text with the options in each command that it tells of: "`understudy explain db`".
fn with_options<'a>(text: &'a str, options: &str) -> Cow<'a, str> {
    const COMMAND: &str = "`understudy";
    if options.is_empty() || !text.contains(COMMAND) {
        return Cow::Borrowed(text);
    }
    let mut parts = text.split(COMMAND);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(COMMAND);
        // Its name alone, or that of something of it, is no command.
        if part.starts_with(char::is_whitespace) && !part.trim_start().starts_with("--") {
            out.push_str(options);
        }
        out.push_str(part);
    }
    Cow::Owned(out)
}

/// An error with its head; what an agent says of a file has one already, a picture of the place for each.
fn headed(said: &str, talk: &View) -> String {
    let head = talk.paint(Tone::Bad, "error:");
    match said.strip_prefix("error: ") {
        Some(rest) => format!("{head} {rest}"),
        None => format!("{head} {said}"),
    }
}

/// The width of the terminal behind a descriptor.
fn columns(fd: &impl std::os::fd::AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(fd).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::{headed, with_options};
    use crate::render::plain_view;

    #[test]
    fn a_command_that_is_told_of_works_when_it_is_pasted() {
        let hint = "`understudy explain db` says more, or `understudy\n  logs db-1`; the user `understudy` is ours";
        assert_eq!(
            with_options(hint, " --cluster shop"),
            "`understudy --cluster shop explain db` says more, or `understudy --cluster shop\n  logs db-1`; the user `understudy` is ours"
        );
        assert_eq!(with_options(hint, ""), hint);
    }

    #[test]
    fn an_error_has_one_head() {
        assert_eq!(headed("it is taken", &plain_view()), "error: it is taken");
        let of_a_file = "error: 127.0.0.1:80 is in use\n  --> shop.toml:3:1\nerror: another";
        assert_eq!(headed(of_a_file, &plain_view()), of_a_file);
    }
}

//! `check`, and the look at this machine that `up` takes as well.

use super::files::{self, File};
use super::{Done, Error, Session, to_json};
use crate::args;
use crate::render::check::summary;
use crate::render::plural;
use api::layout::Layout;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What `check --json` prints.
#[derive(serde::Serialize)]
struct Report<'a> {
    version: u32,
    path: String,
    ok: bool,
    errors: &'a [spec::Diagnostic],
    warnings: &'a [spec::Diagnostic],
    here: Option<&'a [spec::Diagnostic]>,
    cluster: Option<&'a model::Cluster>,
}

/// `check`
pub(super) async fn run(session: &Session, args: &args::Check) -> Result<Done, Error> {
    if args.schema {
        session.output.verbatim_line(&to_json(&spec::json_schema()));
        return Ok(Done::Yes);
    }
    if args.json {
        return json(session, args).await;
    }
    let file = files::read(session, &args.file)?;
    if args.here {
        must_run_here(session, &file, &args.file).await?;
    }
    let missing = match args.here {
        true => Vec::new(),
        false => missing(session, &file),
    };
    for program in &missing {
        session
            .output
            .say(&format!("{}\n", program.render(session.output.talk.color)));
    }
    session.output.answer(&summary(file.cluster(), &session.output.view));
    if args.here {
        session.output.answer_line("nothing on this machine stands in its way");
    }
    let warnings = file.parsed.warnings.len() + missing.len();
    if warnings > 0 {
        session.output.say(&plural(warnings as u64, "warning"));
    }
    Ok(Done::Yes)
}

async fn json(session: &Session, args: &args::Check) -> Result<Done, Error> {
    let path = args.file.display().to_string();
    let report = |ok,
                  errors: &[spec::Diagnostic],
                  warnings: &[spec::Diagnostic],
                  here: Option<&[spec::Diagnostic]>,
                  cluster: Option<&model::Cluster>| {
        to_json(&Report {
            version: api::VERSION,
            path: path.clone(),
            ok,
            errors,
            warnings,
            here,
            cluster,
        })
    };
    let (text, done) = match files::parse(&files::bytes(&args.file)?, &args.file) {
        Err(errors) => (report(false, &errors, &[], None, None), Done::No),
        Ok(file) => {
            let found = match args.here {
                true => Some(here(session, &file).await),
                false => None,
            };
            let ok = found.as_ref().is_none_or(Vec::is_empty);
            let mut warnings = file.parsed.warnings.clone();
            if !args.here {
                warnings.extend(missing(session, &file));
            }
            let text = report(ok, &[], &warnings, found.as_deref(), Some(file.cluster()));
            (text, if ok { Done::Yes } else { Done::No })
        }
    };
    session.output.answer_line(&text);
    Ok(done)
}

/// Programs of a file that this machine has not. The file may be meant for another one, so that is no error.
fn missing(session: &Session, file: &File) -> Vec<spec::Diagnostic> {
    const PROGRAMS: [&str; 6] = [
        "command",
        "on_promote",
        "on_demote",
        "on_follow",
        "check",
        "standby_check",
    ];
    // No address is tried for that.
    let listens = file.cluster().services.values().filter_map(|service| service.listen);
    let found = findings(session, file, &listens.collect()).into_iter();
    found
        .filter(|(_, finding)| PROGRAMS.contains(&finding.key))
        .map(|(service, finding)| {
            let problem = format!("on this machine {}", finding.problem);
            let help = format!("{}; where it is so, `apply` refuses the file", finding.help);
            let here = file
                .parsed
                .diagnostic(service.as_str(), finding.key, problem, Some(help));
            here.warning()
        })
        .collect()
}

/// What would keep the services of a file from running on this machine, with its place in the file.
async fn here(session: &Session, file: &File) -> Vec<spec::Diagnostic> {
    let layout = session.place.layout(&file.cluster().name);
    let found = findings(session, file, &ours(session, file, &layout).await).into_iter();
    found
        .map(|(service, finding)| {
            file.parsed
                .diagnostic(service.as_str(), finding.key, finding.problem, Some(finding.help))
        })
        .collect()
}

fn findings(session: &Session, file: &File, ours: &BTreeSet<SocketAddr>) -> Vec<(model::ServiceName, agent::Finding)> {
    let layout = session.place.layout(&file.cluster().name);
    // Without a path of its own it cannot be started either; then `{understudy}` is the finding.
    let exe = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("understudy"));
    let here = agent::Here {
        layout: &layout,
        exe: &exe,
        folder: Some(file.folder()),
        ours,
    };
    agent::preflight(file.cluster(), here)
}

/// Addresses that the cluster of this file has already: whoever runs says which.
async fn ours(session: &Session, file: &File, layout: &Layout) -> BTreeSet<SocketAddr> {
    if let Ok(status) = session.client_of(&file.cluster().name).status().await {
        let listens = status.services.into_iter().filter_map(|service| service.listen);
        return listens.filter_map(|listen| listen.parse().ok()).collect();
    }
    // A proxy that outlived its agent holds addresses for the next one. Which, only the next one knows: none is told as taken.
    let has_proxy = std::os::unix::net::UnixStream::connect(layout.proxy_socket()).is_ok();
    let listens = file.cluster().services.values().filter_map(|service| service.listen);
    listens.filter(|_| has_proxy).collect()
}

/// Tells what stands in the way, if anything does.
pub(super) async fn must_run_here(session: &Session, file: &File, path: &Path) -> Result<(), Error> {
    let found = here(session, file).await;
    if found.is_empty() {
        return Ok(());
    }
    for obstacle in &found {
        session
            .output
            .say(&format!("{}\n", obstacle.render(session.output.talk.color)));
    }
    Err(Error::NotHere {
        path: path.to_owned(),
        obstacles: found.len(),
    })
}

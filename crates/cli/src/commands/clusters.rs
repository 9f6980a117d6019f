//! `clusters`

use super::{Done, Error, Session, to_json};
use crate::place::Life;
use crate::render::{Cell, Tone, table};

pub(super) fn run(session: &Session, json: bool) -> Result<Done, Error> {
    let known = session.place.known()?;
    if json {
        session.output.verbatim_line(&to_json(&known));
        return Ok(Done::Yes);
    }
    if known.is_empty() {
        session
            .output
            .say(&format!("no clusters in {}", session.place.base.display()));
        return Ok(Done::Yes);
    }
    let rows: Vec<Vec<Cell>> = known
        .iter()
        .map(|known| {
            let (tone, words) = match known.state {
                Life::Running => (Tone::Good, "● running"),
                Life::Starting => (Tone::Warn, "◌ runs, does not answer"),
                Life::Stopped => (Tone::Quiet, "○ stopped"),
                Life::Closed => (Tone::Quiet, "? belongs to another user"),
            };
            vec![
                Cell::new(Tone::Strong, known.cluster.as_str()),
                Cell::new(tone, words),
                Cell::plain(known.folder.display().to_string()),
            ]
        })
        .collect();
    for line in table(&session.output.view, 0, &rows) {
        session.output.answer_line(&line);
    }
    Ok(Done::Yes)
}

//! What is known, in the words of the API.

mod alias;
mod explain;
mod hands;
mod loss;
mod placement;
mod plan;
mod preview;
mod slots;
mod slow;
mod status;
mod takeover;
mod unheard;

pub(crate) use explain::explain;
pub(crate) use placement::way_back_to;
pub(crate) use plan::plan;
pub(crate) use preview::preview;
pub(crate) use slots::way_on;
pub(crate) use status::{Beside, status};
pub(crate) use takeover::Pace;
pub(crate) use unheard::{Silence, explain as explain_unheard, in_words as silence_in_words, tell as tell_unheard};

use crate::executor::Executor;
use crate::fronts::Fronts;
use crate::journal::Journal;
use decisions::View;
use decisions::lease::Forcing;
use model::{NodeName, SlotId};

/// All that explanations draw on.
pub(crate) struct Known<'a> {
    /// Name of the cluster.
    pub(crate) cluster: &'a str,
    /// Where each node is reached. Empty on a single machine.
    pub(crate) hosts: Vec<(NodeName, std::net::IpAddr)>,
    pub(crate) view: &'a View,
    pub(crate) executor: &'a Executor,
    pub(crate) fronts: &'a Fronts,
    pub(crate) journal: &'a Journal,
    /// Absent on a single machine.
    pub(crate) pace: Option<Pace<'a>>,
    /// Who votes in the store, and whether it has a session now. Empty on a single machine.
    pub(crate) voters: Vec<(NodeName, bool)>,
    /// What else is amiss with nodes, in plain words.
    pub(crate) amiss: Vec<(NodeName, String)>,
    /// Of a preview of force: which slot, and how it stands.
    pub(crate) forcing: Option<(SlotId, Forcing)>,
}

/// A few names, and how many more there are.
pub(crate) fn names<T: ToString>(of: impl IntoIterator<Item = T>) -> String {
    const SHOWN: usize = 8;
    let all: Vec<String> = of.into_iter().map(|name| name.to_string()).collect();
    match all.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{} and {more} more", all[..SHOWN].join(", ")),
        _ => all.join(", "),
    }
}

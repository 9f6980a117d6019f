//! The cluster as a whole: its first member, further ones, the replacement of dead ones, its leader, its upkeep, its health.
//!
//! What is decided is decided by pure functions over a [`View`]; [`Cluster`] looks and carries out.

mod error;
mod health;
mod judge;
mod maintain;
mod members;
mod progress;
mod removal;
mod view;

pub use error::Error;
pub use health::{Finding, Health, Level};
pub use judge::{Choice, Refusal, choose_leader, judge_removal};
pub use maintain::{Memory, Policy, Step, next_step};
pub use members::{JOIN_PATIENCE, READY_PATIENCE, bootstrap, wait_ready};
pub use progress::Progress;
pub use view::{Seen, View};

use crate::client::Client;
use crate::{Options, client};
use model::Timestamp;
use std::collections::BTreeSet;

/// A running cluster, looked at and changed through its members.
pub struct Cluster {
    client: Client,
    options: Options,
}

impl Cluster {
    /// A cluster that is reached through any of these endpoints. It finds the others by itself.
    pub fn new(options: Options) -> Result<Self, Error> {
        let client = Client::new(options.clone()).map_err(Error::etcd("reach the cluster"))?;
        Ok(Self { client, options })
    }

    /// To read and write with.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Asks every member how it is. Those that do not answer are in the view, with the reason.
    pub async fn look(&mut self) -> Result<View, Error> {
        let members = self.members().await?;
        self.follow(&members)?;
        let admin = self.client.admin();
        let asked = members.into_iter().map(|member| async move {
            let status = match member.client_urls.first() {
                Some(endpoint) => admin.status(endpoint).await.map_err(|error| error.to_string()),
                None => Err("it has never started".into()),
            };
            Seen { member, status }
        });
        let mut members = futures_util::future::join_all(asked).await;
        members.sort_by(|one, other| one.name().cmp(other.name()));
        let mut view = View {
            members,
            alarms: Vec::new(),
        };
        // Without a majority nobody would answer for long, nor could anything be done about an alarm.
        if view.has_quorum() {
            view.alarms = admin.alarms().await.map_err(Error::etcd("list the alarms"))?;
        }
        Ok(view)
    }

    /// How the cluster is, in plain words.
    pub async fn health(&mut self, policy: &Policy) -> Result<Health, Error> {
        Ok(Health::of(&self.look().await?, policy))
    }

    /// Lets somebody else lead if the leader is on one of the nodes to avoid and another member is fit.
    pub async fn prefer_leader_away_from(&mut self, avoid: &BTreeSet<String>) -> Result<Choice, Error> {
        let view = self.look().await?;
        let choice = choose_leader(&view, avoid);
        if let Choice::Move { to, name } = &choice {
            self.move_leader(*to).await?;
            tracing::info!(to = name, "moved the leadership of etcd");
        }
        Ok(choice)
    }

    /// One step of upkeep, and what it was. To be called again soon after any step but [`Step::Rest`].
    pub async fn maintain(&mut self, policy: &Policy, memory: &mut Memory, now: Timestamp) -> Result<Step, Error> {
        let view = self.look().await?;
        memory.note(&view, policy, now);
        let step = next_step(&view, policy, memory, now);
        let admin = self.client.admin();
        match &step {
            Step::Rest | Step::Full => {}
            Step::Compact { oldest, physical } => admin
                .compact(*oldest, *physical)
                .await
                .map_err(Error::etcd("forget old revisions"))?,
            Step::Defragment { endpoint, .. } => admin
                .defragment(endpoint)
                .await
                .map_err(Error::etcd("defragment a member"))?,
            Step::MoveLeader { to, .. } => self.move_leader(*to).await?,
            Step::Disarm { alarm } => admin.disarm(*alarm).await.map_err(Error::etcd("end an alarm"))?,
        }
        if step != Step::Rest {
            tracing::info!(%step, "upkeep of etcd");
        }
        memory.done(&step, now);
        Ok(step)
    }

    async fn move_leader(&self, to: u64) -> Result<(), Error> {
        let moved = self.client.admin().move_leader(to).await;
        moved.map_err(Error::etcd("move the leadership"))
    }

    /// From a majority if there is one, else from whoever answers.
    async fn members(&self) -> Result<Vec<client::Member>, Error> {
        let admin = self.client.admin();
        match admin.members(false).await {
            Ok(members) => Ok(members),
            Err(_) => admin.members(true).await.map_err(Error::etcd("list the members")),
        }
    }

    /// Keeps to the endpoints that the members name now.
    fn follow(&mut self, members: &[client::Member]) -> Result<(), Error> {
        let named: BTreeSet<String> = members
            .iter()
            .filter_map(|member| member.client_urls.first().cloned())
            .collect();
        let known: BTreeSet<String> = self.options.endpoints.iter().cloned().collect();
        if named.is_empty() || named == known {
            return Ok(());
        }
        self.options.endpoints = named.into_iter().collect();
        // What the cluster was known to be is remembered: another one in its place is still noticed.
        self.options.known = self.client.known().or(self.options.known);
        self.client = Client::new(self.options.clone()).map_err(Error::etcd("reach the cluster"))?;
        Ok(())
    }
}

//! The environment that every program started here finds, services, hooks and checks alike.
//!
//! Nothing else of the agent's own reaches them: what an operator had set when the agent was started by hand must not be
//! what a service happens to need.

use crate::account::Account;
use crate::program::DEFAULT_PATH;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// `PATH`, `HOME`, `USER`, `LOGNAME` and `LANG` for a program that runs as `account`, or as the agent's own user.
pub fn base(account: Option<&Account>) -> BTreeMap<String, String> {
    let account = account.or_else(own_account);
    let (user, home) = account.map_or_else(
        || (rustix::process::geteuid().as_raw().to_string(), "/".to_owned()),
        |account| (account.name.clone(), account.home.clone()),
    );
    BTreeMap::from([
        ("PATH".to_owned(), search_path().to_owned()),
        ("LANG".to_owned(), own("LANG").unwrap_or_else(|| "C.UTF-8".into())),
        ("HOME".to_owned(), home),
        ("LOGNAME".to_owned(), user.clone()),
        ("USER".to_owned(), user),
    ])
}

/// Where programs are looked up unless a service has a `PATH` of its own: the agent's `PATH`.
pub fn search_path() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| own("PATH").unwrap_or_else(|| DEFAULT_PATH.into()))
}

fn own(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Looked up once: who we are does not change, and a hook of a failover has no time to read the list of users.
fn own_account<'a>() -> Option<&'a Account> {
    static ACCOUNT: OnceLock<Option<Account>> = OnceLock::new();
    ACCOUNT
        .get_or_init(|| Account::find(&rustix::process::geteuid().as_raw().to_string()).ok())
        .as_ref()
}

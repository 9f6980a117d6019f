//! The users of this machine: what a name or number in `user = "..."` means, and how a child process becomes it.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name; the number as text if it has none.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
    /// All its groups, the primary one among them.
    pub groups: Vec<u32>,
    /// Its home folder.
    pub home: String,
}

/// Why there is no such user.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no user `{user}` on this machine")]
pub struct UnknownUser {
    /// As asked for.
    pub user: String,
}

impl Account {
    /// Finds a user by name or number: in `/etc/passwd`, else wherever `getent` looks (LDAP and the like).
    ///
    /// A number without an entry is a user all the same, with a group of the same number, as for containers.
    pub fn find(user: &str) -> Result<Self, UnknownUser> {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let entry = passwd_entry(&passwd, user).or_else(|| passwd_entry(&getent("passwd", user)?, user));
        if let Some(mut account) = entry {
            let group = std::fs::read_to_string("/etc/group").unwrap_or_default();
            account.groups = groups_of(&group, &account);
            return Ok(account);
        }
        let uid: u32 = user.parse().map_err(|_| UnknownUser { user: user.into() })?;
        Ok(Self {
            name: user.into(),
            uid,
            gid: uid,
            groups: vec![uid],
            home: "/".into(),
        })
    }

    /// Whether this process is that user already.
    pub fn is_us(&self) -> bool {
        rustix::process::geteuid().as_raw() == self.uid
    }

    /// Makes `command` run as this user, with all of its groups. Costs the fast way of starting a process (`vfork`).
    pub(crate) fn switch(&self, command: &mut Command) {
        use rustix::process::{Gid, Uid};
        let groups: Vec<Gid> = self.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let (gid, uid) = (Gid::from_raw(self.gid), Uid::from_raw(self.uid));
        let switch = move || {
            // The child has one thread, so the thread's identity is the process's. The user goes last: it takes the right away.
            rustix::thread::set_thread_groups(&groups)?;
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            rustix::thread::set_thread_res_uid(uid, uid, uid)?;
            Ok(())
        };
        #[expect(
            unsafe_code,
            reason = "the closure only makes system calls and neither allocates nor locks"
        )]
        // SAFETY: between fork and exec only async-signal-safe things are allowed; these are three plain system calls.
        unsafe {
            command.pre_exec(switch);
        }
    }
}

fn passwd_entry(passwd: &str, user: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else {
            return None;
        };
        (name == user || uid == user).then_some(())?;
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        Some(Account {
            name: name.into(),
            uid,
            gid,
            groups: vec![gid],
            home: home.into(),
        })
    })
}

fn groups_of(group: &str, account: &Account) -> Vec<u32> {
    let member_of = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, gid, members] = fields[..] else { return None };
        members
            .split(',')
            .any(|member| member == account.name)
            .then(|| gid.parse().ok())?
    };
    let mut groups: Vec<u32> = std::iter::once(account.gid)
        .chain(group.lines().filter_map(member_of))
        .collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

fn getent(database: &str, key: &str) -> Option<String> {
    let mut command = Command::new("getent");
    command
        .args([database, "--", key])
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let output = command.output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_by_number() {
        let root = Account::find("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(Account::find("0").unwrap(), root);
        assert_eq!(Account::find("4123456789").unwrap().gid, 4_123_456_789);
        let missing = Account::find("no-such-user").unwrap_err();
        assert_eq!(missing.to_string(), "there is no user `no-such-user` on this machine");
    }

    #[test]
    fn groups_are_the_primary_one_and_those_that_list_the_user() {
        let passwd = "web:x:33:33:web:/srv:/bin/sh\nbroken line\n";
        let mut account = passwd_entry(passwd, "web").unwrap();
        account.groups = groups_of(
            "web:x:33:\nssl:x:70:db,web\nadm:x:4:root\nwebby:x:9:website\n",
            &account,
        );
        assert_eq!(account.groups, [33, 70]);
        assert_eq!(passwd_entry(passwd, "broken line"), None);
    }
}

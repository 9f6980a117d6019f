//! User names, for "by" in the history and for saying whose socket it is.

use rustix::process::{Uid, getuid};

/// The name of the user who typed the command; with sudo, of the user behind it too.
pub(crate) fn caller() -> String {
    let name = name_of(getuid().as_raw());
    match std::env::var("SUDO_USER") {
        Ok(behind) if getuid() == Uid::ROOT && !behind.is_empty() && behind != name => format!("{behind} as {name}"),
        _ => name,
    }
}

/// The name of a user, or its number.
pub(crate) fn name_of(uid: u32) -> String {
    std::fs::read_to_string("/etc/passwd")
        .ok()
        .and_then(|passwd| name_in(&passwd, uid))
        .unwrap_or_else(|| format!("user {uid}"))
}

fn name_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nbroken\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(name_in(passwd, 1000).as_deref(), Some("ann"));
        assert_eq!(name_in(passwd, 7), None);
    }
}

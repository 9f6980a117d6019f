//! Whether we may put an address on this machine, and tell its neighbours.

use super::Finding;

const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;

pub(super) fn check() -> Result<(), Finding> {
    // Where that cannot be read, the attempt itself will tell.
    match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => judge(&status),
        Err(_) => Ok(()),
    }
}

fn judge(status: &str) -> Result<(), Finding> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()) else {
        return Ok(());
    };
    let lacks: Vec<&str> = [(CAP_NET_ADMIN, "CAP_NET_ADMIN"), (CAP_NET_RAW, "CAP_NET_RAW")]
        .into_iter()
        .filter(|(bit, _)| effective & (1 << bit) == 0)
        .map(|(_, name)| name)
        .collect();
    if lacks.is_empty() {
        return Ok(());
    }
    Err(Finding {
        key: "address",
        problem: format!(
            "understudy may not put an address on this machine: it lacks {}",
            lacks.join(" and ")
        ),
        help: "run understudy as root, or with `AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW` in its unit; or leave `address` out".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_named() {
        assert!(judge("Name:\tx\nCapEff:\t000001ffffffffff\n").is_ok());
        let none = judge("CapEff:\t0000000000000000\n").unwrap_err();
        assert!(
            none.problem.ends_with("it lacks CAP_NET_ADMIN and CAP_NET_RAW"),
            "{}",
            none.problem
        );
        let raw_only = judge("CapEff:\t0000000000002000\n").unwrap_err();
        assert!(
            raw_only.problem.ends_with("it lacks CAP_NET_ADMIN"),
            "{}",
            raw_only.problem
        );
    }
}

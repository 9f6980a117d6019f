//! What a script says of a service.

use super::words::Words;
use super::{Wrong, wrong};
use crate::blueprint::{check, hook};
use model::{Millis, Service, Spread, StandbyMode};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

const KEYS: &str = "known are: active N, standby N, need N, exclusive, shared, cold, warm, hooks, promote, demote, follow, every SPAN, \
                    fail-after N, pass-after N, no-check, standby-check, no-listen, listen PORT, needs SERVICE, spread, \
                    start-timeout SPAN, stop-timeout SPAN, drain SPAN, backoff SPAN, backoff-max SPAN, replace-after N, \
                    give-up-after N, retry-after SPAN, version WORD";

/// Takes the rest of a line in.
pub(super) fn keys(service: &mut Service, words: &mut Words<'_>) -> Result<(), Wrong> {
    while let Some(key) = words.next() {
        one(service, key, words)?;
    }
    if service.active == 0 {
        return wrong("there must be an active", "write `active 1` or more");
    }
    if service.active > 100 || service.standby > 100 {
        return wrong("that are too many to read about", "write at most 100");
    }
    service.need = service.need.clamp(1, service.active);
    Ok(())
}

fn one(service: &mut Service, key: &str, words: &mut Words<'_>) -> Result<(), Wrong> {
    let mut checks = service.check.clone().unwrap_or_else(|| check(100, 100, 2, 1));
    match key {
        "active" => service.active = words.number()?,
        "standby" => service.standby = words.number()?,
        "need" => service.need = words.number()?,
        "exclusive" => service.exclusive = true,
        "shared" => service.exclusive = false,
        "cold" => service.standby_mode = StandbyMode::Cold,
        "warm" => service.standby_mode = StandbyMode::Warm,
        "hooks" => {
            service.on_promote = Some(hook("promote"));
            service.on_demote = Some(hook("demote"));
        }
        "promote" => service.on_promote = Some(hook("promote")),
        "demote" => service.on_demote = Some(hook("demote")),
        "follow" => service.on_follow = Some(hook("follow")),
        "every" => {
            checks.every = millis(words.span()?);
            service.check = Some(checks);
        }
        "fail-after" => {
            checks.fail_after = words.number()?;
            service.check = Some(checks);
        }
        "pass-after" => {
            checks.pass_after = words.number()?;
            service.check = Some(checks);
        }
        "no-check" => service.check = None,
        "standby-check" => service.standby_check = Some(check(100, 100, 1, 1)),
        "no-listen" => service.listen = None,
        "listen" => {
            let port = words.number()?;
            let Some(port) = u16::try_from(port).ok().filter(|port| *port > 0) else {
                return wrong(format!("{port} is no port"), "write 1 to 65535");
            };
            service.listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        }
        "needs" => {
            service.needs.insert(words.name()?);
        }
        "spread" => service.spread = Spread::Node,
        "start-timeout" => service.start_timeout = millis(words.span()?),
        "stop-timeout" => service.stop.timeout = millis(words.span()?),
        "drain" => service.drain_timeout = millis(words.span()?),
        "backoff" => service.restart.backoff = millis(words.span()?),
        "backoff-max" => service.restart.backoff_max = millis(words.span()?),
        "replace-after" => service.restart.replace_after = words.number()?.max(1),
        "give-up-after" => service.restart.give_up_after = words.number()?,
        "retry-after" => service.restart.retry_after = millis(words.span()?),
        "version" => {
            let version = words.next().unwrap_or("2");
            service.command = vec!["serve".into(), format!("--version={version}")];
        }
        other => return wrong(format!("no key is called `{other}`"), KEYS),
    }
    Ok(())
}

fn millis(span: Duration) -> Millis {
    Millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

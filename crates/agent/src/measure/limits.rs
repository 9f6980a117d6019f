//! `GET /v1/bottleneck`, and "why slow" of `explain`: the verdict from what is measured anyway.

use super::{Measures, State, moment};
use crate::http::{Door, Refused};
use api::{Bottleneck, Saturation, SlowService, WindowPage};
use axum::Json;
use axum::extract::{Query, State as From};
use bottleneck::capacity::{self, Capacity, Resource};
use bottleneck::{Baseline, Verdict, Window, diagnose};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The seconds that are judged.
const JUDGED: u64 = 60;
/// With less to know what is usual from, in windows of ten seconds, nothing is said.
const USUAL_MIN: usize = 3;

#[derive(Deserialize)]
pub(crate) struct WindowsQuery {
    after: Option<u64>,
    #[serde(default)]
    own: bool,
    /// Of another agent: what was before the minute that is judged, counted backwards instead of by seconds.
    #[serde(default)]
    usual: bool,
}

/// Which service limits the others now, of which kind the limit is, and what would be full next. Without a verdict nothing is wrong.
#[utoipa::path(get, path = "/v1/bottleneck", responses((status = 200, body = Bottleneck), (status = 503, body = api::Outcome)))]
pub(crate) async fn get_bottleneck(From(door): From<Door>) -> Result<Json<Bottleneck>, Refused> {
    let (recent, usual) = collect(&door.measures).await?;
    Ok(Json(answer(&recent, &usual)))
}

/// What the search for bottlenecks judges, a window a second: for `understudy load`.
#[utoipa::path(
    get,
    path = "/v1/windows",
    params(("after" = Option<u64>, Query, description = "Only seconds after this one, counted since the boot of the machine that is asked; three minutes are kept")),
    responses((status = 200, body = WindowPage), (status = 503, body = api::Outcome))
)]
pub(crate) async fn get_windows(
    From(door): From<Door>,
    Query(query): Query<WindowsQuery>,
) -> Result<Json<WindowPage>, Refused> {
    let now = moment().second();
    if query.own {
        let state = door.measures.state();
        let windows = match query.usual {
            true => (0..)
                .zip(state.windows.before(now.saturating_sub(JUDGED)).into_iter().rev())
                .collect(),
            false => own(&state, query.after.unwrap_or(0)),
        };
        return Ok(Json(page(now, windows.into_iter())));
    }
    let after = query.after.unwrap_or(0);
    let age = now.saturating_sub(after);
    let windows = with_others(&door.measures, now, age).await?;
    Ok(Json(page(now, windows.into_iter())))
}

/// What a verdict says of one service, sentences; empty if it has no part in it.
pub(crate) async fn why_slow(measures: &Measures, service: &str) -> Vec<String> {
    let Ok((recent, usual)) = collect(measures).await else {
        return Vec::new();
    };
    if usual.len() < USUAL_MIN {
        return Vec::new();
    }
    let baseline = Baseline::learn(&usual);
    let Some(verdict) = diagnose(&recent, &baseline, false) else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    if let Some(suspect) = verdict.suspects.iter().find(|suspect| suspect.service == service) {
        lines.push(format!(
            "{suspect}: {:.0} % of the {:.0} requests that wait are stuck in it",
            suspect.share * 100.0,
            verdict.excess
        ));
        lines.extend(suspect.evidence.iter().cloned());
        lines.push(format!("what helps: {}", suspect.advice));
    } else if Window::merge(&recent).is_some_and(|window| calls(&window, service, &verdict)) {
        for suspect in &verdict.suspects {
            lines.push(format!(
                "it is not the cause: {suspect}; `understudy explain {}` says more",
                suspect.service
            ));
        }
    }
    lines
}

/// Whether a service calls one of the suspects, itself or by others.
fn calls(window: &Window, from: &str, verdict: &Verdict) -> bool {
    let mut seen = vec![from.to_owned()];
    let mut at = 0;
    while let Some(service) = seen.get(at).cloned() {
        at += 1;
        if verdict.suspects.iter().any(|suspect| suspect.service == service) {
            return true;
        }
        for callee in window
            .services
            .get(&service)
            .into_iter()
            .flat_map(|service| service.calls.keys())
        {
            if !seen.contains(callee) {
                seen.push(callee.clone());
            }
        }
    }
    false
}

fn answer(recent: &[Window], usual: &[Window]) -> Bottleneck {
    let baseline = Baseline::learn(usual);
    let over_s = recent.iter().map(|window| window.span.as_secs()).sum();
    let verdict = (usual.len() >= USUAL_MIN)
        .then(|| diagnose(recent, &baseline, false))
        .flatten();
    Bottleneck {
        version: api::VERSION,
        at: crate::clock::shown_wall(crate::clock::wall_now()),
        over_s,
        summary: match &verdict {
            Some(verdict) => verdict.to_string(),
            None if usual.len() < USUAL_MIN => "not enough has been seen yet to know what is usual".into(),
            None => "nothing is held up".into(),
        },
        signs: verdict
            .iter()
            .flat_map(|verdict| &verdict.signs)
            .map(ToString::to_string)
            .collect(),
        excess: verdict.as_ref().map(|verdict| verdict.excess),
        suspects: verdict
            .iter()
            .flat_map(|verdict| &verdict.suspects)
            .map(Into::into)
            .collect(),
        services: services(recent, &baseline, verdict.as_ref()),
        saturation: saturations(recent, usual),
    }
}

fn services(recent: &[Window], baseline: &Baseline, verdict: Option<&Verdict>) -> Vec<SlowService> {
    let Some(window) = Window::merge(recent) else {
        return Vec::new();
    };
    window
        .services
        .iter()
        .filter(|(_, service)| service.completions > 0.0)
        .map(|(name, service)| {
            let elsewhere: f64 = service.calls.values().map(|call| call.in_flight).sum();
            SlowService {
                service: name.clone(),
                requests_per_second: service.completions,
                own_ms: (service.in_flight - elsewhere).max(0.0) / service.completions * 1_000.0,
                usual_ms: baseline.of(name).map(|usual| usual.own_time * 1_000.0),
                share: verdict
                    .and_then(|verdict| verdict.shares.get(name).copied())
                    .unwrap_or(0.0),
            }
        })
        .collect()
}

/// Which processors are full first, if the traffic grows as it is. Of the last hour.
/// How many times its present requests each service could bear, as far as this node sees them; nothing where it cannot be told.
pub(super) fn headroom(state: &State) -> BTreeMap<String, f64> {
    let from = moment().second().saturating_sub(JUDGED);
    let recent: Vec<Window> = own(state, from).into_iter().map(|(_, window)| window).collect();
    let found = saturations(&recent, &state.windows.before(from));
    found.into_iter().map(|one| (one.service, one.times)).collect()
}

fn saturations(recent: &[Window], usual: &[Window]) -> Vec<Saturation> {
    let Some(now) = Window::merge(recent) else {
        return Vec::new();
    };
    let all = usual.iter().chain(recent);
    let mut points: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for window in all {
        for (name, service) in &window.services {
            let used: f64 = service.instances.values().map(|instance| instance.cpu).sum();
            points.entry(name).or_default().push((service.completions, used));
        }
    }
    let mut resources = Vec::new();
    for (name, points) in points {
        let Some(service) = now.services.get(name).filter(|service| service.completions > 0.0) else {
            continue;
        };
        let limit = service
            .instances
            .values()
            .map(|instance| instance.cpu_limit)
            .fold(0.0, f64::max);
        if let Ok(capacity) = capacity::saturation(&points, limit) {
            // How far it may grow is what orders them: how often each is visited shows in the rates of now.
            let capacity = Capacity {
                rate: capacity.times(service.completions),
                error: capacity.error / service.completions,
                ..capacity
            };
            resources.push(Resource {
                what: name.to_owned(),
                visits: 1.0,
                capacity,
            });
        }
    }
    capacity::order(resources)
        .into_iter()
        .map(|(times, resource)| Saturation {
            text: format!(
                "the processors are full with {} at {times:.1} times the requests of now",
                resource.what
            ),
            service: resource.what,
            resource: "cpu".into(),
            times,
            error: resource.capacity.error,
            explained: resource.capacity.explained,
        })
        .collect()
}

fn own(state: &State, after: u64) -> Vec<(u64, Window)> {
    state.windows.since(after).cloned().collect()
}

fn page(now: u64, windows: impl Iterator<Item = (u64, Window)>) -> WindowPage {
    let windows = windows.filter_map(|(second, window)| Some((second, serde_json::to_value(window).ok()?)));
    WindowPage {
        version: api::VERSION,
        now,
        windows: windows.collect(),
    }
}

/// The last minute, and what was before it, of all nodes.
async fn collect(measures: &Measures) -> Result<(Vec<Window>, Vec<Window>), Refused> {
    let now = moment().second();
    let recent = with_others(measures, now, JUDGED).await?;
    let (mut usual, cluster) = {
        let state = measures.state();
        let cluster = state.look.as_ref().and_then(|(seen, _)| seen.cluster.clone());
        (state.windows.before(now.saturating_sub(JUDGED)), cluster)
    };
    let path = "/v1/windows?own=true&usual=true";
    let (others, _) = measures.peers.ask_all::<WindowPage>(cluster.as_ref(), path).await;
    for (back, window) in others.into_iter().flat_map(|(_, page)| page.windows) {
        // Ten seconds each: that they began at another moment makes no difference to what is usual.
        let at = usize::try_from(back)
            .ok()
            .and_then(|back| usual.len().checked_sub(back + 1));
        if let (Some(at), Ok(window)) = (at, serde_json::from_value::<Window>(window)) {
            usual[at].join(&window);
        }
    }
    Ok((recent.into_iter().map(|(_, window)| window).collect(), usual))
}

/// The windows of the last `age` seconds, with what other nodes saw at the same time by their age.
async fn with_others(measures: &Measures, now: u64, age: u64) -> Result<Vec<(u64, Window)>, Refused> {
    let (mut windows, cluster) = {
        let state = measures.state();
        let (seen, _) = state.look.as_ref().ok_or_else(super::http::not_yet)?;
        (own(&state, now.saturating_sub(age)), seen.cluster.clone())
    };
    // Their clocks count from another boot, so all that is asked for is what is not too old.
    let (others, _) = measures
        .peers
        .ask_all::<WindowPage>(cluster.as_ref(), "/v1/windows?own=true")
        .await;
    for (_, page) in others {
        for (second, window) in page.windows {
            let Ok(window) = serde_json::from_value::<Window>(window) else {
                continue;
            };
            let ago = page.now.saturating_sub(second);
            if let Some((_, mine)) = windows.iter_mut().find(|(at, _)| now.saturating_sub(*at) == ago) {
                mine.join(&window);
            }
        }
    }
    Ok(windows)
}

//! For those who watch: `GET /metrics`, `/healthz`, `/readyz`, `/v1/alerts`, `POST /v1/silences`.

use super::alerting::disk_free;
use super::http::not_yet;
use super::ledgers::CountsOfNode;
use super::{Measures, Seen, metrics, moment};
use crate::agent::refused_by;
use crate::clock;
use crate::http::{Door, Refused};
use crate::input::{done, refused};
use api::{Alert, Alerts, Outcome, ReceiverStatus, Silence, SilenceRequest, record};
use axum::Json;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use model::WallTime;
use monitor::alert::{CATALOGUE, Firing, Receiver};
use monitor::exposition::Format;
use serde::Deserialize;
use store::{Op, Txn};

/// A main loop that was not heard of for so long hangs.
const LOOP_SILENT_US: u64 = 5_000_000;
/// A silence ends by itself: what is silenced for good is forgotten.
const SILENCE_MS: std::ops::RangeInclusive<u64> = 1_000..=7 * 86_400_000;
const SILENCES_MAX: usize = 200;
const REASON_CHARS_MAX: usize = 500;

/// What this node knows, for Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String, content_type = "text/plain")))]
pub(crate) async fn get_metrics(State(door): State<Door>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::wanted(accept.unwrap_or_default());
    let page = metrics::page(&door.measures, format);
    ([(header::CONTENT_TYPE, format.content_type())], page).into_response()
}

/// Whether the agent works: its main loop goes round.
#[utoipa::path(get, path = "/healthz", responses((status = 200, body = String, content_type = "text/plain"), (status = 503, body = String, content_type = "text/plain")))]
pub(crate) async fn get_healthz(State(door): State<Door>) -> Response {
    answer(alive(&door.measures).map(|_| ()))
}

/// Whether this node can do its part: its main loop goes round, the store answers, and its proxy runs if one is needed.
#[utoipa::path(get, path = "/readyz", responses((status = 200, body = String, content_type = "text/plain"), (status = 503, body = String, content_type = "text/plain")))]
pub(crate) async fn get_readyz(State(door): State<Door>) -> Response {
    let ready = alive(&door.measures).and_then(|seen| {
        let lost = seen
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.store_lost_since.is_some());
        let needs_proxy = seen.declared.services.values().any(|service| service.listen.is_some());
        match () {
            () if lost => Err("the store does not answer\n"),
            () if needs_proxy && !seen.proxy_is_up => Err("the proxy does not run\n"),
            () => Ok(()),
        }
    });
    answer(ready)
}

fn alive(measures: &Measures) -> Result<Seen, &'static str> {
    let state = measures.state();
    match &state.look {
        Some((seen, at)) if clock::now().0.saturating_sub(*at) < LOOP_SILENT_US => Ok(seen.clone()),
        Some(_) => Err("the main loop hangs\n"),
        None => Err("the agent is coming up\n"),
    }
}

fn answer(result: Result<(), &'static str>) -> Response {
    match result {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

#[derive(Deserialize)]
pub(crate) struct CountsQuery {
    #[serde(default)]
    after: u64,
}

/// For the node that tells of alerts: what this one counted.
pub(crate) async fn get_counts(
    State(door): State<Door>,
    Query(query): Query<CountsQuery>,
) -> Result<Json<CountsOfNode>, Refused> {
    let now = moment();
    let state = door.measures.state();
    let (seen, _) = state.look.as_ref().ok_or_else(not_yet)?;
    let mut counts = state.alerting.ledgers.counted(query.after, now);
    let free = disk_free(&state, &seen.me);
    // What all nodes know alike is not told: it would come back as many times.
    let own = |problem: &&api::Problem| {
        matches!(
            problem.code.as_str(),
            "proxy-down"
                | "not-served"
                | "address"
                | "frozen"
                | "cannot-fence"
                | "no-session"
                | "two-clusters"
                | "left-behind"
        )
    };
    let problems: Vec<api::Problem> = seen.status.problems.iter().filter(own).cloned().collect();
    counts.news = state.alerting.news(&problems, free, now.second());
    Ok(Json(counts))
}

#[derive(Deserialize)]
pub(crate) struct AlertsQuery {
    #[serde(default)]
    own: bool,
}

/// What fires, as the node sees it that tells; as this one sees it, if that does not answer.
#[utoipa::path(get, path = "/v1/alerts", responses((status = 200, body = Alerts), (status = 503, body = Outcome)))]
pub(crate) async fn get_alerts(
    State(door): State<Door>,
    Query(query): Query<AlertsQuery>,
) -> Result<Json<Alerts>, Refused> {
    let measures = &door.measures;
    let seen = {
        let state = measures.state();
        let (seen, _) = state.look.as_ref().ok_or_else(not_yet)?;
        seen.clone()
    };
    let elsewhere = seen.cluster.as_ref().filter(|cluster| !query.own && !cluster.leads);
    if let Some((controller, address)) = elsewhere.and_then(|cluster| {
        let controller = cluster.controller.as_ref()?;
        Some((controller, *cluster.others.get(controller)?))
    }) && let Ok(alerts) = measures
        .peers
        .ask_one::<Alerts>(controller, address, "/v1/alerts?own=true")
        .await
    {
        return Ok(Json(alerts));
    }
    Ok(Json(own_alerts(measures, &seen)))
}

fn own_alerts(measures: &Measures, seen: &Seen) -> Alerts {
    let now = moment();
    let state = measures.state();
    let told = measures.told();
    let silences: Vec<_> = told.silences.values().cloned().collect();
    let id_of = |silence: &monitor::alert::Silence| {
        let same = told.silences.iter().find(|(_, one)| *one == silence);
        same.map(|(id, _)| id.clone()).unwrap_or_default()
    };
    let shown = |silence: &monitor::alert::Silence| Silence {
        id: id_of(silence),
        code: silence.code.clone(),
        about: silence.about.clone(),
        until: clock::shown_wall(WallTime(silence.until_ms)),
        by: silence.by.clone(),
        because: silence.because.clone(),
    };
    let alert = |one: Firing| {
        let entry = one.wrong.code.entry();
        let (manager, action) = (one.wrong.manager(), one.wrong.action());
        Alert {
            fingerprint: one.fingerprint,
            code: entry.name.into(),
            title: entry.title.into(),
            severity: entry.severity,
            about: one.wrong.about,
            service: one.wrong.service,
            text: one.wrong.text,
            since: clock::shown_wall(WallTime(one.since_ms)),
            meaning: entry.meaning.into(),
            manager,
            action,
            explained: one.explained,
            silenced: one.silenced.as_ref().map(shown),
            quiet_since: one.quiet_since_ms.map(|at| clock::shown_wall(WallTime(at))),
        }
    };
    let receiver = |receiver: Receiver| ReceiverStatus {
        failing: told.failing.get(&receiver.key()).cloned(),
        kind: receiver.kind().into(),
        to: match receiver {
            Receiver::Webhook(url) | Receiver::Alertmanager(url) => url,
            Receiver::Command => seen.declared.alerts.command.join(" "),
        },
    };
    Alerts {
        version: api::VERSION,
        at: clock::shown_wall(WallTime(now.wall_ms)),
        judged_by: seen.me.clone(),
        sees_all: seen.cluster.as_ref().is_none_or(|cluster| cluster.leads),
        alerts: state
            .alerting
            .book
            .firing(&silences, now.wall_ms)
            .into_iter()
            .map(alert)
            .collect(),
        silences: silences.iter().map(shown).collect(),
        receivers: Receiver::all(&seen.declared.alerts).into_iter().map(receiver).collect(),
    }
}

/// Silences alerts for a while: they go on and are shown, and nobody is told.
#[utoipa::path(post, path = "/v1/silences", request_body = SilenceRequest, responses((status = 200, body = Outcome), (status = 409, body = Outcome)))]
pub(crate) async fn post_silence(
    State(door): State<Door>,
    Json(request): Json<SilenceRequest>,
) -> Result<Json<Outcome>, Refused> {
    if !SILENCE_MS.contains(&request.for_ms) {
        let hint = "silence it for 1 s to 7 days; it can be silenced again".to_owned();
        return Err(refused("so long a silence is not possible", Some(hint)).into());
    }
    if let Some(code) = request
        .code
        .as_ref()
        .filter(|code| CATALOGUE.iter().all(|entry| entry.name != **code))
    {
        let names: Vec<&str> = CATALOGUE.iter().map(|entry| entry.name).collect();
        return Err(refused(
            format!("there is no alert `{code}`"),
            Some(format!("there are {}", names.join(", "))),
        )
        .into());
    }
    if request.because.trim().is_empty() {
        let hint = "others read it: `--because \"new disks in rack 2\"`".to_owned();
        return Err(refused("a silence needs a reason", Some(hint)).into());
    }
    if let Some(about) = &request.about {
        let measures = &door.measures;
        let state = measures.state();
        let (seen, _) = state.look.as_ref().ok_or_else(not_yet)?;
        let firing = state.alerting.book.firing(&[], moment().wall_ms);
        if !is_known(about, &seen.status, &firing) {
            let hint = "name a service, an instance or a node of `understudy status`, or the cluster".to_owned();
            return Err(refused(
                format!("no alert can be about `{about}`: there is nothing of that name"),
                Some(hint),
            )
            .into());
        }
    }
    if request.because.chars().count() > REASON_CHARS_MAX || request.by.chars().count() > REASON_CHARS_MAX {
        return Err(refused(format!("a reason has at most {REASON_CHARS_MAX} characters"), None).into());
    }
    if door.measures.told().silences.len() >= SILENCES_MAX {
        let hint = "`understudy alerts` lists them; `understudy unsilence ID` ends one".to_owned();
        return Err(refused(format!("there are {SILENCES_MAX} silences already"), Some(hint)).into());
    }
    let now = moment();
    let until_ms = now.wall_ms + i64::try_from(request.for_ms).unwrap_or(0);
    let silence = monitor::alert::Silence {
        code: request.code,
        about: request.about,
        until_ms,
        by: request.by,
        because: request.because,
    };
    let id = format!("{:x}", now.wall_ms);
    let value = serde_json::to_vec(&silence).map_err(|error| refused_by(&error, None))?;
    write(&door, Op::put(format!("{}{id}", record::SILENCES), value)).await?;
    door.measures.told().silences.insert(id.clone(), silence);
    let until = clock::shown_wall(WallTime(until_ms));
    Ok(Json(done(format!("silence {id} holds until {until}"))))
}

/// Whether an alert may be about that: what there is, an objective or a problem of it, or what fires now.
fn is_known(about: &str, status: &api::Status, firing: &[Firing]) -> bool {
    let name = about.split_once('/').map_or(about, |(name, _)| name);
    let of_service = |service: &api::ServiceStatus| {
        service.name == name || service.instances.iter().any(|instance| instance.id == name)
    };
    status.cluster == name
        || status.nodes.iter().any(|node| node.name == name)
        || status.services.iter().any(of_service)
        || firing.iter().any(|one| one.wrong.about == about)
}

/// Ends a silence.
#[utoipa::path(post, path = "/v1/silences/{id}/end", params(("id" = String, Path, description = "Its number")), responses((status = 200, body = Outcome), (status = 409, body = Outcome)))]
pub(crate) async fn post_silence_end(
    State(door): State<Door>,
    UrlPath(id): UrlPath<String>,
) -> Result<Json<Outcome>, Refused> {
    if !door.measures.told().silences.contains_key(&id) {
        let hint = "`understudy alerts` lists them".to_owned();
        return Err(refused(format!("there is no silence `{id}`"), Some(hint)).into());
    }
    write(&door, Op::delete(format!("{}{id}", record::SILENCES))).await?;
    door.measures.told().silences.remove(&id);
    Ok(Json(done(format!("silence {id} is over"))))
}

async fn write(door: &Door, op: Op) -> Result<(), Refused> {
    let written = door.store.txn(Txn::new().then(op)).await;
    let written = written.map_err(|error| refused_by(&error, error.hint().map(Into::into)))?;
    tracing::info!(revision = written.revision.0, "a silence was written");
    Ok(())
}

//! The API: HTTP/1.1 on a Unix socket, and for reading only on a loopback address if asked for.

use crate::agent::refused_by;
use crate::apply;
use crate::clock;
use crate::dashboard::{Desk, Feed};
use crate::executor::chain;
use crate::input::{Input, LogSource, Request, done, refused};
use crate::journal::{Inputs, timeline};
use crate::loopback::{Bounded, Room};
use crate::measure::watch as measured;
use crate::recover::StartError;
use crate::revisions;
use api::record::{self, Applied};
use api::{
    ApplyRequest, DrillRequest, EventPage, Explanation, HistoryEntry, LogLine, Outcome, Plan, RollbackRequest, Status,
    SwitchoverRequest,
};
use appstate::AppState;
use axum::Json;
use axum::extract::{FromRequestParts, Path as UrlPath, Query, Request as HttpRequest, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use store::Store;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The whole status is sent at most this often to each who watches: ten times a second looks alive.
const STATUS_EVERY: Duration = Duration::from_millis(100);
/// Nothing new for this long: the status is sent all the same, so that its age stays small.
const STATUS_AT_LEAST: Duration = Duration::from_secs(2);
/// A switchover that is not possible is refused at once; one that fails later had begun.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);
/// A switchover that is not through by then is said to go on.
const SWITCHOVER_WAIT: Duration = Duration::from_secs(60);
/// A name is not longer.
const BY_MAX: usize = 100;
const EVENTS_MAX: usize = 10_000;
const LINES_MAX: usize = 100_000;

#[derive(OpenApi)]
#[openapi(info(
    title = "Understudy",
    description = "The API of an agent. Served over HTTP/1.1 on the Unix socket `run/api.sock` of a cluster's folder, and for reading also on a loopback address if the agent was started with `--api`."
))]
struct Document;

/// The way into the main loop.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) inputs: Inputs,
    pub(crate) changed: watch::Receiver<u64>,
    /// All that ran before this agent came up was looked at, and how near it is to an outage was reckoned.
    pub(crate) settled: watch::Receiver<bool>,
    pub(crate) news: watch::Receiver<u64>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) state: AppState,
    pub(crate) desk: Arc<Desk>,
    pub(crate) feed: Feed,
    pub(crate) measures: crate::measure::Measures,
    pub(crate) analyses: crate::analysis::Answers,
    /// What is wrong with this node's certificates; nothing on one machine.
    pub(crate) papers: crate::cluster::papers::Troubles,
    /// What it heard of others about how it stands; likewise.
    pub(crate) standing: crate::cluster::papers::Troubles,
}

/// Who asks, as the client says it.
pub(crate) struct By(String);

impl<S: Sync> FromRequestParts<S> for By {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let said = parts
            .headers
            .get(api::BY)
            .map(|by| String::from_utf8_lossy(by.as_bytes()));
        let said: String = said.unwrap_or_default().chars().take(BY_MAX).collect();
        Ok(Self(match said.trim() {
            "" => "somebody".into(),
            said => said.into(),
        }))
    }
}

pub(crate) type Answer<T> = Result<Json<T>, Refused>;

/// A "no", with its status code.
pub(crate) struct Refused(pub(crate) StatusCode, pub(crate) Outcome);

impl From<Outcome> for Refused {
    fn from(outcome: Outcome) -> Self {
        Refused(StatusCode::CONFLICT, outcome)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

/// Whoever asks how everything stands the moment an agent came up waits for what it is about to find out, so long at most: most checks
/// answer in a few milliseconds, and a page that does not come looks like an agent that is gone.
const SETTLES_WITHIN: Duration = Duration::from_millis(1_500);

impl Door {
    /// Comes back when what is told was looked at since this agent came up, or cannot be waited for.
    pub(crate) async fn settle(&self) {
        let mut settled = self.settled.clone();
        let _ = tokio::time::timeout(SETTLES_WITHIN, settled.wait_for(|settled| *settled)).await;
    }

    pub(crate) async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Refused> {
        let (answer, waiting) = oneshot::channel();
        let ending = || {
            Refused(
                StatusCode::SERVICE_UNAVAILABLE,
                refused("the agent is ending", Some("try again in a moment".into())),
            )
        };
        self.inputs
            .send(Input::Request(request(answer)))
            .map_err(|_| ending())?;
        waiting.await.map_err(|_| ending())
    }

    /// Notes what was done for an operator, once it is.
    fn noted(&self, by: By, what: &'static str, about: String, outcome: Outcome) -> Answer<Outcome> {
        if outcome.done {
            self.note(by, what, about, outcome.text.clone());
        }
        Ok(Json(outcome))
    }

    fn note(&self, By(by): By, what: &'static str, about: String, text: String) {
        let _ = self
            .inputs
            .send(Input::Request(Request::Note { by, what, about, text }));
    }
}

/// The OpenAPI document of the API.
pub fn openapi() -> utoipa::openapi::OpenApi {
    router().1
}

fn router() -> (axum::Router<Door>, utoipa::openapi::OpenApi) {
    let (router, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(get_status))
        .routes(routes!(stream_status))
        .routes(routes!(get_analysis))
        .routes(routes!(get_open_psa))
        .routes(routes!(get_events))
        .routes(routes!(stream_events))
        .routes(routes!(get_explain))
        .routes(routes!(get_logs))
        .routes(routes!(stream_logs))
        .routes(routes!(crate::measure::http::get_series))
        .routes(routes!(crate::measure::http::get_samples))
        .routes(routes!(crate::measure::limits::get_bottleneck))
        .routes(routes!(crate::measure::limits::get_windows))
        .routes(routes!(measured::get_alerts))
        .routes(routes!(measured::post_silence))
        .routes(routes!(measured::post_silence_end))
        .routes(routes!(measured::get_metrics))
        .routes(routes!(measured::get_healthz))
        .routes(routes!(measured::get_readyz))
        .routes(routes!(post_plan))
        .routes(routes!(post_apply))
        .routes(routes!(get_history))
        .routes(routes!(post_rollback))
        .routes(routes!(post_switchover))
        .routes(routes!(post_drill))
        .routes(routes!(post_drain))
        .routes(routes!(post_undrain))
        .routes(routes!(post_rebalance))
        .routes(routes!(post_park))
        .routes(routes!(post_unpark))
        .routes(routes!(post_force))
        .routes(routes!(post_fence))
        .routes(routes!(get_deeds))
        .routes(routes!(post_deed))
        .routes(routes!(post_pause))
        .routes(routes!(post_resume))
        .routes(routes!(post_retry))
        .routes(routes!(post_down))
        .merge(crate::dashboard::openapi_routes())
        .split_for_parts();
    document.merge(appstate::openapi());
    (router, document)
}

/// Begins to answer. Over TCP only reading is answered, and only to those who address this machine's loopback by name.
pub(crate) fn listen(room: Room, tcp: Option<SocketAddr>, door: Door) -> Result<(), StartError> {
    let Some(address) = tcp else { return Ok(()) };
    let failed = |source| StartError::Listen {
        at: address.to_string(),
        source,
    };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = Bounded::new(TcpListener::from_std(listener).map_err(failed)?, room);
    let app = app(door).layer(middleware::from_fn(reading_from_here));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "the API ended");
        }
    });
    Ok(())
}

/// Begins to answer the owner at a Unix socket. What lies there is replaced. Ending the task stops accepting.
pub(crate) fn serve(socket: &Path, app: axum::Router) -> std::io::Result<JoinHandle<()>> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    // Whoever may connect may stop everything: the owner alone.
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "the API ended");
        }
    }))
}

/// All that is answered.
pub(crate) fn app(door: Door) -> axum::Router {
    let (router, document) = router();
    let document = Arc::new(document);
    let state = door.state.clone();
    let known = [Arc::clone(&door.papers), Arc::clone(&door.standing)];
    router
        .route(
            "/v1/openapi.json",
            axum::routing::get(move || {
                let document = Arc::clone(&document);
                async move { Json((*document).clone()) }
            }),
        )
        .merge(crate::dashboard::routes())
        .route("/v1/counts", axum::routing::get(measured::get_counts))
        .fallback(|| async {
            Refused(
                StatusCode::NOT_FOUND,
                refused(
                    "there is nothing here",
                    Some("GET /v1/openapi.json lists what there is".into()),
                ),
            )
        })
        .with_state(door)
        .layer(middleware::from_fn_with_state(known, commands_of_a_node))
        .merge(appstate::routes(state.clone()))
        .merge(appstate::admin_routes(state))
}

/// A node that was removed commands nothing, though what it has open to the store may do so for some seconds. It can be ended.
async fn commands_of_a_node(
    State(known): State<[crate::cluster::papers::Troubles; 2]>,
    request: HttpRequest,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let commands = request.method() != Method::GET && path.starts_with("/v1/") && path != "/v1/down";
    let removed = commands.then(|| {
        known.iter().find_map(|problems| {
            let problems = problems.lock().unwrap_or_else(PoisonError::into_inner);
            problems.iter().find(|problem| problem.code == "removed").cloned()
        })
    });
    match removed.flatten() {
        Some(problem) => Refused(StatusCode::FORBIDDEN, refused(problem.text, Some(problem.hint))).into_response(),
        None => next.run(request).await,
    }
}

/// Files have secrets of services in their environment, and what services say may be confidential: for the owner of the socket.
const CONFIDENTIAL: [&str; 2] = ["/v1/history", "/v1/logs/"];

/// A browser that was lured to a name that resolves to this machine still says that name: it gets nothing.
async fn reading_from_here(request: HttpRequest, next: Next) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or("");
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if !matches!(name, "127.0.0.1" | "localhost" | "[::1]") {
        let outcome = refused(
            format!("this API answers to 127.0.0.1 and localhost, not to `{name}`"),
            None,
        );
        return Refused(StatusCode::FORBIDDEN, outcome).into_response();
    }
    if CONFIDENTIAL.iter().any(|path| request.uri().path().starts_with(path)) {
        let hint = "use the command line, which asks over the Unix socket of this machine".to_owned();
        let outcome = refused(
            "over TCP nobody proves who he is, so files and the output of services are not told",
            Some(hint),
        );
        return Refused(StatusCode::FORBIDDEN, outcome).into_response();
    }
    if request.method() != Method::GET {
        let hint = "use the command line, which asks over the Unix socket of this machine".to_owned();
        let outcome = refused("over TCP the API only answers questions", Some(hint));
        return Refused(StatusCode::FORBIDDEN, outcome).into_response();
    }
    next.run(request).await
}

/// How everything stands.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status)))]
async fn get_status(State(door): State<Door>) -> Answer<Status> {
    door.settle().await;
    Ok(Json(door.ask(Request::Status).await?))
}

/// How everything stands, at each change: server-sent events, each a `Status`.
#[utoipa::path(get, path = "/v1/status/stream", responses((status = 200, body = Status, content_type = "text/event-stream")))]
async fn stream_status(State(door): State<Door>) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let changed = door.changed.clone();
    let stream = unfold((door, changed, true), |(door, mut changed, first)| async move {
        if !first {
            tokio::time::sleep(STATUS_EVERY).await;
            // Either way the status is sent: new, or known to be still true.
            let _ = tokio::time::timeout(STATUS_AT_LEAST, changed.changed()).await;
        }
        changed.mark_unchanged();
        door.settle().await;
        let status = door.ask(Request::Status).await.ok()?;
        Some((Ok(data(&status)), (door, changed, false)))
    });
    Sse::new(stream)
}

#[derive(Deserialize)]
struct AnalysisQuery {
    order: Option<u32>,
}

/// What takes which service down: single points of failure, cut sets, distance to outage, predicted availability, and what would help.
#[utoipa::path(
    get,
    path = "/v1/analysis",
    params(("order" = Option<u32>, Query, description = "Cut sets of at most so many things are listed, 1 to 6; 3 if not given")),
    responses((status = 200, body = api::analysis::Report))
)]
async fn get_analysis(State(door): State<Door>, Query(query): Query<AnalysisQuery>) -> Answer<api::analysis::Report> {
    let order = query.order.unwrap_or(3).clamp(1, 6);
    // Who comes while one is made waits for it, and has it too.
    let mut answers = door.analyses.lock().await;
    if let Some(report) = crate::analysis::fresh(&answers, order) {
        return Ok(Json(report));
    }
    let seen = door.ask(Request::Seen).await?;
    let made = tokio::task::spawn_blocking(move || seen.report(order)).await;
    let report = made.map_err(|error| refused(chain(&error), None))?;
    answers.insert(order, (tokio::time::Instant::now(), report.clone()));
    Ok(Json(report))
}

/// The fault trees of the services in the Open-PSA format, for other tools.
#[utoipa::path(get, path = "/v1/analysis/open-psa", responses((status = 200, body = String, content_type = "application/xml")))]
async fn get_open_psa(State(door): State<Door>) -> Result<Response, Refused> {
    let seen = door.ask(Request::Seen).await?;
    let made = tokio::task::spawn_blocking(move || seen.open_psa()).await;
    let text = made.map_err(|error| refused(chain(&error), None))?;
    Ok(([(header::CONTENT_TYPE, "application/xml")], text).into_response())
}

#[derive(Deserialize)]
struct EventsQuery {
    after: Option<u64>,
    limit: Option<usize>,
    service: Option<String>,
}

/// Events after a given one, oldest first.
#[utoipa::path(
    get,
    path = "/v1/events",
    params(
        ("after" = Option<u64>, Query, description = "Only events with a higher number"),
        ("limit" = Option<usize>, Query, description = "At most this many, 1 to 10000"),
        ("service" = Option<String>, Query, description = "Only events of this service"),
    ),
    responses((status = 200, body = EventPage))
)]
async fn get_events(State(door): State<Door>, Query(query): Query<EventsQuery>) -> Answer<EventPage> {
    let limit = query.limit.unwrap_or(EVENTS_MAX).min(EVENTS_MAX);
    let after = query.after.unwrap_or(0);
    let page = door
        .ask(|answer| Request::Events {
            after,
            limit,
            service: query.service,
            answer,
        })
        .await?;
    Ok(Json(page))
}

/// Events after a given one and all that follow: server-sent events, each an `Event`.
#[utoipa::path(
    get,
    path = "/v1/events/stream",
    params(
        ("after" = Option<u64>, Query, description = "Only events with a higher number"),
        ("service" = Option<String>, Query, description = "Only events of this service"),
    ),
    responses((status = 200, body = api::Event, content_type = "text/event-stream"))
)]
async fn stream_events(
    State(door): State<Door>,
    Query(query): Query<EventsQuery>,
) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    struct Place {
        door: Door,
        news: watch::Receiver<u64>,
        after: u64,
        service: Option<String>,
        waiting: std::collections::VecDeque<api::Event>,
    }
    let place = Place {
        news: door.news.clone(),
        door,
        after: query.after.unwrap_or(0),
        service: query.service,
        waiting: std::collections::VecDeque::new(),
    };
    let stream = unfold(place, |mut place| async move {
        loop {
            if let Some(event) = place.waiting.pop_front() {
                return Some((Ok(data(&event)), place));
            }
            place.news.mark_unchanged();
            let (after, service) = (place.after, place.service.clone());
            let page = place
                .door
                .ask(|answer| Request::Events {
                    after,
                    limit: EVENTS_MAX,
                    service,
                    answer,
                })
                .await
                .ok()?;
            place.after = page.events.last().map_or(place.after, |event| event.seq);
            place.waiting.extend(page.events);
            if place.waiting.is_empty() {
                place.news.changed().await.ok()?;
            }
        }
    });
    Sse::new(stream).keep_alive(KeepAlive::default())
}

/// Why a service, instance or node is as it is, by its name or an address of it; or how the cluster stands.
#[utoipa::path(
    get,
    path = "/v1/explain/{name}",
    params(
        ("name" = String, Path, description = "A service, a slot, an instance, a node, an address of one of them, or the cluster"),
        ("if_dies" = Option<String>, Query, description = "A node: what if that one dies now"),
    ),
    responses((status = 200, body = Explanation), (status = 404, body = Outcome))
)]
async fn get_explain(
    State(door): State<Door>,
    UrlPath(name): UrlPath<String>,
    Query(query): Query<ExplainQuery>,
) -> Answer<Explanation> {
    let if_dies = query.if_dies;
    let ask = |answer| Request::Explain { name, if_dies, answer };
    let mut explanation = door.ask(ask).await?.map_err(not_found)?;
    // What was measured is with all nodes, and is asked for here: the main loop waits for nobody.
    if let Some(slow) = explanation
        .answers
        .iter_mut()
        .find(|answer| answer.question == "why slow")
    {
        let samples = crate::measure::http::samples_of(&door.measures, &explanation.about).await;
        let mut lines = crate::measure::limits::why_slow(&door.measures, &explanation.about).await;
        lines.extend(crate::measure::slow::lines(&explanation.about, &samples));
        slow.lines.splice(0..0, lines);
    }
    if let Some(last) = crate::last_words::of(&door, &explanation.about).await {
        explanation.facts.push(last);
    }
    Ok(Json(explanation))
}

#[derive(Deserialize)]
struct ExplainQuery {
    if_dies: Option<String>,
}

#[derive(Deserialize)]
struct LogsQuery {
    lines: Option<usize>,
}

/// The last lines of an instance's output.
#[utoipa::path(
    get,
    path = "/v1/logs/{instance}",
    params(
        ("instance" = String, Path, description = "An instance: `db-1`"),
        ("lines" = Option<usize>, Query, description = "How many at most, 1 to 100000; 100 if not given"),
    ),
    responses((status = 200, body = Vec<LogLine>), (status = 404, body = Outcome))
)]
async fn get_logs(
    State(door): State<Door>,
    UrlPath(instance): UrlPath<String>,
    Query(query): Query<LogsQuery>,
) -> Answer<Vec<LogLine>> {
    let source = log_source(&door, &instance).await?;
    let lines = query.lines.unwrap_or(100).min(LINES_MAX);
    let read = tokio::task::spawn_blocking(move || drivers::logs::tail(&source.path, source.keep, lines)).await;
    let lines = read
        .map_err(std::io::Error::other)
        .and_then(|lines| lines)
        .map_err(|error| refused_by(&error, None))?;
    Ok(Json(
        lines
            .into_iter()
            .map(|line| LogLine {
                instance: instance.clone(),
                line,
            })
            .collect(),
    ))
}

/// An instance's output from now on, after its last lines: server-sent events, each a `LogLine`.
#[utoipa::path(
    get,
    path = "/v1/logs/{instance}/stream",
    params(
        ("instance" = String, Path, description = "An instance: `db-1`"),
        ("lines" = Option<usize>, Query, description = "How many earlier lines at most; 10 if not given"),
    ),
    responses((status = 200, body = LogLine, content_type = "text/event-stream"), (status = 404, body = Outcome))
)]
async fn stream_logs(
    State(door): State<Door>,
    UrlPath(instance): UrlPath<String>,
    Query(query): Query<LogsQuery>,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Refused> {
    let source = log_source(&door, &instance).await?;
    let lines = query.lines.unwrap_or(10).min(LINES_MAX);
    let follower =
        drivers::logs::Follower::new(&source.path, source.keep, lines).map_err(|error| refused_by(&error, None))?;
    let stream = unfold((follower, instance), |(mut follower, instance)| async move {
        let line = follower.next().await.ok()?;
        let line = LogLine {
            instance: instance.clone(),
            line,
        };
        Some((Ok(data(&line)), (follower, instance)))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

pub(crate) async fn log_source(door: &Door, instance: &str) -> Result<LogSource, Refused> {
    let instance = instance.to_owned();
    door.ask(|answer| Request::LogFile { instance, answer })
        .await?
        .map_err(not_found)
}

/// What a file would change. Changes nothing.
#[utoipa::path(post, path = "/v1/plan", request_body = ApplyRequest, responses((status = 200, body = Plan), (status = 409, body = Outcome)))]
async fn post_plan(State(door): State<Door>, Json(request): Json<ApplyRequest>) -> Answer<Plan> {
    let text = request.text.clone();
    let path = request.path.clone();
    let mut plan = door.ask(|answer| Request::Plan { request, answer }).await??;
    let seen = door.ask(Request::Seen).await?;
    let risks = tokio::task::spawn_blocking(move || match spec::parse(&text, &path) {
        Ok(parsed) => seen.risks(&parsed.cluster),
        // It was understood a moment ago.
        Err(_) => Vec::new(),
    });
    plan.warnings.extend(risks.await.unwrap_or_default());
    Ok(Json(plan))
}

/// Puts a file in force. Answered when it is on disk; the changes follow, see the status.
#[utoipa::path(post, path = "/v1/apply", request_body = ApplyRequest, responses((status = 200, body = Outcome), (status = 409, body = Outcome)))]
async fn post_apply(State(door): State<Door>, Json(request): Json<ApplyRequest>) -> Answer<Outcome> {
    let how = if request.first { "up" } else { "apply" }.to_owned();
    Ok(Json(door.ask(|answer| Request::Apply { request, how, answer }).await??))
}

/// The applied files, newest first.
#[utoipa::path(get, path = "/v1/history", responses((status = 200, body = Vec<HistoryEntry>)))]
async fn get_history(State(door): State<Door>) -> Answer<Vec<HistoryEntry>> {
    let applied = history(&door).await?;
    let worked = worked(&door).await?;
    let back = revisions::way_back(&applied, &worked).map(|applied| applied.revision);
    let listed = door.store.list(record::GIVEN_UP).await;
    let (listed, _) = listed.map_err(|error| refused_by(&error, error.hint().map(Into::into)))?;
    let given_up = crate::given_up::Versions::read(listed);
    let mut entries = Vec::with_capacity(applied.len());
    let empty = model::Cluster {
        name: String::new(),
        services: BTreeMap::new(),
        alerts: model::Alerts::default(),
        site: model::Site::default(),
    };
    let mut before = &empty;
    for applied in &applied {
        let changes = spec::diff(before, &applied.cluster).into_iter().flat_map(|diff| {
            let name = diff.service;
            diff.lines.into_iter().map(move |line| format!("{name}: {line}"))
        });
        entries.push(HistoryEntry {
            revision: applied.revision,
            at: clock::shown_wall(applied.at),
            by: applied.by.clone(),
            how: applied.how.clone(),
            changes: changes.collect(),
            text: applied.text.clone(),
            worked: worked.get(&applied.revision).map(|at| clock::shown_wall(*at)),
            never_worked: applied.judged && !worked.contains_key(&applied.revision),
            back: back == Some(applied.revision),
            given_up: given_up.shown(applied.revision),
        });
        before = &applied.cluster;
    }
    entries.reverse();
    Ok(Json(entries))
}

async fn history(door: &Door) -> Result<Vec<Applied>, Refused> {
    let (entries, _) = door
        .store
        .list(record::HISTORY)
        .await
        .map_err(|error| refused_by(&error, error.hint().map(Into::into)))?;
    let parse = |entry: &store::Entry| serde_json::from_slice(&entry.value);
    entries
        .iter()
        .map(parse)
        .collect::<Result<_, _>>()
        .map_err(|error| refused(chain(&error), None).into())
}

async fn worked(door: &Door) -> Result<revisions::WorkedAt, Refused> {
    let read = revisions::read_worked(door.store.as_ref()).await;
    Ok(read.map_err(|error| refused_by(&error, error.hint().map(Into::into)))?)
}

/// Puts an earlier file in force again: the last that worked and says something else than the one in force, unless told which.
#[utoipa::path(post, path = "/v1/rollback", request_body = RollbackRequest, responses((status = 200, body = Outcome), (status = 409, body = Outcome)))]
async fn post_rollback(State(door): State<Door>, Json(request): Json<RollbackRequest>) -> Answer<Outcome> {
    let applied = history(&door).await?;
    let newest = applied.last().map_or(0, |applied| applied.revision);
    let to = match request.to {
        Some(to) => to,
        None => match revisions::way_back(&applied, &worked(&door).await?) {
            Some(back) => back.revision,
            None => {
                let (text, hint) = revisions::no_way_back(&applied);
                return Err(refused(text, hint).into());
            }
        },
    };
    let Some(earlier) = applied.iter().find(|applied| applied.revision == to) else {
        return Err(refused(
            format!("there is no revision {to}"),
            Some("`understudy history` lists them".into()),
        )
        .into());
    };
    if to == newest {
        return Err(refused(format!("revision {to} is in force already"), None).into());
    }
    Ok(Json(
        door.ask(|answer| apply::rollback(earlier, request.by, Some(newest), answer))
            .await??,
    ))
}

/// Moves a slot to a standby, without a gap. Answered when the standby serves.
#[utoipa::path(post, path = "/v1/switchover", request_body = SwitchoverRequest, responses((status = 200, body = Outcome), (status = 409, body = Outcome)))]
async fn post_switchover(State(door): State<Door>, by: By, Json(request): Json<SwitchoverRequest>) -> Answer<Outcome> {
    let service = request.service.clone();
    let began = Instant::now();
    let asked = door.ask(|answer| Request::Switchover { request, answer });
    let Ok(answer) = tokio::time::timeout(SWITCHOVER_WAIT, asked).await else {
        let text = format!(
            "the switchover of {service} has not ended after {} s and goes on",
            SWITCHOVER_WAIT.as_secs()
        );
        door.note(by, "switchover", service.clone(), text.clone());
        return Err(refused(
            text,
            Some(format!("`understudy explain {service}` says what it waits for")),
        )
        .into());
    };
    let outcome = answer?;
    if !outcome.done {
        if began.elapsed() > REFUSED_WITHIN {
            door.note(
                by,
                "switchover",
                service,
                format!("not brought to an end: {}", outcome.text),
            );
        }
        return Err(outcome.into());
    }
    door.noted(by, "switchover", service, outcome)
}

/// What became of a switchover, for the operator; `way_on` is what must be done first where it was refused, if that is known.
pub(crate) fn switchover_outcome(
    service: &str,
    way_on: Option<String>,
    result: Result<decisions::Takeover, String>,
) -> Outcome {
    let takeover = match result {
        Ok(takeover) => takeover,
        Err(problem) => {
            let hint = way_on.unwrap_or_else(|| format!("`understudy explain {service}` says more"));
            return refused(problem, Some(hint));
        }
    };
    let failover = timeline(&takeover);
    let from = takeover.from.map_or_else(String::new, |from| format!("from {from} "));
    let text = format!(
        "slot {} went {from}to {} at epoch {}",
        takeover.slot, takeover.to, takeover.epoch
    );
    Outcome {
        failover: Some(failover),
        ..done(text)
    }
}

/// Breaks something for real.
#[utoipa::path(post, path = "/v1/drill", request_body = DrillRequest, responses((status = 200, body = Outcome), (status = 409, body = Outcome)))]
async fn post_drill(State(door): State<Door>, by: By, Json(request): Json<DrillRequest>) -> Answer<Outcome> {
    let about = request.name.clone();
    let outcome = door.ask(|answer| Request::Drill { request, answer }).await??;
    door.noted(by, "drill", about, outcome)
}

/// Moves everything off a node.
#[utoipa::path(post, path = "/v1/drain/{node}", params(("node" = String, Path, description = "A node")), responses((status = 200, body = Outcome), (status = 409, body = Outcome)))]
async fn post_drain(State(door): State<Door>, by: By, UrlPath(node): UrlPath<String>) -> Answer<Outcome> {
    let (about, back) = (node.clone(), false);
    let outcome = door.ask(|answer| Request::Drain { node, back, answer }).await??;
    door.noted(by, "drain", about, outcome)
}

/// Moves the instances of a service to where they would be put today.
#[utoipa::path(post, path = "/v1/rebalance/{service}", params(("service" = String, Path, description = "A service")), responses((status = 200, body = Outcome), (status = 409, body = Outcome)))]
async fn post_rebalance(State(door): State<Door>, by: By, UrlPath(service): UrlPath<String>) -> Answer<Outcome> {
    let about = service.clone();
    let outcome = door.ask(|answer| Request::Rebalance { service, answer }).await??;
    door.noted(by, "rebalance", about, outcome)
}

/// Keeps a slot without a holder until it is unparked. Answered when that is written.
#[utoipa::path(post, path = "/v1/park", request_body = api::ParkRequest, responses((status = 200, body = Outcome), (status = 409, body = Outcome)))]
async fn post_park(State(door): State<Door>, Json(request): Json<api::ParkRequest>) -> Answer<Outcome> {
    let parks = true;
    Ok(Json(
        door.ask(|answer| Request::Park { request, parks, answer }).await??,
    ))
}

/// Lets a parked slot be held again.
#[utoipa::path(post, path = "/v1/unpark", request_body = api::ParkRequest, responses((status = 200, body = Outcome), (status = 409, body = Outcome)))]
async fn post_unpark(State(door): State<Door>, Json(request): Json<api::ParkRequest>) -> Answer<Outcome> {
    let parks = false;
    Ok(Json(
        door.ask(|answer| Request::Park { request, parks, answer }).await??,
    ))
}

/// Takes a slot from a node that is off, at the operator's word, before its session has run out.
#[utoipa::path(post, path = "/v1/force", request_body = api::ForceRequest, responses((status = 200, body = Outcome), (status = 409, body = Outcome)))]
async fn post_force(State(door): State<Door>, Json(request): Json<api::ForceRequest>) -> Answer<Outcome> {
    Ok(Json(door.ask(|answer| Request::Force { request, answer }).await??))
}

/// Takes the power of a node away by its devices, or only asks them. Answered when all of them say that it is off.
#[utoipa::path(post, path = "/v1/fence", request_body = api::FenceRequest, responses((status = 200, body = Outcome), (status = 409, body = Outcome)))]
async fn post_fence(State(door): State<Door>, Json(request): Json<api::FenceRequest>) -> Answer<Outcome> {
    Ok(Json(door.ask(|answer| Request::Fence { request, answer }).await??))
}

/// What operators did by hand, oldest first.
#[utoipa::path(get, path = "/v1/deeds", responses((status = 200, body = Vec<api::Deed>)))]
async fn get_deeds(State(door): State<Door>) -> Answer<Vec<api::Deed>> {
    let listed = door.store.list(api::record::DEEDS).await;
    let (entries, _) = listed.map_err(|error| crate::agent::refused_by(&error, None))?;
    let read = |entry: &store::Entry| serde_json::from_slice::<api::record::Deed>(&entry.value).ok();
    let deeds = entries.iter().filter_map(read).map(|deed| api::Deed {
        at: clock::shown_wall(deed.at),
        by: deed.by,
        through: deed.through,
        what: deed.what,
        about: deed.about,
        text: deed.text,
    });
    Ok(Json(deeds.collect()))
}

/// What is done to a cluster by `understudy cluster`, which goes to the store itself.
const DONE_TO_CLUSTERS: [&str; 3] = ["remove", "recover", "restore"];

/// Keeps that somebody did something to the cluster that no agent carries out: `remove`, `recover` or `restore`. Answered when it is written.
#[utoipa::path(post, path = "/v1/deeds", request_body = api::DeedRequest, responses((status = 200, body = Outcome), (status = 409, body = Outcome)))]
async fn post_deed(State(door): State<Door>, By(by): By, Json(deed): Json<api::DeedRequest>) -> Answer<Outcome> {
    if !DONE_TO_CLUSTERS.contains(&deed.what.as_str()) {
        let text = format!("`{}` is not kept like this", deed.what);
        let hint = format!("it is one of {}", DONE_TO_CLUSTERS.join(", "));
        return Err(refused(text, Some(hint)).into());
    }
    Ok(Json(door.ask(|answer| Request::KeepDeed { by, deed, answer }).await??))
}

/// Lets a node run instances again.
#[utoipa::path(post, path = "/v1/undrain/{node}", params(("node" = String, Path, description = "A node")), responses((status = 200, body = Outcome), (status = 409, body = Outcome)))]
async fn post_undrain(State(door): State<Door>, by: By, UrlPath(node): UrlPath<String>) -> Answer<Outcome> {
    let (about, back) = (node.clone(), true);
    let outcome = door.ask(|answer| Request::Drain { node, back, answer }).await??;
    door.noted(by, "undrain", about, outcome)
}

/// Stops all automatic actions: nothing is failed over, restarted or rolled until `resume`. Answered when that is written.
#[utoipa::path(post, path = "/v1/pause", request_body = api::PauseRequest, responses((status = 200, body = Outcome), (status = 409, body = Outcome)))]
async fn post_pause(State(door): State<Door>, request: Option<Json<Option<api::PauseRequest>>>) -> Answer<Outcome> {
    pause(&door, request, true).await
}

/// Ends a pause.
#[utoipa::path(post, path = "/v1/resume", request_body = api::PauseRequest, responses((status = 200, body = Outcome), (status = 409, body = Outcome)))]
async fn post_resume(State(door): State<Door>, request: Option<Json<Option<api::PauseRequest>>>) -> Answer<Outcome> {
    pause(&door, request, false).await
}

/// Clients of before say neither who asks nor why, and send nothing, or `null`.
async fn pause(door: &Door, request: Option<Json<Option<api::PauseRequest>>>, pauses: bool) -> Answer<Outcome> {
    let unsaid = || api::PauseRequest {
        by: "somebody".into(),
        why: String::new(),
    };
    let request = request.and_then(|Json(request)| request).unwrap_or_else(unsaid);
    let asked = |answer| Request::Pause {
        request,
        pauses,
        answer,
    };
    Ok(Json(door.ask(asked).await??))
}

/// Tries an instance again at once that waits or was given up.
#[utoipa::path(post, path = "/v1/retry/{instance}", params(("instance" = String, Path, description = "An instance: `db-1`")), responses((status = 200, body = Outcome), (status = 409, body = Outcome)))]
async fn post_retry(State(door): State<Door>, by: By, UrlPath(instance): UrlPath<String>) -> Answer<Outcome> {
    let about = instance.clone();
    let outcome = door.ask(|answer| Request::Retry { instance, answer }).await??;
    door.noted(by, "retry", about, outcome)
}

/// Stops everything, in reverse start order, the agent last. Answered when nothing runs any more.
#[utoipa::path(post, path = "/v1/down", responses((status = 200, body = Outcome)))]
async fn post_down(State(door): State<Door>, By(by): By) -> Answer<Outcome> {
    Ok(Json(door.ask(|answer| Request::Down { by, answer }).await?))
}

pub(crate) fn not_found(outcome: Outcome) -> Refused {
    Refused(StatusCode::NOT_FOUND, outcome)
}

fn data(value: &impl Serialize) -> sse::Event {
    // Our own types always serialise; an empty event is skipped by every client.
    sse::Event::default().json_data(value).unwrap_or_default()
}

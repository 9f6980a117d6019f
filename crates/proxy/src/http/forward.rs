//! One request by hyper: an active is found, the request sent, and repeated on another if that is safe and needed.

use super::backend::{Channel, Failure, open};
use super::body::{self, Body, Download, Read, Whole, read, read_upload};
use super::headers::{Template, strip_hop_by_hop, upgrade_of};
use super::{REPEATABLE_BYTES_MAX, not_repeated, unavailable_text};
use crate::counters::Stay;
use crate::front::{Front, Open};
use crate::hold::Search;
use crate::target::InFlight;
use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, UPGRADE};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

/// How often a connection that had been idle may turn out to be closed before that counts as a failure.
const STALE_MAX: u32 = 2;

/// The client of a connection.
pub(super) struct Client {
    pub(super) front: Rc<Front>,
    pub(super) peer: String,
    /// Makes the close of its connection a reset.
    pub(super) reset: Arc<AtomicBool>,
    /// Counts it, as long as anything of it lives.
    pub(super) open: Open,
}

/// Answers a request. It never hangs for want of an active: see [`crate::hold`] for the bounds.
pub(super) async fn forward(client: &Rc<Client>, mut request: Request<Incoming>) -> Response<Body> {
    let arrived = Instant::now();
    let stay = client.front.stay(client.open.caller(), arrived);
    if request.method() == Method::CONNECT {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not for a service\n".into());
        response.headers_mut().insert(
            ALLOW,
            HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH"),
        );
        return response;
    }
    let wants_http2 = request.version() == Version::HTTP_2;
    let upgrade = upgrade_of(request.headers()).map(|_| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let template = match Template::new(parts, &client.peer) {
        Ok(template) => template,
        Err(problem) => return plain(StatusCode::BAD_REQUEST, problem.into()),
    };
    let broke = Rc::new(Cell::new(false));
    let upload_of = |first, rest| {
        Body::Upload(body::Upload {
            first,
            rest,
            broke: Rc::clone(&broke),
            counters: Arc::clone(&client.front.counters),
        })
    };
    let upload = if body.is_end_stream() {
        Upload::Whole(Whole::default())
    } else if template.is_idempotent() {
        match read_upload(body).await {
            Read::Whole(whole) => {
                client.front.counters.bytes_in.add(whole.length());
                Upload::Whole(whole)
            }
            Read::More(first, rest) => Upload::Once(Some(upload_of(first, rest))),
            Read::Failed(error) => {
                return plain(
                    StatusCode::REQUEST_TIMEOUT,
                    format!("the request was not read: {error}\n"),
                );
            }
        }
    } else {
        Upload::Once(Some(upload_of([].into(), body)))
    };
    let mut response = Forward {
        client,
        search: Search::new(Rc::clone(&client.front)),
        is_repeatable: template.is_idempotent() && matches!(upload, Upload::Whole(_)),
        template,
        upload,
        upload_broke: Rc::clone(&broke),
        upgrade,
        wants_http2,
        arrived,
        stay: Some(stay),
    }
    .run()
    .await;
    if !wants_http2 && response.status() != StatusCode::SWITCHING_PROTOCOLS && client.front.sends_away() {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

struct Forward<'a> {
    client: &'a Rc<Client>,
    search: Search,
    template: Template,
    upload: Upload,
    upload_broke: Rc<Cell<bool>>,
    upgrade: Option<OnUpgrade>,
    wants_http2: bool,
    is_repeatable: bool,
    arrived: Instant,
    /// Until the answer is passed on.
    stay: Option<Stay>,
}

/// The body of a request.
enum Upload {
    /// For any number of times.
    Whole(Whole),
    /// For one time; `None` once it was used.
    Once(Option<Body>),
}

/// How one try ended.
enum Try {
    Answered(Box<Response<Body>>),
    /// Nothing was sent.
    Unsent(InFlight, String),
    /// A connection that had been idle was closed by the other side meanwhile: no sign of a failure.
    Stale(InFlight, String),
    Died(InFlight, String),
    ClientGone,
}

impl Forward<'_> {
    async fn run(mut self) -> Response<Body> {
        let counters = Rc::clone(&self.client.front);
        let counters = &counters.counters;
        let (mut is_counted, mut stale) = (false, 0);
        loop {
            let in_flight = match self.search.next().await {
                Ok(in_flight) => in_flight,
                Err(refused) => {
                    counters.failed.add(1);
                    return self.unavailable(&refused);
                }
            };
            if !is_counted {
                is_counted = true;
                counters.requests.add(1);
            }
            match self.attempt(in_flight).await {
                Try::Answered(response) => return *response,
                Try::Unsent(tried, what) => self.search.unreachable(tried, &what),
                Try::Stale(tried, _) if stale < STALE_MAX => {
                    stale += 1;
                    counters.retried.add(1);
                    // The next connection is a new one, and shows whether the target lives.
                    tried.target.forget_idle();
                }
                Try::Stale(tried, what) => self.search.died(tried, &what),
                Try::Died(tried, what) if self.is_repeatable => self.search.died(tried, &what),
                Try::Died(tried, what) => {
                    counters.failed.add(1);
                    let why = not_repeated(&tried.target.instance, &what);
                    if !tried.target.is_leaving() {
                        tried.target.suspect(&what);
                    }
                    return self.unavailable(&why);
                }
                Try::ClientGone => {
                    return plain(StatusCode::BAD_REQUEST, "the request body broke off\n".into());
                }
            }
        }
    }

    async fn attempt(&mut self, mut in_flight: InFlight) -> Try {
        let opened = match open(&in_flight.target, self.wants_http2, self.is_repeatable).await {
            Ok(opened) => opened,
            Err(error) if error.is_out_of_files() => return Try::Answered(Box::new(self.unavailable(&error))),
            Err(error) => return Try::Unsent(in_flight, error.to_string()),
        };
        let mut channel = opened.channel;
        let body = match &mut self.upload {
            Upload::Whole(whole) => Body::Whole(whole.clone()),
            Upload::Once(body) => match body.take() {
                Some(body) => body,
                None => return Try::Died(in_flight, "the body was sent already".into()),
            },
        };
        let request = self.template.request(channel.is_http2(), body);
        let response = match channel.send(&mut in_flight, request).await {
            Ok(response) => response,
            Err(Failure::Unsent(request, what)) => {
                if let Upload::Once(body) = &mut self.upload {
                    *body = Some(request.into_body());
                }
                return if opened.used {
                    Try::Stale(in_flight, what)
                } else {
                    Try::Unsent(in_flight, what)
                };
            }
            Err(Failure::Sent(what)) if opened.used && self.is_repeatable && !in_flight.target.is_leaving() => {
                return Try::Stale(in_flight, what);
            }
            Err(Failure::Sent(_)) if self.upload_broke.get() => return Try::ClientGone,
            Err(Failure::Sent(what)) => return Try::Died(in_flight, what),
        };
        self.answer(in_flight, channel, response).await
    }

    async fn answer(&mut self, mut in_flight: InFlight, channel: Channel, response: Response<Incoming>) -> Try {
        let front = &self.client.front;
        let first = self.so_far();
        let (mut parts, incoming) = response.into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return self.tunnel(in_flight, Response::from_parts(parts, incoming));
        }
        strip_hop_by_hop(&mut parts.headers);
        parts.version = if self.wants_http2 {
            Version::HTTP_2
        } else {
            Version::HTTP_11
        };
        parts.extensions.clear();
        let is_small = incoming
            .size_hint()
            .upper()
            .is_some_and(|n| n <= REPEATABLE_BYTES_MAX as u64);
        let body = if self.is_repeatable && is_small {
            let whole = tokio::select! {
                biased;
                whole = read(incoming) => whole,
                () = in_flight.cut() => Read::Failed("the active was replaced".into()),
            };
            match whole {
                Read::Whole(whole) => {
                    front.counters.bytes_out.add(whole.length());
                    channel.give_back(&in_flight.target);
                    count_answer(front, &in_flight, parts.status, first, self.so_far());
                    Body::Whole(whole)
                }
                // A body cannot be longer than its upper bound.
                Read::More(..) => return Try::Died(in_flight, "the answer is longer than announced".into()),
                Read::Failed(error) => return Try::Died(in_flight, error.to_string()),
            }
        } else {
            count_answer(front, &in_flight, parts.status, first, first);
            Body::Download(Box::new(Download {
                incoming,
                in_flight: Some(in_flight),
                channel: Some(channel),
                stay: self.stay.take(),
                counters: Arc::clone(&front.counters),
                closed: front.watch_cut(),
                reset: Arc::clone(&self.client.reset),
            }))
        };
        Try::Answered(Box::new(Response::from_parts(parts, body)))
    }

    /// Passes bytes in both directions once both sides agreed on another protocol.
    fn tunnel(&mut self, mut in_flight: InFlight, mut response: Response<Incoming>) -> Try {
        let (Some(upgrade), Some(protocol)) = (self.upgrade.take(), self.template.upgrade()) else {
            return Try::Died(in_flight, "it changed the protocol unasked".into());
        };
        let protocol = response.headers().get(UPGRADE).unwrap_or(protocol).clone();
        let backend = hyper::upgrade::on(&mut response);
        let (mut parts, _) = response.into_parts();
        strip_hop_by_hop(&mut parts.headers);
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, protocol);
        parts.extensions.clear();
        in_flight.target.answered();
        let client = Rc::clone(self.client);
        let stay = self.stay.take();
        tokio::task::spawn_local(async move {
            let _stay = stay;
            let mut cut = client.front.watch_cut();
            let relay = async {
                let (Ok(from), Ok(to)) = tokio::join!(upgrade, backend) else {
                    return false;
                };
                let (mut from, mut to) = (TokioIo::new(from), TokioIo::new(to));
                let is_regular = tokio::io::copy_bidirectional(&mut from, &mut to).await.is_ok();
                if !is_regular {
                    // Has to be known before `from` is closed.
                    client.reset.store(true, Relaxed);
                }
                is_regular
            };
            tokio::pin!(relay);
            let is_cut = std::future::poll_fn(|cx| {
                if in_flight.poll_cut(cx).is_ready() || cut.poll(cx).is_ready() {
                    client.reset.store(true, Relaxed);
                    return std::task::Poll::Ready(());
                }
                relay.as_mut().poll(cx).map(drop)
            });
            is_cut.await;
        });
        Try::Answered(Box::new(Response::from_parts(parts, Body::Whole(Whole::default()))))
    }

    fn so_far(&self) -> u64 {
        u64::try_from(self.arrived.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn unavailable(&self, why: &dyn std::fmt::Display) -> Response<Body> {
        let text = unavailable_text(&self.client.front.service, why);
        let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, text);
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("1"));
        response
    }
}

fn count_answer(front: &Front, in_flight: &InFlight, status: StatusCode, first_us: u64, took_us: u64) {
    front.counters.latency_us.add(first_us);
    front.counters.latency.record(took_us);
    front.counters.answered(status.as_u16());
    if status.is_server_error() {
        front.counters.errors.add(1);
    } else {
        in_flight.target.answered();
    }
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::Whole(Whole::new(Bytes::from(text))));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

//! The check by gRPC: `grpc.health.v1.Health/Check` over HTTP/2 without TLS.

use super::attempt::{Attempt, Trouble};
use hyper::client::conn::http2;
use hyper::header::{HeaderValue, USER_AGENT};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::task::AbortHandle;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// The answer is one number.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

pub(super) async fn check(attempt: &Attempt, service: &str) -> Result<(), Trouble> {
    let stream = attempt.connect().await?;
    // HTTP/2 begins with several small writes, of which the second would wait for the answer to the first.
    let _ = stream.set_nodelay(true);
    let helpers = Helpers::default();
    let handshake = http2::Builder::new(helpers.clone())
        .handshake(TokioIo::new(stream))
        .await;
    let (sender, connection) = handshake.map_err(|error| no_answer(attempt, &error))?;
    let origin = hyper::Uri::builder()
        .scheme("http")
        .authority(attempt.target.to_string())
        .path_and_query("/");
    let origin = origin
        .build()
        .map_err(|error| Trouble::Instance(format!("cannot ask {}: {error}", attempt.target)))?;
    let mut client = HealthClient::with_origin(Connection(sender), origin).max_decoding_message_size(ANSWER_BYTES_MAX);
    let question = HealthCheckRequest {
        service: service.to_owned(),
    };
    let _stopped_at_the_end = StopHelpers(helpers.clone());
    helpers.execute(async {
        // Its error comes back with the answer.
        let _ = connection.await;
    });
    match client.check(question).await {
        Ok(answer) => judge(service, answer.get_ref().status),
        Err(status) => Err(refused(attempt, service, &status)),
    }
}

fn judge(service: &str, status: i32) -> Result<(), Trouble> {
    let says = match ServingStatus::try_from(status) {
        Ok(ServingStatus::Serving) => return Ok(()),
        Ok(other) => other.as_str_name().to_owned(),
        Err(_) => format!("the unknown status {status}"),
    };
    Err(Trouble::Instance(format!("{} answers {says}", named(service))))
}

fn refused(attempt: &Attempt, service: &str, status: &Status) -> Trouble {
    if let Some(error) = std::error::Error::source(status)
        && let Some(error) = super::attempt::causes(error).find_map(|cause| cause.downcast_ref::<hyper::Error>())
    {
        return no_answer(attempt, error);
    }
    Trouble::Instance(match status.code() {
        Code::NotFound => format!("{} is not known to the server", named(service)),
        Code::Unimplemented => "the server does not offer grpc.health.v1".into(),
        code => format!("the server answers {code:?}: {}", status.message()),
    })
}

fn no_answer(attempt: &Attempt, error: &hyper::Error) -> Trouble {
    if let Some(trouble) = attempt.broken(error) {
        return trouble;
    }
    let cause = super::attempt::causes(error)
        .last()
        .map_or_else(String::new, ToString::to_string);
    Trouble::Instance(
        if error.is_closed() || error.is_canceled() || error.is_incomplete_message() {
            format!("connection closed by {} before it answered", attempt.target)
        } else {
            format!("the answer is not HTTP/2: {cause}")
        },
    )
}

fn named(service: &str) -> String {
    if service.is_empty() {
        "the server".into()
    } else {
        format!("the service `{service}`")
    }
}

/// One HTTP/2 connection, as the generated client wants it.
#[derive(Debug)]
struct Connection(http2::SendRequest<Body>);

impl Service<hyper::Request<Body>> for Connection {
    type Response = hyper::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: hyper::Request<Body>) -> Self::Future {
        request
            .headers_mut()
            .insert(USER_AGENT, HeaderValue::from_static("understudy-check"));
        Box::pin(self.0.send_request(request))
    }
}

/// Runs what HTTP/2 needs run beside the question, and remembers it.
#[derive(Debug, Clone, Default)]
struct Helpers(Arc<Mutex<Vec<AbortHandle>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Helpers {
    fn execute(&self, helper: F) {
        let handle = tokio::spawn(helper).abort_handle();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
    }
}

/// Ends the helpers when the probe ends, also when it is dropped: a server that never answers would keep them, and the
/// socket, for ever.
#[derive(Debug)]
struct StopHelpers(Helpers);

impl Drop for StopHelpers {
    fn drop(&mut self) {
        for helper in self.0.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            helper.abort();
        }
    }
}

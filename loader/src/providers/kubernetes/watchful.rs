//! What is made of each answer before kube sees it? How the kinds fare is
//! noted, watches are kept apart, and what is no answer becomes an error.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Either, Limited};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Body as HttpBody, Bytes},
    header::RETRY_AFTER,
};
use kube::{client::Body, core::Status};
use tokio::time::timeout;
use tower::{BoxError, Layer, Service};

use super::{
    Timing,
    fare::{Cause, Fares},
    kinds::{Index, KINDS},
};

/// The outermost: an answer that is none becomes an error, whatever is in it.
/// kube takes the lines of any answer to a watch for events.
pub fn refused<B>(answer: Result<Response<B>, BoxError>) -> Result<Response<B>, BoxError> {
    let answer = answer?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let reason = status.canonical_reason().unwrap_or("unknown status");
    let status = Status::failure(said(&answer), reason).with_code(status.as_u16());
    Err(kube::Error::Api(status.boxed()).into())
}

/// Notes how each kind's requests fare, and keeps its watches apart: a server
/// or proxy that ends them at once must not be asked as fast as it can answer.
#[derive(Debug)]
struct Eye {
    fares: Arc<Fares>,
    timing: Timing,
    /// When each kind's next watch may begin.
    watches: Mutex<[Option<Instant>; KINDS.len()]>,
}

impl Eye {
    /// Which kind a request is about; requests for discovery are about none.
    fn kind(path: &str) -> Option<Index> {
        // The server's own address may have a path.
        KINDS.iter().position(|watched| path.ends_with(&watched.path()))
    }

    /// How long a watch has to wait for its turn.
    fn pace(&self, kind: Index) -> Duration {
        let now = Instant::now();
        let next = &mut self.watches.lock().unwrap_or_else(PoisonError::into_inner)[kind];
        let turn = next.map_or(now, |next| next.max(now));
        *next = Some(turn + self.timing.pace);
        turn - now
    }

    /// The head of an answer to a watch, and all of any other.
    async fn answer<B, E>(
        &self,
        asked: impl Future<Output = Result<Response<B>, E>>,
        watch: bool,
    ) -> Result<Response<Either<B, Body>>, BoxError>
    where
        B: HttpBody<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
        E: Into<BoxError>,
    {
        let patience = self.timing.answer;
        let silence = |what| BoxError::from(format!("{what} for {} s", patience.as_secs_f32()));
        let answer = timeout(patience, asked).await.map_err(|_| silence("no answer"))?;
        let (mut head, mut body) = answer.map_err(Into::into)?.into_parts();
        if !head.status.is_success() {
            bound(&mut head.headers, self.timing.busy);
            if let Ok(Some(said)) = timeout(patience, message(body)).await {
                head.extensions.insert(Said(said));
            }
            return Ok(Response::from_parts(head, Either::Right(Body::empty())));
        }
        if watch {
            return Ok(Response::from_parts(head, Either::Left(body)));
        }
        let mut whole = Vec::new();
        let stopped = |_| silence("the answer stopped half way, and nothing came");
        while let Some(frame) = timeout(patience, body.frame()).await.map_err(stopped)? {
            if let Ok(data) = frame.map_err(Into::into)?.into_data() {
                whole.extend_from_slice(&data);
            }
        }
        Ok(Response::from_parts(head, Either::Right(Body::from(whole))))
    }

    /// `goes_on`: what was asked is about a version that was read before.
    fn note<B>(&self, kind: Index, answer: &Result<Response<B>, BoxError>, goes_on: bool) {
        match answer {
            Ok(answer) if answer.status().is_success() => self.fares.answered(kind),
            // That it is forgotten is what an API server says.
            Ok(answer) if goes_on && answer.status() == StatusCode::GONE => self.fares.answered(kind),
            Ok(answer) => {
                self.fares.failed(kind, Cause::Refused(answer.status().as_u16(), said(answer).to_owned()));
            }
            Err(error) => self.fares.failed(kind, Cause::Silent(innermost(&**error))),
        }
    }
}

/// What the server says of a refusal: its own words, of which it has few.
#[derive(Clone)]
struct Said(String);

/// Bytes of a refusal; a longer one is not read.
const LONGEST: usize = 4096;

async fn message<B>(body: B) -> Option<String>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let whole = Limited::new(body, LONGEST).collect().await.ok()?.to_bytes();
    let status: Status = serde_json::from_slice(&whole).ok()?;
    Some(printable(&status.message))
}

/// Words of a server's that may go to a terminal.
pub fn printable(words: &str) -> String {
    words.chars().take(LONGEST).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

fn said<B>(answer: &Response<B>) -> &str {
    answer.extensions().get::<Said>().map_or("", |said| &said.0)
}

/// A server may have us wait, but not for ever: and kube would add any time to
/// the clock's.
fn bound(headers: &mut HeaderMap, longest: Duration) {
    let given = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if given.is_some_and(|seconds| seconds > longest.as_secs()) {
        headers.insert(RETRY_AFTER, longest.as_secs().into());
    }
}

/// The cause of an error that its wrappers only repeat.
pub fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[derive(Clone)]
pub struct Watchful(Arc<Eye>);

impl Watchful {
    pub fn new(fares: Arc<Fares>, timing: Timing) -> Self {
        Self(Arc::new(Eye { fares, timing, watches: Mutex::new([None; KINDS.len()]) }))
    }
}

impl<S> Layer<S> for Watchful {
    type Service = Watching<S>;

    fn layer(&self, inner: S) -> Watching<S> {
        Watching { inner, eye: self.0.clone() }
    }
}

#[derive(Clone)]
pub struct Watching<S> {
    inner: S,
    eye: Arc<Eye>,
}

impl<S, B> Service<Request<Body>> for Watching<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Either<B, Body>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that is ready serves; its clone waits for its turn.
        let next = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, next);
        let eye = self.eye.clone();
        let kind = Eye::kind(request.uri().path());
        let has = |part| request.uri().query().is_some_and(|query| query.contains(part));
        let (watch, next_page) = (has("watch=true"), has("continue="));
        Box::pin(async move {
            if let Some(kind) = kind.filter(|_| watch) {
                tokio::time::sleep(eye.pace(kind)).await;
            }
            let answer = eye.answer(ready.call(request), watch).await;
            if let Some(kind) = kind {
                eye.note(kind, &answer, watch || next_page);
            }
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use tower::ServiceExt;

    use super::*;

    #[test]
    fn requests_are_known_by_their_path() {
        assert_eq!(Eye::kind("/api/v1/services"), Some(0));
        assert_eq!(Eye::kind("/k8s/clusters/c-1/apis/discovery.k8s.io/v1/endpointslices"), Some(1));
        assert_eq!(Eye::kind("/apis/causeway.io/v1alpha1"), None);
    }

    /// What becomes of a watch that is answered so.
    async fn answered<B>(status: u16, body: B) -> (Vec<(Index, Cause)>, kube::Error)
    where
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
    {
        answered_to("watch=true", status, body).await
    }

    async fn answered_to<B>(query: &str, status: u16, body: B) -> (Vec<(Index, Cause)>, kube::Error)
    where
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
    {
        let fares = Arc::new(Fares::new());
        let timing = Timing { answer: Duration::from_millis(50), ..Timing::default() };
        let body = Arc::new(Mutex::new(Some(body)));
        let server = tower::service_fn(move |_| {
            let body = body.lock().unwrap().take().unwrap();
            async move { Ok::<_, BoxError>(Response::builder().status(status).body(body).unwrap()) }
        });
        let request = Request::get(format!("/api/v1/services?{query}")).body(Body::empty()).unwrap();
        let answer = refused(Watchful::new(fares.clone(), timing).layer(server).oneshot(request).await);
        let error = answer.err().unwrap().downcast::<kube::Error>().unwrap();
        (fares.troubles().into_iter().map(|(kind, trouble)| (kind, trouble.cause)).collect(), *error)
    }

    fn words(message: &str) -> Body {
        serde_json::to_vec(&Status::failure(message, "Why")).unwrap().into()
    }

    #[tokio::test]
    async fn what_the_server_says_of_a_refusal_is_in_its_cause() {
        let (troubles, error) = answered(403, words("you\nmust not")).await;
        assert_eq!(troubles, [(0, Cause::Refused(403, "you must not".into()))]);
        assert!(matches!(error, kube::Error::Api(said) if said.message == "you must not"));
    }

    #[tokio::test]
    async fn what_cannot_be_read_of_a_refusal_is_left_out() {
        let silence = futures_util::stream::pending::<Result<Frame<Bytes>, BoxError>>();
        for (troubles, _) in [
            answered(502, Body::from(b"<html>".to_vec())).await,
            answered(502, words(&"x".repeat(LONGEST))).await,
            answered(502, StreamBody::new(silence)).await,
        ] {
            assert_eq!(troubles, [(0, Cause::Refused(502, String::new()))]);
        }
    }

    #[tokio::test]
    async fn a_version_that_is_forgotten_is_no_trouble_and_a_list_that_is_gone_is() {
        for (query, trouble) in [
            ("watch=true&resourceVersion=7", None),
            ("limit=500&continue=abc", None),
            ("limit=500", Some((0, Cause::Refused(410, String::new())))),
        ] {
            assert_eq!(answered_to(query, 410, Body::empty()).await.0, Vec::from_iter(trouble), "{query}");
        }
    }

    #[test]
    fn what_is_no_success_is_an_error_of_its_status() {
        let answer = |status: u16| refused(Ok(Response::builder().status(status).body(()).unwrap()));
        assert!(answer(200).is_ok());
        for status in [302, 404, 429, 502] {
            let error = answer(status).unwrap_err().downcast::<kube::Error>().unwrap();
            assert!(matches!(*error, kube::Error::Api(said) if said.code == status), "{status}");
        }
    }
}

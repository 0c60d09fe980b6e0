//! What does a client get that asked in vain? A status that fits, and JSON:
//! `error`, and `remedy` where there is one.

use axum::{
    Json,
    extract::{
        FromRequest, FromRequestParts, Query, Request,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The body of an answer that is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorView {
    pub error: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

#[derive(Debug)]
pub struct Refused {
    status: StatusCode,
    view: ErrorView,
}

impl Refused {
    pub fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, view: ErrorView { error: error.into(), remedy: None } }
    }

    pub fn remedy(mut self, remedy: &str) -> Self {
        self.view.remedy = Some(remedy.to_owned());
        self
    }

    /// The loop did not answer in time.
    pub fn busy() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the agent is busy")
            .remedy("try again; its log says what it does")
    }

    /// The loop has ended, or threw the question away.
    pub fn ending() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the agent is ending").remedy("start it again")
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(self.view)).into_response()
    }
}

/// A path that is not served.
pub async fn unknown_path(request: Request) -> Refused {
    Refused::new(StatusCode::NOT_FOUND, format!("there is no {}", request.uri().path()))
        .remedy("docs/json.md lists the paths; agent and client may be of different versions")
}

/// A path that is served, asked with another method.
pub async fn wrong_method(request: Request) -> Refused {
    let asked = format!("{} does not take {}", request.uri().path(), request.method());
    Refused::new(StatusCode::METHOD_NOT_ALLOWED, asked).remedy("docs/json.md lists the methods")
}

/// A JSON body; what is wrong with it is told as JSON.
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let read = Json::<T>::from_request(request, state).await;
        let refused = |error: JsonRejection| Refused::new(error.status(), error.body_text());
        read.map(|Json(body)| Self(body)).map_err(refused)
    }
}

/// The query; what is wrong with it is told as JSON.
pub struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let read = Query::<T>::from_request_parts(parts, state).await;
        let refused = |error: QueryRejection| Refused::new(error.status(), error.body_text());
        read.map(|Query(query)| Self(query)).map_err(refused)
    }
}

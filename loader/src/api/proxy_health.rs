//! Should a load balancer send to this node? Those of clouds ask kube-proxy, at port
//! 10256, for services of any node; here is its answer.
//!
//! As kube-proxy has it (KEP-3836): a node is ill while what it wants to write is
//! overdue, and well from the start on. `/healthz` says no as well when the node is
//! about to be removed, `/livez` does not.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::{net::TcpListener, time::sleep};

use crate::snapshot::{Handle, Snapshot};

/// Rows may be as late as this: as kube-proxy's by its defaults.
const PATIENCE: SignedDuration = SignedDuration::from_secs(60);
/// Until an address that is taken is tried again.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    /// When the kernel's rows were as wanted, if they may be late: now.
    last_updated: Timestamp,
    current_time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
}

/// Answers at the address until the task is aborted.
pub async fn serve(address: SocketAddr, handle: Handle) {
    let router = Router::new()
        .route("/healthz", get(async |State(handle): State<Handle>| respond(&handle, true)))
        .route("/livez", get(async |State(handle): State<Handle>| respond(&handle, false)));
    let listener = listen(address).await;
    if let Err(error) = axum::serve(listener, router.with_state(handle)).await {
        tracing::error!(%error, %address, "load balancers get no answer any more");
    }
}

/// As soon as the address is free: a kube-proxy may have it, and end later.
async fn listen(address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) if !told => {
                tracing::warn!(%error, %address, "cannot tell load balancers how this node is: tried again");
                told = true;
            }
            Err(_) => {}
        }
        sleep(RETRY).await;
    }
}

fn respond(handle: &Handle, of_node: bool) -> Response {
    let (status, answer) = answer(&handle.snapshot.load(), Timestamp::now(), of_node);
    (status, [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")], Json(answer)).into_response()
}

fn answer(snapshot: &Snapshot, now: Timestamp, of_node: bool) -> (StatusCode, Answer) {
    let overdue = snapshot.behind.filter(|since| now.duration_since(*since) > PATIENCE);
    let eligible = !snapshot.leaving;
    let good = overdue.is_none() && (eligible || !of_node);
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let answer = Answer {
        last_updated: overdue.unwrap_or(now),
        current_time: now,
        node_eligible: of_node.then_some(eligible),
    };
    (status, answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_well_while_nothing_is_overdue_and_it_stays() {
        let now = Timestamp::UNIX_EPOCH + PATIENCE * 10;
        let ask = |ago: Option<SignedDuration>, leaving, of_node| {
            let behind = ago.map(|ago| now - ago);
            answer(&Snapshot { behind, leaving, ..Snapshot::default() }, now, of_node)
        };
        let is_well = |ago, leaving, of_node| ask(ago, leaving, of_node).0 == StatusCode::OK;
        let late = PATIENCE + SignedDuration::from_secs(1);
        for of_node in [true, false] {
            assert!(is_well(None, false, of_node));
            assert!(is_well(Some(PATIENCE), false, of_node));
            assert!(!is_well(Some(late), false, of_node));
            // Leaving is the node's, not the proxy's.
            assert_eq!(is_well(None, true, of_node), !of_node);
        }
        let said = |ago, of_node| serde_json::to_value(ask(ago, true, of_node).1).unwrap();
        let [last, current] = ["1970-01-01T00:08:59Z", "1970-01-01T00:10:00Z"];
        let whole = serde_json::json!({"lastUpdated": last, "currentTime": current, "nodeEligible": false});
        assert_eq!(said(Some(late), true), whole);
        assert_eq!(said(None, false), serde_json::json!({"lastUpdated": current, "currentTime": current}));
    }
}

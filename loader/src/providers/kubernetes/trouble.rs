//! What does an operator read when the API server cannot be? Since when, why,
//! and what helps.

use std::{sync::Arc, time::SystemTime};

use super::{
    fare::{Cause, Trouble},
    kinds::{Index, KINDS, Watched},
};
use crate::event::{Origin, Problem};

/// One problem where nothing answers, else one of each kind.
pub fn problems(source: &Arc<str>, server: &str, troubles: &[(Index, Trouble)]) -> Vec<Problem> {
    let silent = |(_, trouble): &&(Index, Trouble)| matches!(trouble.cause, Cause::Silent(_));
    let mut problems = Vec::new();
    let first = troubles.iter().filter(silent).min_by_key(|(_, trouble)| trouble.since);
    if let Some((_, Trouble { since, cause: Cause::Silent(error) })) = first {
        let message = format!(
            "does not answer since {} ({error}): its last state is kept until it does",
            moment(*since)
        );
        problems.push(problem(source, server, "", message));
    }
    for (kind, trouble) in troubles.iter().filter(|trouble| !silent(trouble)) {
        let watched = &KINDS[*kind];
        problems.push(problem(source, server, watched.name, of_kind(watched, trouble)));
    }
    problems
}

fn of_kind(watched: &Watched, Trouble { since, cause }: &Trouble) -> String {
    let since = moment(*since);
    let what = match cause {
        Cause::Forbidden => {
            let group = watched.group();
            let of = if group.is_empty() { String::new() } else { format!(" of {group}") };
            format!(
                "must not be read since {since}: allow the agent's account to list and watch {}{of} (deploy/rbac.yaml)",
                watched.plural
            )
        }
        Cause::Stranger => format!(
            "cannot be read since {since}: the server does not know the agent's credentials (401), give it others"
        ),
        Cause::Missing => format!(
            "cannot be read since {since}: the server has no {} of {} (404), is it an API server?",
            watched.plural, watched.api
        ),
        Cause::Status(status) => format!("cannot be read since {since}: the server answers {status}"),
        Cause::Garbage(error) => {
            format!("cannot be read since {since}: the answer is none of an API server's ({error})")
        }
        Cause::Silent(error) => format!("cannot be read since {since}: no answer ({error})"),
    };
    format!("{what}; its last state is kept")
}

fn problem(source: &Arc<str>, server: &str, object: &str, message: String) -> Problem {
    let origin = Origin { source: source.clone(), place: server.into() };
    let message = crate::providers::object::shortened(message);
    Problem { origin: Some(origin), object: object.into(), field: String::new(), message }
}

/// `2026-11-21T12:30:05Z`
fn moment(time: SystemTime) -> String {
    let stamp = jiff::Timestamp::try_from(time).unwrap_or_default();
    stamp.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn silence_is_said_once_and_a_refusal_of_its_kind() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let silent = |seconds| Trouble { since: at(seconds), cause: Cause::Silent("refused".into()) };
        let forbidden = Trouble { since: at(60), cause: Cause::Forbidden };
        let said = problems(
            &"kubernetes".into(),
            "https://api:6443/",
            &[(0, silent(20)), (1, silent(10)), (5, forbidden)],
        );
        let said: Vec<String> = said.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "kubernetes:https://api:6443/: does not answer since 1970-01-01T00:00:10Z (refused): its last state is kept until it does",
                "kubernetes:https://api:6443/: NetworkPolicy: must not be read since 1970-01-01T00:01:00Z: allow the agent's account to list and watch networkpolicies of networking.k8s.io (deploy/rbac.yaml); its last state is kept",
            ]
        );
    }
}

//! What does an operator read when the API server cannot be? Since when, why,
//! and what helps.

use std::sync::Arc;

use super::{
    fare::{Cause, Trouble},
    kinds::{Index, KINDS, Watched},
};
use crate::{
    event::{Kind, Origin, Problem},
    moment,
};

/// One problem where no kind of every server's is answered for, else one of
/// each kind. `known`: whether a kind was ever read.
pub fn problems(
    source: &Arc<str>,
    server: &str,
    troubles: &[(Index, Trouble)],
    known: impl Fn(Index) -> bool,
) -> Vec<Problem> {
    let silence = |trouble: &Trouble| matches!(trouble.cause, Cause::Silent(_));
    let silent = |kind| troubles.iter().any(|(of, trouble)| *of == kind && silence(trouble));
    let all = (0..KINDS.len()).filter(|&kind| !KINDS[kind].optional).all(silent);
    let mut problems = Vec::new();
    let first = troubles.iter().filter(|(_, trouble)| all && silence(trouble));
    let first = first.min_by_key(|(_, trouble)| trouble.since);
    if let Some((_, Trouble { since, cause: Cause::Silent(error), .. })) = first {
        let message = format!(
            "does not answer since {} ({error}): its last state is kept until it does",
            moment::text(*since)
        );
        problems.push(problem(source, server, "", message));
    }
    for (kind, trouble) in troubles.iter().filter(|(_, trouble)| !(all && silence(trouble))) {
        let watched = &KINDS[*kind];
        let (what, until) = (of_kind(watched, trouble), meanwhile(watched, trouble, known(*kind)));
        // Last, because it may be long.
        let said = match &trouble.cause {
            Cause::Refused(_, said) if !said.is_empty() => format!("; the server says: {said}"),
            _ => String::new(),
        };
        problems.push(problem(source, server, watched.name, format!("{what}; {until}{said}")));
    }
    problems
}

/// What that means until it is mended.
fn meanwhile(watched: &Watched, trouble: &Trouble, known: bool) -> &'static str {
    if known {
        "its last state is kept"
    } else if watched.optional && trouble.cause.is_forbidden() {
        if watched.kind == Kind::Egress {
            "containers leave as if there were none"
        } else {
            "policies of other kinds hold without it"
        }
    } else if watched.kind.is_about_containers() {
        "policies stay as they were, and new endpoints are cut off"
    } else {
        "what an earlier agent left is kept"
    }
}

fn of_kind(watched: &Watched, Trouble { since, cause, .. }: &Trouble) -> String {
    let since = moment::text(*since);
    match cause {
        Cause::Refused(403, _) => {
            let group = watched.group();
            let of = if group.is_empty() { String::new() } else { format!(" of {group}") };
            format!(
                "must not be read since {since}: allow the agent's account to list and watch {}{of} (deploy/rbac.yaml)",
                watched.plural
            )
        }
        Cause::Refused(401, _) => format!(
            "cannot be read since {since}: the server does not know the agent's credentials (401), give it others"
        ),
        // Only its own lists say that it has none.
        Cause::Refused(404, _) if watched.optional => format!(
            "cannot be read since {since}: the server has no {} of {} (404), but its lists of kinds do not say so: is it an API server, and may the agent's account get /apis and /apis/* (deploy/rbac.yaml)?",
            watched.plural, watched.api
        ),
        Cause::Refused(404, _) => format!(
            "cannot be read since {since}: the server has no {} of {} (404), is it an API server?",
            watched.plural, watched.api
        ),
        Cause::Refused(status, _) => format!("cannot be read since {since}: the server answers {status}"),
        Cause::Garbage(error) => {
            format!("cannot be read since {since}: the answer is none of an API server's ({error})")
        }
        Cause::Silent(error) => format!("cannot be read since {since}: no answer ({error})"),
    }
}

fn problem(source: &Arc<str>, server: &str, object: &str, message: String) -> Problem {
    let origin = Origin { source: source.clone(), place: server.into() };
    let message = crate::providers::object::shortened(message);
    Problem { origin: Some(origin), object: object.into(), field: String::new(), message }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant, SystemTime};

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn trouble(seconds: u64, cause: Cause) -> Trouble {
        Trouble { since: at(seconds), last: Instant::now(), cause }
    }

    fn silent(seconds: u64) -> Trouble {
        trouble(seconds, Cause::Silent("refused".into()))
    }

    fn refused(status: u16, said: &str) -> Trouble {
        trouble(60, Cause::Refused(status, said.into()))
    }

    fn said(troubles: &[(Index, Trouble)], known: bool) -> Vec<String> {
        let problems = problems(&"kubernetes".into(), "https://api:6443/", troubles, |_| known);
        problems
            .iter()
            .map(|problem| problem.to_string().replace("kubernetes:https://api:6443/: ", ""))
            .collect()
    }

    #[test]
    fn silence_is_said_once_and_a_refusal_of_its_kind() {
        let mut troubles: Vec<_> = (0..5).map(|kind| (kind, silent(20 - kind as u64))).collect();
        troubles.extend([(5, silent(10)), (6, refused(403, "it is forbidden")), (9, silent(5))]);
        assert_eq!(
            said(&troubles, true),
            [
                "does not answer since 1970-01-01T00:00:05Z (refused): its last state is kept until it does",
                "AdminNetworkPolicy: must not be read since 1970-01-01T00:01:00Z: allow the agent's account to list and watch adminnetworkpolicies of policy.networking.k8s.io (deploy/rbac.yaml); its last state is kept; the server says: it is forbidden",
            ]
        );
    }

    #[test]
    fn one_kind_s_silence_is_its_own() {
        assert_eq!(
            said(&[(3, silent(10))], true),
            ["Pod: cannot be read since 1970-01-01T00:00:10Z: no answer (refused); its last state is kept"]
        );
    }

    #[test]
    fn the_remedy_comes_before_what_the_server_says() {
        let [said] = &said(&[(9, refused(404, &"x".repeat(4000)))], false)[..] else { panic!() };
        assert!(
            said.contains("may the agent's account get /apis") && said.ends_with(" (and so on)"),
            "{said}"
        );
    }

    #[test]
    fn what_was_never_read_has_consequences() {
        let forbidden = || refused(403, "");
        let troubles = [(0, forbidden()), (4, forbidden()), (6, forbidden()), (7, refused(500, ""))];
        let said = said(&troubles, false);
        let ends = [
            "what an earlier agent left is kept",
            "policies stay as they were, and new endpoints are cut off",
            "policies of other kinds hold without it",
            "policies stay as they were, and new endpoints are cut off",
        ];
        assert!(said.iter().zip(ends).all(|(text, end)| text.ends_with(end)) && said.len() == 4, "{said:#?}");
    }
}

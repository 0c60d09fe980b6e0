//! SRC-08: who the server is, and who we are to it. TLS, tokens, and what is
//! said when either does not fit.

use std::{fs, sync::Arc, time::Duration};

use causeway::providers::kubernetes::Access;
use causeway_testkit::{
    apiserver::{
        kind,
        secure::{Identity, kubeconfig},
        stock::stocked,
    },
    scratch::Dir,
    watcher::{Watcher, block_on},
};

fn says(watcher: &Watcher, text: &str) -> bool {
    watcher.problems.iter().any(|problem| problem.contains(text))
}

/// kube reads a token's file anew when the last time is 50 s ago.
const REREAD: Duration = Duration::from_secs(50);

#[test]
fn a_token_is_asked_for_and_may_change() {
    block_on(async {
        let (mut api, dir, identity) = (stocked(), Dir::new(), Arc::new(Identity::new()));
        api.down();
        api.secure(identity.clone());
        api.up();
        api.require("first");
        let (config, token) = kubeconfig(&dir, &api.url(), &identity.authority, "first");
        let mut watcher = Watcher::with(&Access { kubeconfig: Some(config), server: None }).await;
        watcher.until_as(&api).await;
        fs::write(&token, "second").unwrap();
        api.require("second");
        // Every connection begins anew, with the token from before.
        api.down();
        api.up();
        watcher
            .until("401 is said", |watcher| says(watcher, "does not know the agent's credentials (401)"))
            .await;
        assert!(watcher.deleted.is_empty());
        watcher.hear(REREAD).await;
        api.delete(kind("Service"), "default", "o1");
        watcher.until_as(&api).await;
        assert_eq!(watcher.deleted.len(), 1, "{:?}", watcher.deleted);
    });
}

#[test]
fn a_certificate_of_somebody_else_is_named() {
    block_on(async {
        let (mut api, dir, identity) = (stocked(), Dir::new(), Arc::new(Identity::new()));
        api.down();
        let other = Identity::new();
        let url = api.url().replace("http:", "https:");
        let (config, _) = kubeconfig(&dir, &url, &other.authority, "t");
        let mut watcher = Watcher::with(&Access { kubeconfig: Some(config), server: None }).await;
        watcher.until("nobody is there", |watcher| says(watcher, "Connection refused")).await;
        // The reason is the one that there is now.
        api.secure(identity);
        api.up();
        watcher.until("it is not trusted", |watcher| says(watcher, "certificate")).await;
        assert!(!says(&watcher, "Connection refused"), "{:?}", watcher.problems);
        assert_eq!(watcher.model.services(), 0);
    });
}

#[test]
fn a_server_without_a_kind_of_every_server_s_is_none() {
    block_on(async {
        let api = stocked();
        api.install(kind("Service"), false);
        let mut watcher = Watcher::start(&api).await;
        let said = "Service: cannot be read since 2";
        watcher
            .until("404 is said", |watcher| {
                says(watcher, said) && says(watcher, "no services of v1 (404), is it an API server?")
            })
            .await;
        assert!(!watcher.model.synced());
    });
}

//! Has anything of netfilter been used in a namespace? Rules, tables and
//! connection tracking must all be empty.

use std::fs;

use crate::netns::Netns;

/// Every rule, table and tracked connection in `netns`, one line each.
pub fn netfilter(netns: &Netns) -> Vec<String> {
    let mut found = Vec::new();
    for (program, arguments) in
        [("iptables-save", ""), ("iptables-legacy-save", ""), ("nft", "list ruleset"), ("conntrack", "-L")]
    {
        let (success, output) = netns.command(program, arguments);
        let missing = !success && output.starts_with(&format!("{program}: "));
        if missing && program == "iptables-legacy-save" {
            // Not on every system, and /proc below says the same.
            continue;
        }
        assert!(success, "{program} {arguments}: {output}\n`cargo xtask setup` installs what is missing");
        found.extend(output.lines().filter(|line| is_entry(line)).map(|line| format!("{program}: {line}")));
    }
    for file in ["ip_tables_names", "ip6_tables_names", "nf_conntrack"] {
        let path = format!("/proc/thread-self/net/{file}");
        // Absent where the kernel has no such thing at all.
        let text = netns.run(|| fs::read_to_string(path)).unwrap_or_default();
        found.extend(text.lines().map(|line| format!("{file}: {line}")));
    }
    found
}

pub fn assert_no_netfilter(netns: &Netns) {
    let found = netfilter(netns);
    assert!(found.is_empty(), "netfilter in {}:\n{}", netns.name(), found.join("\n"));
}

/// Not a comment, and not `conntrack`'s summary.
fn is_entry(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#') && !line.contains("flow entries have been shown")
}

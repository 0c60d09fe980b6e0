//! What rules are in nf_tables, and so in iptables-nft? The names of tables and
//! chains; we read them, and never write any.

use std::io;

use super::message::{Message, attribute_of};

/// `linux/netfilter/nf_tables.h`.
const SUBSYSTEM: u16 = 10;
const GET_TABLE: u16 = 1;
const GET_CHAIN: u16 = 4;
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const HOOK_NUMBER: u16 = 1;
/// `NF_INET_FORWARD`, and `NF_DROP`.
const FORWARD: u32 = 2;
const DROP: u32 = 0;
/// Length of `nfgenmsg`.
const GENERIC: usize = 4;

/// A table, or a chain in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// `ip`, `ip6`, `inet`, ...
    pub family: &'static str,
    pub table: String,
    /// `None`: the table itself.
    pub chain: Option<String>,
    /// A base chain for what the host forwards, that drops what no rule accepts.
    pub drops_forwarded: bool,
}

/// All of them, of the calling thread's network namespace. None where the kernel
/// has no nf_tables.
///
/// # Errors
/// When the kernel does not say; without CAP_NET_ADMIN.
pub fn rules() -> io::Result<Vec<Rules>> {
    let tables = dump(GET_TABLE)?.into_iter().filter_map(|body| {
        let (family, attributes) = split(&body)?;
        let table = name(attributes, TABLE_NAME)?;
        Some(Rules { family, table, chain: None, drops_forwarded: false })
    });
    let chains = dump(GET_CHAIN)?.into_iter().filter_map(|body| {
        let (family, attributes) = split(&body)?;
        let hook = attribute_of(attributes, CHAIN_HOOK).and_then(|hook| number(hook, HOOK_NUMBER));
        let drops = number(attributes, CHAIN_POLICY) == Some(DROP);
        Some(Rules {
            family,
            table: name(attributes, CHAIN_TABLE)?,
            chain: Some(name(attributes, CHAIN_NAME)?),
            // Numbers of other families' hooks mean something else.
            drops_forwarded: hook == Some(FORWARD) && drops && matches!(family, "ip" | "ip6" | "inet"),
        })
    });
    Ok(tables.chain(chains).collect())
}

fn dump(command: u16) -> io::Result<Vec<Vec<u8>>> {
    // Of all families; version 0, no resource.
    let request = Message::new(SUBSYSTEM << 8 | command, libc::NLM_F_DUMP, &[0; GENERIC]);
    match request.send(libc::NETLINK_NETFILTER) {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT)
            ) =>
        {
            Ok(Vec::new())
        }
        other => other,
    }
}

fn split(body: &[u8]) -> Option<(&'static str, &[u8])> {
    let family = match body.first()? {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "other",
    };
    Some((family, body.get(GENERIC..)?))
}

fn name(attributes: &[u8], kind: u16) -> Option<String> {
    let bytes = attribute_of(attributes, kind)?;
    Some(String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned())
}

/// Numbers of nf_tables are in network order.
fn number(attributes: &[u8], kind: u16) -> Option<u32> {
    attribute_of(attributes, kind)?.try_into().ok().map(u32::from_be_bytes)
}

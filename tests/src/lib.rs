//! The test-kit: namespaces, links, agents, servers and clients as values that
//! undo themselves, packets as bytes with right checksums, and the oracle.
//!
//! Everything it makes carries the pid of its maker (`cwt-<pid>-<n>`), so that
//! several runs work side by side and the next one sweeps what a killed one left.
//!
//! A test wants to stop at the first thing that is not as it should be, with
//! the reason: the kit is test code, and panics where a library would return.

pub mod addresses;
pub mod agent;
pub mod apiserver;
pub mod bed;
pub mod cable;
pub mod capture;
pub mod casebook;
pub mod child;
pub mod client;
pub mod cni;
pub mod container;
pub mod containerd;
pub mod cpu;
pub mod direct;
pub mod docker;
pub mod doctor;
pub mod egress;
pub mod frame;
pub mod hop;
pub mod http;
pub mod image;
pub mod inspect;
pub mod link;
pub mod load;
pub mod manifest;
pub mod mirror;
pub mod netns;
pub mod netpol;
pub mod node;
pub mod numbered;
pub mod object;
pub mod offload;
pub mod oracle;
pub mod packet;
pub mod parse;
pub mod ping;
pub mod pinned;
pub mod pod;
pub mod podman;
pub mod prog;
pub mod random;
pub mod raw;
pub mod refusal;
pub mod scenery;
pub mod scratch;
pub mod sentinel;
pub mod server;
pub mod snapshot;
pub mod streams;
pub mod table;
pub mod talk;
pub mod ticks;
pub mod told;
pub mod topology;
pub mod traffic;
pub mod tunnel_end;
pub mod udp_end;
pub mod until;
pub mod watcher;
pub mod wire;
pub mod worker;
pub mod world;
pub mod xdp;

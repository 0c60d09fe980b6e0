//! What the planner promises, over random worlds.

mod adoption;
mod audits;
mod capacity;
mod digests;
mod endpoints;
mod options;
mod port_ranges;
mod prefixes;
mod services;
mod timing;
mod world;

//! Which writes bring the maps from what they hold to what is wanted?
//!
//! Pure: no clock, no socket, no map. [`Planner`] turns changes of the desired
//! state into ordered [`Step`]s, [`audit()`] turns drift into repairs,
//! [`digest`] tells whether two sets of maps mean the same.

mod adopt;
pub mod audit;
mod backends;
mod by_id;
mod changes;
mod claims;
pub mod describe;
pub mod digest;
mod endpoints;
pub mod family;
mod ids;
pub mod image;
mod ledger;
mod planner;
pub mod policy;
mod quarantine;
mod ranges;
mod rivals;
pub mod rows;
pub mod step;
mod tables;
mod wanted;

#[cfg(test)]
mod tests;

pub use audit::{Fault, Repair, audit, confirm};
pub use by_id::ById;
pub use digest::Digest;
pub use family::Family;
pub use image::{Capacity, Image};
pub use planner::Planner;
pub use policy::{PolicyMaps, PolicyPlan, PolicyPlanner, PolicyWrite};
pub use quarantine::GRACE;
pub use rows::{ReadError, Rows};
pub use step::{Map, Step};

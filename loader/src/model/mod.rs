//! (being written)
pub mod desired;

//! (being written)
pub mod family;
pub mod image;
pub mod step;
pub use family::Family;
pub use image::{Capacity, Image};
pub use step::{Map, Step};

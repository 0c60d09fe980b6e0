//! (being written)
pub mod family;
pub mod image;
pub mod rows;
pub mod step;
pub use family::Family;
pub use image::{Capacity, Image};
pub use rows::{ReadError, Rows};
pub use step::{Map, Step};

//! What are Docker's containers called? By the driver that attaches them, and by the
//! source that tells of them: both know the id of the endpoint.

/// In which they are, for policies.
pub const NAMESPACE: &str = "docker";
/// Of the driver, as Docker finds it.
pub const DRIVER: &str = "causeway";
/// Digits of an id that tell it from others.
const DIGITS: usize = 12;

/// The name of a container's pod.
pub fn name_of(endpoint: &str) -> &str {
    endpoint.get(..DIGITS).unwrap_or(endpoint)
}

//! Which hardware address does a container's interface have?

use causeway_schema::hash;

use crate::{mac, snapshot::AttachRequest};

/// The one asked for, or one of the name: so it survives a new attach; locally
/// administered, unicast.
///
/// # Errors
/// When what is asked for is no address of one interface.
pub fn of(request: &AttachRequest) -> Result<[u8; 6], String> {
    match &request.mac {
        Some(text) => mac::parse(text),
        None => {
            let [_, _, a, b, c, d, e, _] = hash::mix(super::name_hash(&request.name)).to_be_bytes();
            Ok([0x02, a, b, c, d, e])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_addresses_of_their_own() {
        let of = |name: &str| of(&AttachRequest { name: name.into(), ..AttachRequest::default() }).unwrap();
        assert_ne!(of("a"), of("b"));
        assert_eq!(of("a"), of("a"));
        assert_eq!(of("a")[0], 2);
    }
}

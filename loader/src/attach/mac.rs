//! Which hardware address does a container's interface have?

use causeway_schema::{GATEWAY_MAC, hash};

use crate::snapshot::AttachRequest;

/// The one asked for, or one of the name: so it survives a new attach; locally
/// administered, unicast.
///
/// # Errors
/// When what is asked for is no address of one interface.
pub fn of(request: &AttachRequest) -> Result<[u8; 6], String> {
    match &request.mac {
        Some(text) => parse(text),
        None => {
            let [_, _, a, b, c, d, e, _] = hash::mix(super::name_hash(&request.name)).to_be_bytes();
            Ok([0x02, a, b, c, d, e])
        }
    }
}

pub fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn parse(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    let mac: Option<[u8; 6]> = bytes.and_then(|bytes| bytes.try_into().ok());
    match mac {
        None => Err(format!("{text:?} is no hardware address: write it as 02:00:00:00:00:01")),
        Some(mac) if mac[0] & 1 != 0 || mac == [0; 6] => Err(format!("{text} is of no single interface")),
        Some(GATEWAY_MAC) => Err(format!("{text} is the gateway's")),
        Some(mac) => Ok(mac),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_read_or_refused() {
        let of = |mac: &str| of(&AttachRequest { mac: Some(mac.into()), ..AttachRequest::default() });
        assert_eq!(of("02:00:00:00:aB:01"), Ok([2, 0, 0, 0, 0xab, 1]));
        for wrong in ["", "02:00:00:00:00", "02:00:00:00:00:1g", "01:00:5e:00:00:01", "00:00:00:00:00:00"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
        assert!(of(&text(GATEWAY_MAC)).unwrap_err().contains("the gateway's"));
    }

    #[test]
    fn names_have_addresses_of_their_own() {
        let of = |name: &str| of(&AttachRequest { name: name.into(), ..AttachRequest::default() }).unwrap();
        assert_ne!(of("a"), of("b"));
        assert_eq!(of("a"), of("a"));
        assert_eq!(of("a")[0], 2);
    }
}

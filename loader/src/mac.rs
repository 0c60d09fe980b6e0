//! How is a hardware address written?

use causeway_schema::GATEWAY_MAC;

/// `02:00:00:00:00:01`.
pub fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// One that an interface may have.
///
/// # Errors
/// When it is no address, not of one interface, or the gateway's.
pub fn parse(text: &str) -> Result<[u8; 6], String> {
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
    fn what_is_written_is_read_or_refused() {
        assert_eq!(parse("02:00:00:00:aB:01"), Ok([2, 0, 0, 0, 0xab, 1]));
        for wrong in ["", "02:00:00:00:00", "02:00:00:00:00:1g", "01:00:5e:00:00:01", "00:00:00:00:00:00"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse(&text(GATEWAY_MAC)).unwrap_err().contains("the gateway's"));
    }
}

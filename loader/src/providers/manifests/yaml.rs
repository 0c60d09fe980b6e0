//! Who reads YAML? One crate, behind this one function.

use serde_json::Value;

/// The value of one document; the error says line and column.
pub fn value(document: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        // The largest objects that are refused for their size are refused by
        // name, so they must get past the parser first.
        budget: serde_saphyr::budget! { max_events: 8_000_000, max_nodes: 4_000_000, max_total_scalar_bytes: 256 << 20 },
        with_snippet: false,
        emit_comments: false,
        // YAML 1.2: a namespace may be called `y` or `no`.
        strict_booleans: true,
    };
    serde_saphyr::from_str_with_options(document, options).map_err(|error| error.to_string())
}

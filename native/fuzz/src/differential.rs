//! What our PROXY parser says of an input, in the words of `tests/proxy_oracle.py`, which is written from the
//! specification and shares no line with it.

use drtp_core::message::uuid_text;
use drtp_core::proxy::{Parsed, ProxyError, parse_any, parse_v2};
use serde_json::{Value, json};

/// Both readings of one input: of endpoints with mutual TLS (v2 only), and of plain ones.
pub fn verdicts(input: &[u8]) -> Value {
    json!([verdict(parse_v2(input)), verdict(parse_any(input))])
}

fn verdict(parsed: Result<Parsed, ProxyError>) -> Value {
    match parsed {
        Ok(Parsed::Partial) => json!("partial"),
        // Why is for people; that it is refused is the contract.
        Err(_) => json!("refused"),
        Ok(Parsed::Whole(header, length)) => json!({
            "length": length,
            "source": header.source.map(|address| address.to_string()),
            "destination": header.destination.map(|address| address.to_string()),
            "stream": uuid_text(header.stream_id),
            "service": header.service,
            "gateway": header.gateway,
            "visitor": header.signed_in.map(|person| json!({"name": person.name, "groups": person.groups})),
        }),
    }
}

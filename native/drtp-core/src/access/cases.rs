//! Cases as tests hand them over: access, who asks, and what comes of it.

use std::net::IpAddr;

use serde::Deserialize;

use super::{Access, AccessSpec, Asking, Caller, PopPlace, country};

/// One question; what is absent is unknown.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    access: serde_json::Value,
    #[serde(default)]
    address: Option<String>,
    #[serde(default)]
    country: Option<String>,
    #[serde(default)]
    now: i64,
    #[serde(default)]
    caller: Option<CallerSpec>,
    #[serde(default)]
    place: Option<PopPlace>,
}

#[derive(Debug, Deserialize)]
struct CallerSpec {
    kind: String,
    name: String,
    #[serde(default)]
    organizations: Vec<String>,
    #[serde(default)]
    perhaps: Vec<String>,
}

impl Case {
    /// `1` allowed, plus `2` where a list that only counts would refuse, plus `4` where what is unknown might allow.
    /// Access that cannot be read denies.
    pub fn decide(&self) -> u8 {
        let spec = AccessSpec::deserialize(&self.access).unwrap_or_default();
        let caller = self.caller.as_ref();
        let caller = caller.map(|caller| {
            Caller::new(&caller.kind, &caller.name, caller.organizations.clone()).perhaps_of(caller.perhaps.clone())
        });
        let (access, _) = Access::compile(&spec);
        let asking = Asking {
            address: self.address.as_ref().and_then(|text| text.parse::<IpAddr>().ok()),
            country: self.country.as_deref().and_then(country),
            now: self.now,
            caller: caller.as_ref(),
            place: self.place.as_ref(),
        };
        let verdict = access.decide(&asking);
        u8::from(verdict.allowed) + 2 * u8::from(verdict.would_refuse) + 4 * u8::from(access.might(&asking))
    }
}

/// A verdict for each line.
pub fn decide_each(lines: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| Ok(serde_json::from_slice::<Case>(line)?.decide())).collect()
}

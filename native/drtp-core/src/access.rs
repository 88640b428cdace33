//! Who may pass, compiled once per apply: every list must allow; in a list the first matching rule wins, then its default.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use serde::Deserialize;

/// One address, or one IPv6 /64: whoever has one address of it has them all.
pub(crate) fn block_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// `Access` of `drtp.api.snapshots`, as it comes.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct AccessSpec {
    #[serde(default)]
    lists: Vec<ListSpec>,
}

#[derive(Debug, Clone, Deserialize)]
struct ListSpec {
    #[serde(default)]
    default: Action,
    #[serde(default)]
    rules: Vec<RuleSpec>,
}

#[derive(Debug, Clone, Deserialize)]
struct RuleSpec {
    action: Action,
    #[serde(default)]
    cidrs: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
enum Action {
    Allow,
    #[default]
    Deny,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    action: Action,
    nets: Vec<IpNet>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum List {
    Readable {
        default: Action,
        rules: Vec<Rule>,
    },
    /// One unreadable rule makes the list's meaning unknown: it denies everyone.
    Unreadable,
}

/// Compiled access of one connection. The default denies: there is no list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    lists: Vec<List>,
}

impl Access {
    /// Compiles; the second part says what could not be read and therefore denies.
    pub fn compile(spec: &AccessSpec) -> (Self, Option<String>) {
        let mut complaint = None;
        let lists = spec.lists.iter().map(|list| compile_list(list, &mut complaint)).collect();
        (Self { lists }, complaint)
    }

    /// The verdict on a visitor. An unknown visitor (`None`) passes no list that asks for addresses.
    pub fn allows(&self, visitor: Option<IpAddr>) -> bool {
        let visitor = visitor.map(|ip| ip.to_canonical());
        !self.lists.is_empty() && self.lists.iter().all(|list| list.allows(visitor))
    }
}

impl List {
    fn allows(&self, visitor: Option<IpAddr>) -> bool {
        let List::Readable { default, rules } = self else { return false };
        for rule in rules {
            let matches = match visitor {
                _ if rule.nets.is_empty() => true,
                Some(ip) => rule.nets.iter().any(|net| net.contains(&ip)),
                // Whoever cannot be placed must not slip past a rule that would have denied them.
                None => rule.action == Action::Deny,
            };
            if matches {
                return rule.action == Action::Allow;
            }
        }
        *default == Action::Allow
    }
}

fn compile_list(list: &ListSpec, complaint: &mut Option<String>) -> List {
    let mut rules = Vec::with_capacity(list.rules.len());
    for rule in &list.rules {
        let mut nets = Vec::with_capacity(rule.cidrs.len());
        for text in &rule.cidrs {
            let Some(net) = parse_net(text) else {
                complaint.get_or_insert_with(|| format!("unreadable CIDR {text:?}: its list denies everyone"));
                return List::Unreadable;
            };
            nets.push(net);
        }
        rules.push(Rule { action: rule.action, nets });
    }
    List::Readable { default: list.default, rules }
}

/// A CIDR or a bare address. IPv4 in IPv6 clothes (`::ffff:0:0/96`) becomes IPv4, as visitors' addresses do.
pub fn parse_net(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()?;
    match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.addr().to_ipv4_mapped() {
            Some(v4) => ipnet::Ipv4Net::new(v4, v6.prefix_len() - 96).ok().map(IpNet::V4),
            None => Some(net),
        },
        _ => Some(net),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(json: &str) -> (Access, Option<String>) {
        Access::compile(&serde_json::from_str(json).unwrap())
    }

    fn allows(json: &str, ip: &str) -> bool {
        access(json).0.allows(ip.parse().ok())
    }

    #[test]
    fn no_list_denies_and_an_open_list_allows_cve_2024_43798() {
        assert!(!allows(r#"{"lists":[]}"#, "1.2.3.4"));
        assert!(!allows("{}", "1.2.3.4"));
        assert!(!allows(r#"{"lists":[{}]}"#, "1.2.3.4"));
        assert!(allows(r#"{"lists":[{"default":"Allow"}]}"#, "1.2.3.4"));
        assert!(allows(r#"{"lists":[{"rules":[{"action":"Allow"}]}]}"#, "::1"));
    }

    #[test]
    fn first_match_wins_and_every_list_must_allow() {
        let json = r#"{"lists":[
            {"rules":[{"action":"Deny","cidrs":["10.1.0.0/16"]},{"action":"Allow","cidrs":["10.0.0.0/8","2001:db8::/32"]}]},
            {"default":"Allow","rules":[{"action":"Deny","cidrs":["10.2.0.1"]}]}]}"#;
        assert!(allows(json, "10.3.0.1"));
        assert!(!allows(json, "10.1.0.1"));
        assert!(!allows(json, "10.2.0.1"));
        assert!(!allows(json, "11.0.0.1"));
        assert!(allows(json, "2001:db8::5"));
    }

    #[test]
    fn ipv4_in_ipv6_clothes_is_ipv4() {
        let json = r#"{"lists":[{"default":"Allow","rules":[{"action":"Deny","cidrs":["::ffff:9.9.9.0/120"]}]}]}"#;
        assert!(!allows(json, "9.9.9.9"));
        assert!(!allows(json, "::ffff:9.9.9.9"));
        assert!(allows(json, "9.9.8.9"));
    }

    #[test]
    fn an_unreadable_rule_denies_its_whole_list_and_says_so() {
        let (access, complaint) = access(
            r#"{"lists":[{"default":"Allow","rules":[{"action":"Allow","cidrs":["10.0.0.0/8"]},{"action":"Deny","cidrs":["10.0.0.0/33"]}]}]}"#,
        );
        assert!(!access.allows("10.0.0.1".parse().ok()));
        assert!(complaint.unwrap().contains("10.0.0.0/33"));
    }

    #[test]
    fn an_unknown_visitor_passes_open_lists_only() {
        let open = access(r#"{"lists":[{"default":"Allow"}]}"#).0;
        let denying = access(r#"{"lists":[{"default":"Allow","rules":[{"action":"Deny","cidrs":["10.0.0.0/8"]}]}]}"#).0;
        assert!(open.allows(None));
        assert!(!denying.allows(None));
    }
}

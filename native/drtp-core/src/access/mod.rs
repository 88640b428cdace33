//! Who may pass, compiled once per apply: every list must allow; in a list the first rule that speaks wins, then its
//! default.
//!
//! What is not known is not false: a rule that allows speaks only where every part of it is known to hold, one that
//! denies wherever no part is known to fail. `src/drtp/rules/asking.py` decides the same; shared vectors and a
//! differential of random cases hold the two together.
//!
//! A decision is a few words of bits for each list: a bit for each rule, taken away part by part.

mod cases;
mod country;
mod nets;
mod schedule;
mod spec;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use serde::Deserialize;

pub use cases::{Case, decide_each};
pub use country::{Countries, Country, country};
use nets::Nets;
use schedule::Schedule;
pub use spec::AccessSpec;
use spec::{Action, ClauseSpec, ListSpec, Through};

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

// ---- who asks ------------------------------------------------------------------------------------------------------

/// Who has shown an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    organizations: Vec<String>,
    principals: Vec<String>,
    /// Organisations that it may be of, for all that is known: that is doubt.
    perhaps: Vec<String>,
}

impl Caller {
    /// `kind` is `user` or `app`; an app's name is `<namespace>/<name>`.
    pub fn new(kind: &str, name: &str, organizations: Vec<String>) -> Self {
        let principals = std::iter::once(format!("{kind}:{name}")).chain(organizations.iter().map(principal)).collect();
        Self { organizations, principals, perhaps: Vec::new() }
    }

    /// The same, who may be of these organisations too.
    #[must_use]
    pub fn perhaps_of(self, perhaps: Vec<String>) -> Self {
        Self { perhaps, ..self }
    }
}

/// What rules call an organisation.
fn principal(organization: &String) -> String {
    format!("org:{organization}")
}

/// Where a POP is: `PopPlace` of `drtp.api.snapshots`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct PopPlace {
    /// The point of presence.
    pub pop: Option<String>,
    /// The operator's word for a part of the world.
    #[serde(default)]
    pub region: Option<String>,
    /// ISO 3166-1 alpha-2.
    #[serde(default)]
    pub country: Option<String>,
}

/// What is known of who asks; `None` is unknown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asking<'a> {
    /// The visitor's address.
    pub address: Option<IpAddr>,
    /// Where that address is.
    pub country: Option<Country>,
    /// Unix seconds.
    pub now: i64,
    /// Who has shown an identity.
    pub caller: Option<&'a Caller>,
    /// The POP that carries the bytes.
    pub place: Option<&'a PopPlace>,
}

/// What all lists together say; of itself, no.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Every list that is enforced allows, and there is one list at least.
    pub allowed: bool,
    /// A list that only counts says no.
    pub would_refuse: bool,
}

// ---- compiled ------------------------------------------------------------------------------------------------------

/// A bit for each rule of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Mask(Vec<u64>);

impl Mask {
    fn none(words: usize) -> Self {
        Self(vec![0; words])
    }

    fn set(&mut self, rule: usize) {
        self.0[rule / 64] |= 1 << (rule % 64);
    }

    fn clear(&mut self, rule: usize) {
        self.0[rule / 64] &= !(1 << (rule % 64));
    }
}

/// A part of which a rule names values: which rules name each value, and which name none.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named<K> {
    /// In order, each with its words of `masks`.
    values: Vec<K>,
    masks: Vec<u64>,
    silent: Mask,
}

impl<K: Ord> Named<K> {
    /// `None` where no rule names any: nothing is taken away then.
    fn new(rules: Vec<Vec<K>>, words: usize) -> Option<Self> {
        let mut by_value: BTreeMap<K, Mask> = BTreeMap::new();
        let mut silent = Mask::none(words);
        for (rule, values) in rules.into_iter().enumerate() {
            if values.is_empty() {
                silent.set(rule);
            }
            for value in values {
                by_value.entry(value).or_insert_with(|| Mask::none(words)).set(rule);
            }
        }
        let masks = by_value.values().flat_map(|mask| mask.0.iter().copied()).collect();
        let values: Vec<K> = by_value.into_keys().collect();
        (!values.is_empty()).then_some(Self { values, masks, silent })
    }

    fn of(&self, value: &K) -> Option<&[u64]> {
        let words = self.silent.0.len();
        let index = self.values.binary_search(value).ok()?;
        self.masks.get(index * words..(index + 1) * words)
    }
}

/// Names of organisations and principals as numbers, the same in all lists: a caller's are looked up once.
type Names = HashMap<String, u32>;

fn numbered(names: &mut Names, values: Vec<String>) -> Vec<u32> {
    let next = |names: &Names| names.len() as u32;
    let number = |value| {
        let fresh = next(names);
        *names.entry(value).or_insert(fresh)
    };
    values.into_iter().map(number).collect()
}

/// What all lists ask of one caller: numbers of names that a rule has.
struct Known {
    organizations: Shown,
    principals: Shown,
}

/// Names that are its own, and names that may be.
struct Shown {
    own: Vec<u32>,
    perhaps: Vec<u32>,
}

/// A part that many rules may share word for word, and which rules have it.
type Shared<T> = Vec<(T, Mask)>;

fn shared<T: Clone + Eq + std::hash::Hash>(rules: &[Option<T>], words: usize) -> Shared<T> {
    let mut found: Shared<T> = Vec::new();
    let mut known: HashMap<T, usize> = HashMap::new();
    for (rule, part) in rules.iter().enumerate() {
        let Some(part) = part else { continue };
        let index = *known.entry(part.clone()).or_insert_with(|| {
            found.push((part.clone(), Mask::none(words)));
            found.len() - 1
        });
        found[index].1.set(rule);
    }
    found
}

/// The rules of one list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rules {
    allows: Mask,
    denies: Mask,
    nets: Nets,
    countries: Option<Named<Country>>,
    organizations: Option<Named<u32>>,
    principals: Option<Named<u32>>,
    /// Rules with a schedule or a carrier: looked at only while one of them can still speak.
    further: Mask,
    schedules: Shared<Schedule>,
    throughs: Shared<Through>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct List {
    dry_run: bool,
    default: Action,
    /// `None`: something in it cannot be read, so its meaning is unknown and it denies everyone.
    rules: Option<Box<Rules>>,
}

/// Compiled access of one connection. The default denies: there is no list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    lists: Vec<List>,
    names: Names,
}

impl Access {
    /// Compiles; the second part says what could not be read and therefore denies.
    pub fn compile(spec: &AccessSpec) -> (Self, Option<String>) {
        let (mut complaint, mut names) = (None, Names::new());
        let lists = spec.lists.iter().map(|list| compile_list(list, &mut names, &mut complaint)).collect();
        (Self { lists, names }, complaint)
    }

    /// The verdict on who asks.
    pub fn decide(&self, asking: &Asking) -> Verdict {
        self.judge(asking, Doubt::Denies)
    }

    /// Whether somebody of whom this much is known could pass if all else were known, part by part: for who knows less
    /// than another that decides. Never less than what that one allows.
    pub fn might(&self, asking: &Asking) -> bool {
        self.judge(asking, Doubt::Allows).allowed
    }

    fn judge(&self, asking: &Asking, doubt: Doubt) -> Verdict {
        let mut scratch = Scratch::default();
        let known = asking.caller.map(|caller| self.known(caller));
        let mut verdict = Verdict { allowed: !self.lists.is_empty(), would_refuse: false };
        for list in self.lists.iter().filter(|list| !list.allows(asking, known.as_ref(), doubt, &mut scratch)) {
            if list.dry_run {
                verdict.would_refuse = true;
            } else {
                verdict.allowed = false;
            }
        }
        verdict
    }

    fn known(&self, caller: &Caller) -> Known {
        let of = |names: &[String]| names.iter().filter_map(|name| self.names.get(name)).copied().collect();
        let perhaps: Vec<String> = caller.perhaps.iter().map(principal).collect();
        Known {
            organizations: Shown { own: of(&caller.organizations), perhaps: of(&caller.perhaps) },
            principals: Shown { own: of(&caller.principals), perhaps: of(&perhaps) },
        }
    }

    /// The verdict on somebody of whom the address alone is known, if that.
    pub fn allows(&self, visitor: Option<IpAddr>) -> bool {
        self.decide(&Asking { address: visitor, ..Asking::default() }).allowed
    }

    /// The next moment after `now`, in Unix seconds, at which a schedule may change the verdict.
    pub fn edge(&self, now: i64) -> Option<i64> {
        let rules = self.lists.iter().filter_map(|list| list.rules.as_ref());
        rules.flat_map(|rules| &rules.schedules).filter_map(|(schedule, _)| schedule.edge(now)).min()
    }

    /// Whether a rule names countries, so that a visitor's is worth looking up.
    pub fn asks_countries(&self) -> bool {
        self.lists.iter().filter_map(|list| list.rules.as_ref()).any(|rules| rules.countries.is_some())
    }
}

/// Whom it serves that a part of a rule is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    Denies,
    Allows,
}

/// Words of one list at work, kept from list to list.
#[derive(Default)]
struct Scratch {
    /// Rules of which every part so far is known to hold.
    yes: Vec<u64>,
    /// Rules of which no part so far is known to fail.
    maybe: Vec<u64>,
    kept: Vec<u64>,
}

impl Scratch {
    fn narrow<K: Ord>(&mut self, named: Option<&Named<K>>, own: Option<&[K]>, perhaps: &[K]) {
        let Some(named) = named else { return };
        let Some(own) = own else { return each(&mut self.yes, &named.silent.0, |word, silent| word & silent) };
        self.kept.clear();
        self.kept.extend(&named.silent.0);
        for mask in own.iter().filter_map(|value| named.of(value)) {
            each(&mut self.kept, mask, |word, more| word | more);
        }
        each(&mut self.yes, &self.kept, |word, kept| word & kept);
        for mask in perhaps.iter().filter_map(|value| named.of(value)) {
            each(&mut self.kept, mask, |word, more| word | more);
        }
        each(&mut self.maybe, &self.kept, |word, kept| word & kept);
    }

    fn narrow_by(&mut self, named: Option<&Named<u32>>, shown: Option<&Shown>) {
        self.narrow(named, shown.map(|shown| shown.own.as_slice()), shown.map_or(&[], |shown| &shown.perhaps));
    }

    /// Whether a rule of `mask` can still speak, so that more of it is worth looking at.
    fn asks(&self, mask: &Mask) -> bool {
        self.maybe.iter().zip(&mask.0).any(|(maybe, word)| maybe & word != 0)
    }

    fn take_away(&mut self, mask: &Mask, truth: Option<bool>) {
        if truth != Some(true) {
            each(&mut self.yes, &mask.0, |word, gone| word & !gone);
        }
        if truth == Some(false) {
            each(&mut self.maybe, &mask.0, |word, gone| word & !gone);
        }
    }
}

#[inline]
fn each(words: &mut [u64], others: &[u64], change: impl Fn(u64, u64) -> u64) {
    let mut others = others.iter();
    for word in words {
        let Some(other) = others.next() else { return };
        *word = change(*word, *other);
    }
}

impl List {
    fn allows(&self, asking: &Asking, known: Option<&Known>, doubt: Doubt, scratch: &mut Scratch) -> bool {
        let Some(rules) = &self.rules else { return false };
        rules.judge(asking, known, doubt, scratch).unwrap_or(self.default) == Action::Allow
    }
}

impl Rules {
    /// The action of the first rule that speaks.
    fn judge(&self, asking: &Asking, known: Option<&Known>, doubt: Doubt, scratch: &mut Scratch) -> Option<Action> {
        scratch.yes.clear();
        scratch.maybe.clear();
        if let Some(address) = asking.address {
            let own = self.nets.of(address.to_canonical());
            scratch.yes.extend(own);
            scratch.maybe.extend(own);
        } else {
            // Whoever cannot be placed must not slip past a rule that would have denied them.
            scratch.yes.extend(self.nets.anywhere());
            scratch.maybe.extend(self.allows.0.iter().zip(&self.denies.0).map(|(allows, denies)| allows | denies));
        }
        scratch.narrow(self.countries.as_ref(), asking.country.as_ref().map(std::slice::from_ref), &[]);
        scratch.narrow_by(self.organizations.as_ref(), known.map(|known| &known.organizations));
        scratch.narrow_by(self.principals.as_ref(), known.map(|known| &known.principals));
        if scratch.asks(&self.further) {
            for (schedule, mask) in &self.schedules {
                if scratch.asks(mask) {
                    scratch.take_away(mask, schedule.speaks(asking.now));
                }
            }
            for (through, mask) in &self.throughs {
                if scratch.asks(mask) {
                    scratch.take_away(mask, through.carries(asking.place));
                }
            }
        }
        for (word, (yes, maybe)) in scratch.yes.iter().zip(&scratch.maybe).enumerate() {
            let (sure, unsure) = match doubt {
                Doubt::Denies => (&self.allows, &self.denies),
                Doubt::Allows => (&self.denies, &self.allows),
            };
            let speaks = (yes & sure.0[word]) | (maybe & unsure.0[word]);
            if speaks != 0 {
                let first = 1_u64 << speaks.trailing_zeros();
                return Some(if self.allows.0[word] & first != 0 { Action::Allow } else { Action::Deny });
            }
        }
        None
    }
}

// ---- compiling -----------------------------------------------------------------------------------------------------

fn compile_list(spec: &ListSpec, names: &mut Names, complaint: &mut Option<String>) -> List {
    let (default, rules) = match (spec.rules.is_empty(), spec.clauses.is_empty()) {
        (false, false) => (spec.default, Err("rules beside clauses".to_owned())),
        (true, false) if spec.default == Action::Allow => {
            (spec.default, Err("a default that allows, beside clauses".to_owned()))
        }
        (true, false) => (spec.otherwise, compile_rules(spec.clauses.clone(), names)),
        _ => (spec.default, compile_rules(spec.rules.iter().cloned().map(ClauseSpec::from).collect(), names)),
    };
    let rules = rules.map_err(|error| complain(complaint, &error)).ok().map(Box::new);
    List { dry_run: spec.dry_run, default, rules }
}

fn complain(complaint: &mut Option<String>, error: &str) {
    complaint.get_or_insert_with(|| format!("unreadable access, {error}: its list denies everyone"));
}

fn compile_rules(clauses: Vec<ClauseSpec>, names: &mut Names) -> Result<Rules, String> {
    let words = clauses.len().div_ceil(64).max(1);
    let (mut allows, mut denies) = (Mask::none(words), Mask::none(words));
    let (mut nets, mut countries) = (Vec::new(), Vec::new());
    let (mut organizations, mut principals) = (Vec::new(), Vec::new());
    let (mut schedules, mut throughs, mut further) = (Vec::new(), Vec::new(), Mask::none(words));
    for (rule, clause) in clauses.into_iter().enumerate() {
        if clause.action == Action::Allow {
            allows.set(rule);
        } else {
            denies.set(rule);
        }
        let read = |text: &String| parse_net(text).ok_or_else(|| format!("CIDR {text:?}"));
        nets.push(clause.cidrs.iter().map(read).collect::<Result<Vec<_>, _>>()?);
        let read = |text: &String| country(text).ok_or_else(|| format!("country {text:?}"));
        countries.push(clause.countries.iter().map(read).collect::<Result<Vec<_>, _>>()?);
        if let Some(through) = &clause.through {
            through.countries.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        }
        if clause.schedule.as_ref().is_some_and(|schedule| !schedule.is_readable()) {
            return Err("schedule".to_owned());
        }
        if clause.schedule.is_some() || clause.through.is_some() {
            further.set(rule);
        }
        organizations.push(numbered(names, clause.organizations));
        principals.push(numbered(names, clause.principals));
        schedules.push(clause.schedule);
        throughs.push(clause.through);
    }
    Ok(Rules {
        nets: Nets::new(&nets, words).ok_or("too many networks")?,
        allows,
        denies,
        countries: Named::new(countries, words),
        organizations: Named::new(organizations, words),
        principals: Named::new(principals, words),
        further,
        schedules: shared(&schedules, words),
        throughs: shared(&throughs, words),
    })
}

/// A CIDR or a bare address, without host bits. IPv4 in IPv6 clothes (`::ffff:0:0/96`) becomes IPv4, as visitors'
/// addresses do.
pub fn parse_net(text: &str) -> Option<IpNet> {
    let net = match text.split_once('/') {
        Some((_, bits)) if bits.len() > 1 && bits.starts_with('0') => return None,
        Some(_) => text.parse::<IpNet>().ok().filter(|net| net.trunc() == *net)?,
        None => text.parse::<IpAddr>().ok()?.into(),
    };
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

//! Who may pass at a route: visitors by its lists; callers by being named, and by what policies say of callers.

use std::collections::HashMap;

use super::entries::{CallerSpec, MembershipSpec, RouteSpec};
use crate::access::{Access, Caller};
use crate::proxy::SignedIn;

/// A route's rules, compiled once per apply.
pub(super) struct Guard {
    visitors: Access,
    /// `None`: no policy speaks of callers.
    callers: Option<Access>,
    /// By the identity of their connector.
    named: HashMap<String, Caller>,
    /// Organisations of users by name, and of groups.
    of_users: Organizations,
    of_groups: Organizations,
}

type Organizations = HashMap<String, Vec<String>>;

fn organizations(memberships: &[MembershipSpec], members: impl Fn(&MembershipSpec) -> &Vec<String>) -> Organizations {
    let mut found = Organizations::new();
    for one in memberships {
        for member in members(one) {
            found.entry(member.clone()).or_default().push(one.organization.clone());
        }
    }
    found
}

impl Guard {
    /// Compiles; the second part says what could not be read and therefore denies.
    pub(super) fn new(spec: &RouteSpec) -> (Self, Option<String>) {
        let (visitors, complaint) = Access::compile(&spec.access);
        let callers = spec.caller_access.as_ref().map(Access::compile);
        let (callers, of_callers) = callers.map_or((None, None), |(access, complaint)| (Some(access), complaint));
        let named = spec.callers.iter().chain(&spec.conditional).map(|one| (one.identity.clone(), one.caller()));
        let named = named.collect();
        let of_users = organizations(&spec.memberships, |one| &one.users);
        let of_groups = organizations(&spec.memberships, |one| &one.groups);
        (Self { visitors, callers, named, of_users, of_groups }, complaint.or(of_callers))
    }

    /// When a schedule may next change what is said here, after `now` in Unix seconds.
    pub(super) fn edge(&self, now: i64) -> Option<i64> {
        let of_callers = self.callers.as_ref().and_then(|access| access.edge(now));
        self.visitors.edge(now).into_iter().chain(of_callers).min()
    }

    /// Whose a connector is, if the control plane has named it.
    pub(super) fn caller(&self, connector: &str) -> Option<&Caller> {
        self.named.get(connector)
    }

    /// Connectors that are named.
    pub(super) fn connectors(&self) -> impl Iterator<Item = &String> {
        self.named.keys()
    }

    /// The lists that judge visitors.
    pub(super) fn of_visitors(&self) -> &Access {
        &self.visitors
    }

    /// The lists that judge callers; `None` where there are none.
    pub(super) fn of_callers(&self) -> Option<&Access> {
        self.callers.as_ref()
    }

    /// A visitor who has signed in, as rules know it: the organisations are this table's word. Whose groups are not known
    /// may be of any that has some.
    pub(super) fn person(&self, signed_in: &SignedIn) -> Caller {
        let by_name = self.of_users.get(&signed_in.name);
        let groups = signed_in.groups.as_deref().unwrap_or_default();
        let by_groups = groups.iter().filter_map(|group| self.of_groups.get(group));
        let organizations = by_name.into_iter().chain(by_groups).flatten().cloned().collect();
        let perhaps =
            if signed_in.groups.is_none() { self.of_groups.values().flatten().cloned().collect() } else { vec![] };
        Caller::new("user", &signed_in.name, organizations).perhaps_of(perhaps)
    }
}

impl CallerSpec {
    fn caller(&self) -> Caller {
        Caller::new(&self.kind, &self.name, self.organizations.clone())
    }
}

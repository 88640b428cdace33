//! Who may pass at a route: visitors by its lists; callers by being named, and by what policies say of callers.

use std::collections::HashMap;

use super::entries::{CallerSpec, RouteSpec};
use crate::access::{Access, Caller};

/// A route's rules, compiled once per apply.
pub(super) struct Guard {
    visitors: Access,
    /// `None`: no policy speaks of callers.
    callers: Option<Access>,
    /// By the identity of their connector.
    named: HashMap<String, Caller>,
}

impl Guard {
    /// Compiles; the second part says what could not be read and therefore denies.
    pub(super) fn new(spec: &RouteSpec) -> (Self, Option<String>) {
        let (visitors, complaint) = Access::compile(&spec.access);
        let callers = spec.caller_access.as_ref().map(Access::compile);
        let (callers, of_callers) = callers.map_or((None, None), |(access, complaint)| (Some(access), complaint));
        let named = spec.callers.iter().chain(&spec.conditional).map(|one| (one.identity.clone(), one.caller()));
        let named = named.collect();
        (Self { visitors, callers, named }, complaint.or(of_callers))
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

    /// The lists that judge a visitor, or a caller; `None` where there are none for callers.
    pub(super) fn lists(&self, caller: Option<&Caller>) -> Option<&Access> {
        if caller.is_some() { self.callers.as_ref() } else { Some(&self.visitors) }
    }
}

impl CallerSpec {
    fn caller(&self) -> Caller {
        Caller::new(&self.kind, &self.name, self.organizations.clone())
    }
}

//! The ways to one POP that the host allows, in its order, and which of them is taken next. Pure.
//!
//! A way that worked is given some tries before another one is looked for: a POP that restarts must not move its agents to
//! a lesser way. From a first hop that was reached only ways through the same hop are tried: what a proxy refuses is not
//! gone around. Only where a hop cannot be reached at all another one is.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::through::Way;

/// Misses in a row until a way that worked is left.
const TRIES: u32 = 3;

/// What the host says about one POP.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Ways {
    /// In the order of preference, never empty where it counts.
    ways: Vec<Way>,
    /// Which one is tried first: it worked last.
    #[serde(default)]
    first: usize,
}

impl Default for Ways {
    fn default() -> Self {
        Self { ways: vec![Way::default()], first: 0 }
    }
}

/// How a try ended that did not bring a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Miss {
    /// The first hop could not be reached.
    Unreached,
    /// It was, but no POP proved itself behind it.
    Unproven,
    /// A proxy said no.
    Refused,
}

/// When the next try is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// At once, in another way.
    Now,
    /// After the usual wait.
    Later,
}

pub(super) struct Course {
    ways: Ways,
    at: usize,
    tried: BTreeSet<usize>,
    worked: bool,
    misses: u32,
}

impl Course {
    pub(super) fn new(ways: Ways) -> Self {
        let ways = if ways.ways.is_empty() { Ways::default() } else { ways };
        let at = ways.first.min(ways.ways.len() - 1);
        Self { ways, at, tried: BTreeSet::new(), worked: false, misses: 0 }
    }

    /// The host's word is another one now. Tells whether it is.
    pub(super) fn revise(&mut self, ways: Ways) -> bool {
        if self.ways == ways {
            return false;
        }
        *self = Self::new(ways);
        true
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn way(&self) -> &Way {
        &self.ways.ways[self.at]
    }

    /// A POP proved itself at the end of this way.
    pub(super) fn hit(&mut self) {
        (self.worked, self.misses) = (true, 0);
        self.tried.clear();
    }

    pub(super) fn miss(&mut self, miss: Miss) -> Next {
        self.misses += 1;
        if self.worked && self.misses < TRIES {
            return Next::Later;
        }
        self.worked = false;
        let here = self.way().proxy.clone();
        let ways = self.ways.ways.iter().enumerate();
        let useless = |index, way: &Way| index == self.at || (miss == Miss::Unreached && way.proxy == here);
        self.tried.extend(ways.clone().filter(|(index, way)| useless(*index, way)).map(|(index, _)| index));
        let fits = |way: &Way| match miss {
            Miss::Refused => false,
            Miss::Unproven => way.proxy == here,
            Miss::Unreached => way.proxy != here,
        };
        let mut left = ways.filter(|(index, way)| !self.tried.contains(index) && fits(way)).map(|(index, _)| index);
        if let Some(index) = left.next() {
            self.at = index;
            return Next::Now;
        }
        self.tried.clear();
        self.at = self.ways.first.min(self.ways.ways.len() - 1);
        Next::Later
    }

    /// A way that the host prefers to the present one: from the same first hop if there is one, else the best.
    pub(super) fn better(&self) -> Option<usize> {
        let same = |index: &usize| self.ways.ways[*index].proxy == self.way().proxy;
        (0..self.at).find(same).or((self.at > 0).then_some(0))
    }

    pub(super) fn way_at(&self, index: usize) -> &Way {
        &self.ways.ways[index.min(self.ways.ways.len() - 1)]
    }

    /// From now on this one is taken first.
    pub(super) fn take(&mut self, index: usize) {
        *self = Self::new(Ways { first: index, ..self.ways.clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::through::proxy::{Proxy, ProxyKind};

    fn proxied(web_socket: bool) -> Way {
        let proxy = Proxy { kind: ProxyKind::Connect, host: "proxy".into(), port: 1, credentials: None };
        Way { proxy: Some(proxy), web_socket, quic: false }
    }

    fn direct(web_socket: bool) -> Way {
        Way { proxy: None, web_socket, quic: false }
    }

    fn by_variable(first: usize) -> Course {
        Course::new(Ways { ways: vec![proxied(false), proxied(true), direct(false), direct(true)], first })
    }

    #[test]
    fn behind_a_proxy_that_answers_only_its_own_ways_are_tried() {
        let mut course = by_variable(0);
        assert_eq!(course.miss(Miss::Unproven), Next::Now);
        assert_eq!(course.way(), &proxied(true));
        assert_eq!(course.miss(Miss::Unproven), Next::Later);
        assert_eq!(course.way(), &proxied(false));
    }

    #[test]
    fn a_proxy_that_says_no_is_not_gone_around() {
        let mut course = by_variable(0);
        assert_eq!(course.miss(Miss::Refused), Next::Later);
        assert_eq!(course.way(), &proxied(false));
    }

    #[test]
    fn without_the_proxy_of_another_network_the_straight_way_is_taken() {
        let mut course = by_variable(0);
        assert_eq!(course.miss(Miss::Unreached), Next::Now);
        assert_eq!(course.way(), &direct(false));
        assert_eq!(course.miss(Miss::Unproven), Next::Now);
        assert_eq!(course.way(), &direct(true));
        assert_eq!(course.miss(Miss::Unreached), Next::Later);
        assert_eq!(course.way(), &proxied(false));
    }

    #[test]
    fn what_worked_is_tried_some_times_before_a_lesser_way_is() {
        let mut course = Course::new(Ways { ways: vec![direct(false), direct(true)], first: 0 });
        course.hit();
        assert_eq!((course.miss(Miss::Unproven), course.miss(Miss::Unproven)), (Next::Later, Next::Later));
        assert_eq!(course.way(), &direct(false));
        assert_eq!(course.miss(Miss::Unproven), Next::Now);
        assert_eq!(course.way(), &direct(true));
    }

    #[test]
    fn the_remembered_way_comes_first_and_the_best_one_is_better() {
        let mut course = by_variable(1);
        assert_eq!((course.way(), course.better()), (&proxied(true), Some(0)));
        course.hit();
        course.take(0);
        assert_eq!((course.way(), course.better()), (&proxied(false), None));
        assert_eq!(by_variable(3).better(), Some(2), "from the same first hop before others");
        assert_eq!(by_variable(2).better(), Some(0));
        assert!(!Course::new(Ways::default()).revise(Ways::default()));
        assert!(course.revise(Ways::default()));
    }
}

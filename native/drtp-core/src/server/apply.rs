//! A delta of the RouteTable comes into force: endpoints open, close and are re-judged, and live visitors with them.

use super::entries::{Entry, Mode, Place, RouteSpec};
use super::guard::Guard;
use super::listener::Bound;
use super::{Delta, Denied, Door, Entrance, Route, Server};
use crate::access::parse_net;
use crate::driver::brake::BUCKETS_MAX;
use crate::driver::listener_token;
use crate::driver::table::unix_s;
use crate::event::Event;
use crate::identity::{DenyList, Role};
use crate::message::{GoAwayCode, ResetCode};
use crate::report::{ApplyOutcome, EntryOutcome};

impl Server {
    /// Idempotent; one bad entry never stops another.
    pub(super) fn apply(&mut self, delta: &[u8]) -> ApplyOutcome {
        let delta: Delta = match serde_json::from_slice(delta) {
            Ok(delta) => delta,
            Err(error) => return ApplyOutcome { error: Some(error.to_string()), ..ApplyOutcome::default() },
        };
        let mut outcome = ApplyOutcome::default();
        let known = self.by_key.keys().chain(self.trust_keys.keys()).chain(self.deny_keys.keys());
        let gone: Vec<String> = if delta.whole {
            known.filter(|key| !delta.upsert.contains_key(*key)).cloned().collect()
        } else {
            delta.remove.clone()
        };
        for key in gone.iter().filter(|key| !delta.upsert.contains_key(*key)) {
            self.remove(key);
        }
        for (key, value) in delta.upsert {
            let result = match serde_json::from_value::<Entry>(value) {
                Ok(Entry::Route(spec)) => self.upsert_route(&key, *spec),
                Ok(Entry::Trust { gateways }) => {
                    self.trust_keys.insert(key.clone(), gateways.into_iter().collect());
                    EntryOutcome { ok: true, ..EntryOutcome::default() }
                }
                Ok(Entry::Deny { minimum_generation, keys, people }) => {
                    // A certificate does not say its generation: whoever wants one held must not believe that it is.
                    let held = minimum_generation.values().any(|least| *least >= 0);
                    let complaint = held.then(|| {
                        "minimum generations of 0 and more are the authority's to hold, not a POP's".to_owned()
                    });
                    let list = DenyList::new(minimum_generation, keys);
                    self.deny_keys.insert(key.clone(), Denied { list, people });
                    EntryOutcome { ok: true, error: complaint, ..EntryOutcome::default() }
                }
                // What cannot be read must not go on by its old meaning: it denies. A list of the denied that cannot be
                // read denies whom it denied before.
                Err(error) => {
                    if !self.deny_keys.contains_key(&key) {
                        self.remove(&key);
                    }
                    EntryOutcome { error: Some(error.to_string()), ..EntryOutcome::default() }
                }
            };
            outcome.entries.insert(key, result);
        }
        self.gateways = self.trust_keys.values().flatten().cloned().collect();
        self.denied = DenyList::merged(self.deny_keys.values().map(|one| &one.list));
        self.shut_out = self.deny_keys.values().flat_map(|one| &one.people).cloned().collect();
        self.cut();
        outcome
    }

    fn remove(&mut self, key: &str) {
        self.trust_keys.remove(key);
        self.deny_keys.remove(key);
        let Some(index) = self.by_key.remove(key) else { return };
        let route = self.routes.remove(index);
        for entrance in route.entrances {
            if let Some(door) = entrance.door {
                self.doors.try_remove(door);
            }
            if let Place::Unix(path) = &entrance.place {
                // A path that is gone already is what was wanted.
                let _ = std::fs::remove_file(path);
            }
        }
        for relay in route.visitors {
            self.core.table.end_relay(relay, Err(ResetCode::NoRoute));
        }
        if let Some(group) = route.group {
            self.core.table.brakes.forget(group);
        }
        self.end_preambles(index);
    }

    /// Visitors that had not yet shown their header when their route changed: the slot may get another tenant.
    fn end_preambles(&mut self, route: usize) {
        let waiting = self.core.table.relays.iter().filter(|(_, r)| r.owner == route && !r.has_stream() && !r.dead);
        for relay in waiting.map(|(index, _)| index).collect::<Vec<_>>() {
            self.core.table.end_relay(relay, Err(ResetCode::NoRoute));
            self.core.table.relays[relay].owner = usize::MAX;
        }
    }

    fn upsert_route(&mut self, key: &str, spec: RouteSpec) -> EntryOutcome {
        let (guard, mut complaint) = Guard::new(&spec);
        let nets: Vec<Option<ipnet::IpNet>> = spec.plain_from.iter().map(|text| parse_net(text)).collect();
        if nets.iter().any(Option::is_none) {
            complaint.get_or_insert_with(|| "unreadable plainFrom: that part declares nobody".to_owned());
        }
        let plain_from = nets.into_iter().flatten().collect();
        let places = match spec.bind.places(spec.mode) {
            Ok(places) if spec.shares.len() < BUCKETS_MAX => places,
            Ok(_) => {
                self.remove(key);
                let error = Some("more shares than a project and its organisation have".to_owned());
                return EntryOutcome { error, ..EntryOutcome::default() };
            }
            Err(error) => {
                self.remove(key);
                return EntryOutcome { error: Some(error), ..EntryOutcome::default() };
            }
        };
        let moved = self.by_key.get(key).is_some_and(|index| {
            let old = &self.routes[*index];
            old.spec.bind != spec.bind || old.spec.mode != spec.mode || old.spec.connection != spec.connection
        });
        if moved {
            self.remove(key);
        }
        let index = if let Some(index) = self.by_key.get(key).copied() {
            let route = &mut self.routes[index];
            route.access_edge = guard.edge(unix_s());
            (route.spec, route.guard, route.plain_from) = (spec, guard, plain_from);
            index
        } else {
            let index = self.routes.insert(Route::new(key, spec, guard, plain_from, places, self.core.now()));
            self.by_key.insert(key.to_owned(), index);
            index
        };
        self.limit_bytes(index);
        let (bound, without) = (self.open_doors(index), self.local_complaint.take());
        let route = &self.routes[index];
        EntryOutcome {
            ok: bound.is_ok(),
            error: bound.err().or(complaint).or(without),
            bound: route.bound(),
            path: route.path(),
        }
    }

    /// Live visitors are held to the rates in force from now on, and to none that is not.
    fn limit_bytes(&mut self, index: usize) {
        let (route, table) = (&mut self.routes[index], &mut self.core.table);
        let limits = route.spec.byte_limits();
        if route.group.is_none() && limits.is_none() {
            return;
        }
        let known = route.group;
        let group = *route.group.get_or_insert_with(|| table.brakes.group());
        table.set_limits(group, &limits);
        if known.is_none() {
            route.visitors.iter().for_each(|relay| table.limit(*relay, group));
        }
    }

    /// Re-judges every session and every live visitor by what is in force now, and resets who may not stay.
    fn cut(&mut self) {
        self.by_agent.clear();
        self.pools.settle(self.routes.iter().map(|(_, route)| route), self.core.now());
        self.route_of = self.routes.iter().map(|(index, route)| (route.spec.connection.clone(), index)).collect();
        self.by_caller = self.routes.iter().flat_map(|(_, route)| route.guard.connectors()).cloned().collect();
        for (index, route) in &self.routes {
            for uid in &route.spec.agents {
                self.by_agent.entry(uid.clone()).or_default().push(index);
            }
        }
        for (uid, session) in self.judged_sessions() {
            let peer = self.core.table.sessions.get(session).and_then(|session| session.peer.as_ref());
            let of_gateway = peer.is_some_and(|peer| peer.role == Role::Gateway);
            let of_connector = peer.is_some_and(|peer| peer.role == Role::Connector);
            let reason = if peer.is_some_and(|peer| self.denied.holds(peer)) {
                Some((GoAwayCode::Denied, "this identity was revoked"))
            } else if of_gateway {
                (!self.trusts(&uid)).then_some((GoAwayCode::UnknownAgent, "this gateway is not trusted here any more"))
            } else if of_connector {
                let reason = "no service here is for this caller any more";
                (!self.by_caller.contains(&uid)).then_some((GoAwayCode::UnknownAgent, reason))
            } else if !self.by_agent.contains_key(&uid) {
                Some((GoAwayCode::UnknownAgent, "no connection here lists this agent any more"))
            } else {
                None
            };
            if let Some((code, reason)) = reason {
                if let Some(machine) = self.core.table.session(session) {
                    machine.refuse(code, super::UNKNOWN_RETRY_MS, reason);
                }
                self.session_gone(session, reason);
            }
        }
        for index in self.routes.iter().map(|(index, _)| index).collect::<Vec<_>>() {
            self.cut_visitors(index);
        }
        let uids: Vec<String> = self.by_agent.keys().cloned().collect();
        for uid in uids {
            self.refresh_doors(&uid);
        }
    }

    fn may_stay(&self, route: &Route, relay: usize) -> bool {
        let Some(state) = self.core.table.relays.get(relay) else { return false };
        let agent = self.core.table.sessions.get(state.session).and_then(|sess| sess.peer.as_ref());
        // Without a session it has all its bytes, and its agent has gone in good order.
        let whole = state.session == usize::MAX;
        let agent_stays = whole || agent.is_some_and(|peer| route.spec.agents.contains(&peer.uid));
        let brought = if state.mate.is_some() {
            self.caller_stays(route, state)
        } else {
            let visitor = state.who.address().map(|address| address.ip());
            let bringer = state.bringer.as_deref();
            let gateway_stays = bringer.is_none_or(|gateway| self.believes(gateway));
            let signed_in = bringer.and_then(|gateway| gateway.signed_in.as_ref());
            gateway_stays && self.visitor_verdict(route, visitor, signed_in).allowed
        };
        route.spec.enabled && brought && agent_stays
    }

    /// Routes of which a schedule has begun or ended: their live visitors are held to what is in force now.
    pub(super) fn turn_with_the_clock(&mut self) {
        let now = unix_s();
        let turned = self.routes.iter().filter(|(_, route)| route.access_edge.is_some_and(|edge| edge <= now));
        for index in turned.map(|(index, _)| index).collect::<Vec<_>>() {
            self.routes[index].access_edge = self.routes[index].guard.edge(now);
            self.cut_visitors(index);
        }
    }

    fn cut_visitors(&mut self, index: usize) {
        let route = &self.routes[index];
        let over: Vec<usize> = route.visitors.iter().copied().filter(|relay| !self.may_stay(route, *relay)).collect();
        for relay in over {
            self.core.table.end_relay(relay, Err(ResetCode::Denied));
        }
    }

    // ---- doors -----------------------------------------------------------------------------------------------------

    /// All endpoints of one agent open or close as its session comes and goes.
    pub(super) fn refresh_doors(&mut self, uid: &str) {
        for route in self.by_agent.get(uid).cloned().unwrap_or_default() {
            if let Err(message) = self.open_doors(route) {
                self.door_failed(route, message);
            }
        }
    }

    fn door_failed(&self, index: usize, message: String) {
        let route = &self.routes[index];
        let (key, connection) = (route.key.clone(), route.spec.connection.clone());
        self.emit(Event::RouteFailed { key, connection, message });
    }

    /// Endpoints that could not be bound are tried again.
    pub(super) fn retry_doors(&mut self) {
        let shut = |route: &Route| route.entrances.iter().any(Entrance::is_shut);
        let routes: Vec<usize> = self.routes.iter().filter(|(_, r)| shut(r)).map(|(index, _)| index).collect();
        for route in routes {
            // Reported when it first failed; its success is an event of its own.
            let _ = self.open_doors(route);
        }
    }

    /// Brings an endpoint to what it should be. A Unix socket that cannot be had where there is an address beside it is
    /// no failure: gateways take the address.
    fn open_doors(&mut self, index: usize) -> Result<(), String> {
        let before = (self.routes[index].bound(), self.routes[index].path());
        let mut failure = None;
        for number in 0..self.routes[index].entrances.len() {
            let spare = number > 0;
            match self.open_door(index, number) {
                Err(message) if spare => drop(self.local_complaint.replace(message)),
                Err(message) => failure = Some(message),
                Ok(()) => {}
            }
        }
        let route = &self.routes[index];
        let now = (route.bound(), route.path());
        if now != before {
            let (key, connection) = (route.key.clone(), route.spec.connection.clone());
            let (bound, path) = (now.0.unwrap_or_default(), now.1);
            self.emit(Event::RouteBound { key, connection, bound, path });
        }
        failure.map_or(Ok(()), Err)
    }

    /// One entrance: bound always; listening always (behind TLS), or while an agent serves.
    fn open_door(&mut self, index: usize, number: usize) -> Result<(), String> {
        let serving = self.is_served(index) && self.draining.is_none();
        let route = &mut self.routes[index];
        let clear = route.spec.mode == Mode::Plain;
        let entrance = &mut route.entrances[number];
        let listening = serving || matches!(entrance.place, Place::Ip(_)) && !clear;
        if !listening {
            if let Some(door) = entrance.door.take() {
                self.doors.try_remove(door);
            }
        }
        if entrance.door.is_some() {
            return Ok(());
        }
        if entrance.deaf.is_none() {
            let bound = Bound::bind(&entrance.place).map_err(|error| format!("cannot bind: {error}"))?;
            entrance.place = bound.place.clone();
            entrance.bound = Some(match &bound.place {
                Place::Ip(address) => address.to_string(),
                Place::Unix(path) => path.display().to_string(),
            });
            entrance.deaf = Some(bound);
        }
        if listening {
            if let Some(deaf) = entrance.deaf.take() {
                let slot = self.doors.vacant_entry();
                let token = listener_token(slot.key());
                let listener = deaf.listen(self.core.poll.registry(), token);
                let listener = listener.map_err(|error| format!("cannot listen: {error}"))?;
                entrance.door = Some(slot.key());
                slot.insert(Door::Endpoint(index, listener));
            }
        }
        Ok(())
    }
}

//! Policies at a POP: by country, by the clock, by the carrier, and those that only count.

mod world;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use drtp_core::access::{Countries, country};
use drtp_core::{CoreLimits, TunnelServer};
use serde_json::{Value, json};
use world::*;

fn countries() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/countries.mmdb")
}

/// A world whose POP knows countries: this machine is in Germany.
fn world_with(access: &Value) -> World {
    let change = json!({"access": {"lists": [{"default": "Allow"}, access]}});
    let authority = Authority::new();
    let mut config = server_config(&authority, CoreLimits::default());
    config.country_database = Some(countries());
    let pop = TunnelServer::new(config).unwrap();
    World::on(pop, authority, service(echo), |entry| with(entry, change), |agent| agent, |planned| planned)
}

fn passes(visitor: &mut TcpStream) {
    visitor.write_all(b"x").unwrap();
    visitor.read_exact(&mut [0]).unwrap();
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn an_address_is_in_the_country_that_the_file_says() {
    let found = Countries::open(&countries()).unwrap();
    let of = |address: &str| found.of(address.parse::<IpAddr>().unwrap());
    assert_eq!((of("203.0.113.9"), of("::ffff:203.0.113.9")), (country("DE"), country("DE")));
    assert_eq!((of("198.51.100.1"), of("2001:db8::1")), (country("FR"), country("DE")));
    assert_eq!((of("198.51.100.200"), of("2001:db9::1")), (None, None));
}

#[test]
fn what_is_no_database_is_refused_at_the_start() {
    assert!(Countries::open(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).is_err());
    assert!(Countries::open(&PathBuf::from("/nowhere.mmdb")).is_err());
}

#[test]
fn a_visitor_passes_by_their_country() {
    passes(&mut world_with(&json!({"clauses": [{"action": "Allow", "countries": ["DE"]}]})).visit());
    visit_in_vain(world_with(&json!({"clauses": [{"action": "Allow", "countries": ["FR"]}]})).endpoint);
}

#[test]
fn without_a_database_nobody_is_in_a_country() {
    let access = json!({"access": {"lists": [{"clauses": [{"action": "Allow", "countries": ["DE"]}]}]}});
    let world = World::build(service(echo), |entry| with(entry, access), |agent| agent, |server| server);
    visit_in_vain(world.endpoint);
}

#[test]
fn a_pop_that_may_not_carry_the_bytes_carries_none() {
    let german = json!({"clauses": [{"action": "Allow", "through": {"countries": ["DE"]}}]});
    let world = world_with(&german);
    visit_in_vain(world.endpoint);
    let access = json!({"lists": [{"default": "Allow"}, german]});
    let place = json!({"pop": "fra", "country": "DE"});
    let here = with(route(world.endpoint.port()), json!({"access": access, "place": place}));
    assert_ok(&world.pop.apply(&upsert("route/c-1", &here)));
    passes(&mut world.visit());
}

#[test]
fn a_schedule_that_ends_cuts_live_streams_and_lets_nobody_in() {
    let world = world_with(&json!({"clauses": [{"action": "Allow", "schedule": {"notAfter": unix_s() + 3}}]}));
    let mut visitor = world.visit();
    passes(&mut visitor);
    let began = Instant::now();
    read_to_reset(&mut visitor);
    assert!(began.elapsed() < Duration::from_secs(6));
    visit_in_vain(world.endpoint);
}

#[test]
fn a_policy_that_only_counts_refuses_nobody_and_is_counted() {
    let world = world_with(&json!({"dryRun": true}));
    passes(&mut world.visit());
    until_stats("the count", || world.pop.stats(), |s| s.connections[0].would_refuse_total == 1);
    assert_eq!(world.pop.stats().connections[0].denied_total, 0);
}

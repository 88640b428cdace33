//! Visitors who have signed in at a gateway: rules that name people and organisations hold at the POP too, for live ones too.

mod world;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;
use world::*;

const ANNA: &str = r#"{"name": "anna", "groups": []}"#;
const BOB: &str = r#"{"name": "bob", "groups": ["https://idp#sales"]}"#;

/// PROXY v2 of gateway `g-1`, which says that this person has signed in.
fn header(signed_in: &str) -> Vec<u8> {
    proxy_v2([203, 0, 113, 9], &[(0xe1, "s-1"), (0xe2, "g-1"), (0xe4, signed_in)])
}

struct Place {
    world: World,
    path: PathBuf,
    _folder: TempDir,
}

impl Place {
    /// For people of `partner`: anna by name, and whoever is in sales; from one country and POP only, where `more` says so.
    fn new(more: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c-1.sock");
        let place = path.clone();
        let world = World::build(
            service(echo),
            |mut route| {
                route["bind"]["path"] = json!(place);
                with(with(route, json!({"mode": "unix"})), with(of_partner(&["anna"]), more))
            },
            |config| config,
            |service| service,
        );
        Self { world, path, _folder: folder }
    }

    fn visit(&self, signed_in: &str) -> UnixStream {
        let mut stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&header(signed_in)).unwrap();
        stream
    }

    fn apply(&self, change: Value) {
        let mut entry = with(route(self.world.endpoint.port()), json!({"mode": "unix"}));
        entry["bind"]["path"] = json!(self.path);
        assert_ok(&self.world.pop.apply(&upsert("route/c-1", &with(entry, change))));
    }
}

fn of_partner(users: &[&str]) -> Value {
    json!({
        "access": {"lists": [{"clauses": [{"action": "Allow", "organizations": ["partner"]}]}]},
        "memberships": [{"organization": "partner", "users": users, "groups": ["https://idp#sales"]}],
    })
}

fn passes(stream: &mut UnixStream) -> bool {
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()
}

#[test]
fn those_whom_the_table_knows_as_members_pass_and_nobody_else() {
    let place = Place::new(json!({}));
    assert!(passes(&mut place.visit(ANNA)), "by name");
    assert!(passes(&mut place.visit(BOB)), "by a group");
    for stranger in ["", r#"{"name": "eve"}"#, r#"{"name": "eve", "groups": ["partner", "https://idp#buyers"]}"#] {
        assert!(!passes(&mut place.visit(stranger)), "{stranger}");
    }
}

#[test]
fn a_live_visitor_who_is_a_member_no_more_is_cut() {
    let place = Place::new(json!({}));
    let (mut anna, mut bob) = (place.visit(ANNA), place.visit(BOB));
    assert!(passes(&mut anna) && passes(&mut bob));
    place.apply(of_partner(&[]));
    assert!(!passes(&mut anna));
    assert!(passes(&mut bob));
}

#[test]
fn somebody_who_is_shut_out_is_cut_and_does_not_come_back() {
    let place = Place::new(json!({"access": {"lists": [{"default": "Allow"}]}}));
    let (mut anna, mut stranger) = (place.visit(ANNA), place.visit(""));
    assert!(passes(&mut anna) && passes(&mut stranger));
    let deny = json!({"type": "deny", "minimumGeneration": {}, "people": ["anna"]});
    assert_ok(&place.world.pop.apply(&upsert("deny", &deny)));
    assert!(!passes(&mut anna));
    assert!(!passes(&mut place.visit(ANNA)));
    assert!(passes(&mut stranger) && passes(&mut place.visit(BOB)));
}

#[test]
fn whose_groups_are_not_known_is_refused_where_a_group_would_be() {
    let rival_first = json!([
        {"action": "Deny", "organizations": ["rival"]}, {"action": "Allow", "organizations": ["partner"]},
    ]);
    let member = |organization: &str, users: Value, groups: Value| json!({"organization": organization, "users": users, "groups": groups});
    let place = Place::new(json!({
        "access": {"lists": [{"clauses": rival_first}]},
        "memberships": [member("partner", json!(["anna"]), json!([])), member("rival", json!([]), json!(["g"]))],
    }));
    assert!(passes(&mut place.visit(r#"{"name": "anna", "groups": []}"#)));
    assert!(!passes(&mut place.visit(r#"{"name": "anna", "groups": ["g"]}"#)));
    assert!(!passes(&mut place.visit(r#"{"name": "anna", "groups": null}"#)));
    place.apply(json!({
        "access": {"lists": [{"clauses": rival_first}]},
        "memberships": [member("partner", json!(["anna"]), json!([])), member("rival", json!(["eve"]), json!([]))],
    }));
    assert!(passes(&mut place.visit(r#"{"name": "anna", "groups": null}"#)), "nobody is of it by a group");
}

#[test]
fn a_visit_ends_with_what_was_shown_for_it() {
    let place = Place::new(json!({}));
    let anna_until = |ends: i64| format!(r#"{{"name": "anna", "until": {ends}}}"#);
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
    assert!(!passes(&mut place.visit(&anna_until(now))), "it has ended");
    let (mut short, mut long) = (place.visit(&anna_until(now + 3)), place.visit(&anna_until(now + 600)));
    assert!(passes(&mut short) && passes(&mut long));
    assert!(short.read(&mut [0]).is_err(), "a reset");
    assert!(passes(&mut long));
}

#[test]
fn in_the_clear_nobody_is_believed_to_have_signed_in() {
    let world = World::build(
        service(echo),
        |route| with(with(route, of_partner(&["anna"])), json!({"mode": "plain", "plainFrom": ["127.0.0.0/8"]})),
        |config| config,
        |service| service,
    );
    let endpoint: SocketAddr = world.endpoint;
    let mut visitor = visit(endpoint);
    visitor.write_all(&header(ANNA)).unwrap();
    assert!(read_to_reset(&mut visitor).is_empty());
}

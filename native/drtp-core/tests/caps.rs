//! How many visitors connections may have together, over real sockets.

mod world;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};
use world::*;

/// Two connections of one agent that share, and the endpoints of both.
struct Pair {
    world: World,
    places: [SocketAddr; 2],
}

impl Pair {
    fn sharing(share: &Value) -> Self {
        let (other, shares) = (service(echo), json!({"shares": [share]}));
        let first = |route| with(route, shares.clone());
        let world = World::build(service(echo), first, |config| with_neighbour(config, other), |service| service);
        let places = [world.endpoint, neighbour(&world, other, shares.clone())];
        Self { world, places }
    }

    /// A visitor of either, once it has been served.
    fn served(&self, number: usize) -> TcpStream {
        self.asked(number).unwrap()
    }

    fn refuses(&self, number: usize) {
        let refusal = self.asked(number).unwrap_err();
        assert!(matches!(refusal.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{refusal}");
    }

    fn asked(&self, number: usize) -> std::io::Result<TcpStream> {
        let mut visitor = try_visit(self.places[number])?;
        visitor.write_all(b"hello")?;
        let mut answer = [0; 5];
        visitor.read_exact(&mut answer)?;
        assert_eq!(&answer, b"hello");
        Ok(visitor)
    }

    fn both(&self, changes: &Value) {
        let other = with(route(self.places[1].port()), json!({"connection": "c-2", "service": "s-2", "name": "other"}));
        assert_ok(&self.world.pop.apply(&route_of(&self.world, changes.clone())));
        assert_ok(&self.world.pop.apply(&upsert("route/c-2", &with(other, changes.clone()))));
    }

    fn gone(&self, left: u64) {
        until_stats("visitors to be gone", || self.world.pop.stats(), |stats| stats.streams == left);
    }
}

#[test]
fn connections_of_one_share_have_its_visitors_together() {
    let pair = Pair::sharing(&json!({"name": "acme", "streamsMax": 2}));
    let (first, second) = (pair.served(0), pair.served(1));
    pair.refuses(0);
    pair.refuses(1);
    drop(first);
    pair.gone(1);
    let third = pair.served(1);
    pair.refuses(0);
    drop((second, third));
    pair.gone(0);
    drop((pair.served(0), pair.served(0)));
}

#[test]
fn the_lowest_of_own_and_shared_caps_holds() {
    let pair = Pair::sharing(&json!({"name": "acme", "streamsMax": 3}));
    pair.both(&json!({"shares": [{"name": "acme", "streamsMax": 3}], "limits": {"streamsMax": 1}}));
    let _first = pair.served(0);
    pair.refuses(0);
    let _second = pair.served(1);
}

#[test]
fn an_edit_counts_who_is_there_and_cuts_nobody() {
    let pair = Pair::sharing(&json!({"name": "acme", "streamsMax": 9}));
    let mut there = [pair.served(0), pair.served(0), pair.served(1)];
    pair.both(&json!({"shares": [{"name": "acme", "streamsMax": 2}, {"name": "joe", "streamsMax": 9}]}));
    pair.refuses(1);
    for visitor in &mut there {
        visitor.write_all(b"still").unwrap();
        visitor.read_exact(&mut [0; 5]).unwrap();
    }
    pair.both(&json!({"shares": []}));
    drop(pair.served(0));
}

#[test]
fn a_connection_that_goes_leaves_its_places_to_the_others() {
    let pair = Pair::sharing(&json!({"name": "acme", "streamsMax": 1}));
    let mut visitor = pair.served(1);
    pair.refuses(0);
    assert_ok(&pair.world.pop.apply(&json!({"whole": false, "remove": ["route/c-2"]}).to_string().into_bytes()));
    assert!(visitor.read(&mut [0; 1]).is_err(), "cut with its route");
    drop(pair.served(0));
}

#[test]
fn new_visitors_of_one_share_come_at_its_rate_together_and_an_edit_gives_no_new_burst() {
    let share = json!({"name": "acme", "newStreamsPerS": 1});
    let pair = Pair::sharing(&share);
    drop((pair.served(0), pair.served(1)));
    pair.refuses(0);
    pair.both(&json!({"shares": [share]}));
    pair.refuses(1);
    // What is refused costs nobody a turn.
    until("a second's worth", || pair.asked(1).is_ok());
}

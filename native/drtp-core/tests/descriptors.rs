//! Running out of file descriptors must not kill a listener (frp#752). Alone in its process, because it lowers the limit.

mod world;

use std::io::{Read, Write};
use std::net::TcpStream;

use world::*;

#[test]
fn accepting_goes_on_after_descriptors_ran_out() {
    let world = World::new(service(echo));
    let mut before = world.visit();
    before.write_all(b"x").unwrap();
    before.read_exact(&mut [0]).unwrap();
    // Take every descriptor that is left but one: a visitor's own.
    let mut hoard = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
        if hoard.len() > 200_000 {
            eprintln!("skipped: this process has no descriptor limit to reach");
            return;
        }
    }
    hoard.pop();
    let late = TcpStream::connect(world.endpoint);
    until_stats("accepting to pause", || world.pop.stats(), |s| s.accept_paused_total > 0);
    before.write_all(b"y").unwrap();
    before.read_exact(&mut [0]).unwrap();
    drop(late);
    drop(hoard);
    until("visitors to be served again", || {
        let served = try_visit(world.endpoint)
            .and_then(|mut visitor| visitor.write_all(b"z").and_then(|()| visitor.read_exact(&mut [0])));
        served.is_ok()
    });
}

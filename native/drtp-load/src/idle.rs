//! Visitors who come, were served once, and stay; and a burst of them at one instant.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::figures::Histogram;

const VISIT_MAX: Duration = Duration::from_secs(20);
const QUESTION: &[u8] = b"are you there";

/// Prints one line when all are there, and keeps them until standard input ends.
pub fn run(arguments: &Arguments) -> Result<(), String> {
    let count: usize = arguments.number("connections", 1000)?;
    let mut staying = Vec::with_capacity(count);
    for _ in 0..count {
        staying.push(arrive(arguments.address).map_err(|error| format!("visitor {}: {error}", staying.len()))?);
    }
    println!("{}", serde_json::json!({"idle": staying.len()}));
    io::copy(&mut io::stdin(), &mut io::sink()).map_err(|error| error.to_string())?;
    Ok(())
}

/// Prints the time from dialling to the first byte of the answer, of visitors who all come at once.
pub fn burst(arguments: &Arguments) -> Result<(), String> {
    let count: usize = arguments.number("connections", 200)?;
    let address = arguments.address;
    let gate = std::sync::Arc::new(std::sync::Barrier::new(count));
    let threads: Vec<_> = (0..count)
        .map(|_| {
            let gate = std::sync::Arc::clone(&gate);
            std::thread::spawn(move || {
                gate.wait();
                let began = Instant::now();
                arrive(address).map(|_stream| began.elapsed())
            })
        })
        .collect();
    let mut all = Histogram::new();
    for thread in threads {
        all.note(thread.join().map_err(|_| "a visitor died")?.map_err(|error| format!("visitor: {error}"))?);
    }
    println!("{}", serde_json::json!({"count": all.total(), "latency": all.latency()}));
    Ok(())
}

fn arrive(address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, VISIT_MAX)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(VISIT_MAX))?;
    stream.write_all(&[b"e", QUESTION].concat())?;
    let mut answer = [0; QUESTION.len()];
    stream.read_exact(&mut answer)?;
    if answer == *QUESTION { Ok(stream) } else { Err(io::Error::other("a wrong byte in an answer")) }
}

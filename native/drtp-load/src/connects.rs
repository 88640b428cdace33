//! New visitors: connect, ask once, read the answer, end in order. A fixed number of them at a time.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::figures::Histogram;
use crate::pattern::Pattern;

const VISIT_MAX: Duration = Duration::from_secs(10);

/// Prints visitors a second, and the time from dialling to the answer.
pub fn run(arguments: &Arguments) -> Result<(), String> {
    let (address, time) = (arguments.address, arguments.time()?);
    let slots: u64 = arguments.number("slots", 32)?;
    let stop = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let threads: Vec<_> = (0..slots)
        .map(|slot| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || come_and_go(address, slot, &stop))
        })
        .collect();
    std::thread::sleep(time);
    stop.store(true, Ordering::Relaxed);
    let mut all = Histogram::new();
    for thread in threads {
        let visits = thread.join().map_err(|_| "a visitor died")??;
        for visit in visits {
            all.note(visit);
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let figures = serde_json::json!({
        "per_s": all.total() as f64 / seconds, "count": all.total(), "seconds": seconds, "latency": all.latency(),
    });
    println!("{figures}");
    Ok(())
}

fn come_and_go(address: SocketAddr, slot: u64, stop: &AtomicBool) -> Result<Vec<Duration>, String> {
    let pattern = Pattern::new();
    let mut visits = Vec::new();
    let mut number = slot;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let took =
            visit(address, pattern.piece(number * 100, 100), began).map_err(|error| format!("visitor: {error}"))?;
        visits.push(took);
        number += 7919;
    }
    Ok(visits)
}

fn visit(address: SocketAddr, question: &[u8], began: Instant) -> Result<Duration, String> {
    let talk = || {
        let mut stream = TcpStream::connect_timeout(&address, VISIT_MAX)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(VISIT_MAX))?;
        stream.write_all(&[b"e", question].concat())?;
        let mut answer = vec![0; question.len()];
        stream.read_exact(&mut answer)?;
        let took = began.elapsed();
        stream.shutdown(Shutdown::Write)?;
        let rest = stream.read(&mut [0])?;
        Ok((answer, took, rest))
    };
    let (answer, took, rest) = talk().map_err(|error: std::io::Error| error.to_string())?;
    if answer == question && rest == 0 { Ok(took) } else { Err("a wrong byte in an answer".to_owned()) }
}

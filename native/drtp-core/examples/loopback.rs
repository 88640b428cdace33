//! A tunnel in one process on loopback: POP, agent, echo service and load, for quick measurement.
//!
//! `cargo run --release --example loopback [seconds per scenario]`. Everything shares the machine's cores, the load
//! generator too, so only comparisons on one machine mean something.

#[path = "../tests/world/mod.rs"]
mod world;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Service that answers each 100-byte question with 100 bytes, or drains and counts a flood that starts with `b`.
fn serve(mut stream: TcpStream) {
    let mut buffer = vec![0; 256 * 1024];
    let mut bulk = false;
    let mut first = true;
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 {
            break;
        }
        bulk |= std::mem::replace(&mut first, false) && buffer[0] == b'b';
        if !bulk && stream.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
}

fn bulk(endpoint: SocketAddr, flows: usize, time: Duration) -> f64 {
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let started = Instant::now();
    let threads: Vec<_> = (0..flows)
        .map(|_| {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            std::thread::spawn(move || {
                let mut stream = world::visit(endpoint);
                let chunk = vec![b'b'; 256 * 1024];
                while !stop.load(Ordering::Relaxed) && stream.write_all(&chunk).is_ok() {
                    sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                }
            })
        })
        .collect();
    std::thread::sleep(time);
    stop.store(true, Ordering::Relaxed);
    let rate = sent.load(Ordering::Relaxed) as f64 * 8.0 / started.elapsed().as_secs_f64() / 1e9;
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    rate
}

fn requests(endpoint: SocketAddr, connections: usize, time: Duration) -> f64 {
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let started = Instant::now();
    let threads: Vec<_> = (0..connections)
        .map(|_| {
            let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
            std::thread::spawn(move || {
                let mut stream = world::visit(endpoint);
                let mut answer = [0; 100];
                while !stop.load(Ordering::Relaxed) {
                    stream.write_all(&[b'q'; 100]).unwrap();
                    stream.read_exact(&mut answer).unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    std::thread::sleep(time);
    stop.store(true, Ordering::Relaxed);
    let rate = count.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    rate
}

fn connects(endpoint: SocketAddr, time: Duration) -> f64 {
    let started = Instant::now();
    let mut count = 0;
    while started.elapsed() < time {
        let mut stream = world::visit(endpoint);
        stream.write_all(b"q").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        count += 1;
    }
    f64::from(count) / started.elapsed().as_secs_f64()
}

/// CPU seconds of the two drivers so far: what a loaded machine cannot blur as it does wall rates.
fn driver_cpu() -> f64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return f64::NAN };
    let of = |task: std::fs::DirEntry| -> Option<f64> {
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        let (name, rest) = stat.split_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
        name.contains("drtp-").then_some(ticks / 100.0)
    };
    tasks.flatten().filter_map(of).sum()
}

fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(3);
    let time = Duration::from_secs(seconds);
    let service = world::service(serve);
    let world = world::World::new(service);
    println!("scenario            direct      tunnel   both drivers");
    for flows in [1, 8] {
        let direct = bulk(service, flows, time);
        let before = driver_cpu();
        let tunnel = bulk(world.endpoint, flows, time);
        let cost = (driver_cpu() - before) / (tunnel / 8.0 * time.as_secs_f64());
        println!("bulk {flows} Gbit/s   {direct:10.2}  {tunnel:10.2}   {cost:.2} CPU s/GB");
    }
    for connections in [1, 50] {
        let direct = requests(service, connections, time);
        let before = driver_cpu();
        let tunnel = requests(world.endpoint, connections, time);
        let cost = (driver_cpu() - before) * 1e6 / (tunnel * time.as_secs_f64());
        println!("{connections:>3} req/s        {direct:10.0}  {tunnel:10.0}   {cost:.1} CPU us/request");
    }
    println!("connects/s       {:10.0}  {:10.0}", connects(service, time), connects(world.endpoint, time));
}

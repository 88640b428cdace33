//! One or more flows as fast as they go, each in a thread of its own, every byte checked.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::pattern::{PIECE_MAX, Pattern};

/// A flow that moves nothing for this long is lost.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Flows that run until they are stopped.
pub struct Flows {
    stop: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Flows {
    /// `up`: from the visitor to the service.
    pub fn start(address: SocketAddr, count: usize, up: bool) -> Self {
        let (stop, bytes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..count)
            .map(|_| {
                let (stop, bytes) = (Arc::clone(&stop), Arc::clone(&bytes));
                std::thread::spawn(move || {
                    let flow = if up { upload } else { download };
                    flow(address, &stop, &bytes).map_err(|error| format!("bulk flow: {error}"))
                })
            })
            .collect();
        Self { stop, bytes, threads }
    }

    /// Bytes so far, of all flows.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Ends them. An error of any of them is the answer.
    pub fn stop(self) -> Result<(), String> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a flow died".to_owned())))
    }
}

/// Prints Gbit/s of all flows together, the first tenth left out: windows are still opening.
pub fn run(arguments: &Arguments) -> Result<(), String> {
    let time = arguments.time()?;
    let up = arguments.word("direction", "down") == "up";
    let flows = Flows::start(arguments.address, arguments.number("flows", 1)?, up);
    std::thread::sleep(time / 10);
    let (from, began) = (flows.bytes(), Instant::now());
    std::thread::sleep(time);
    let (moved, seconds) = (flows.bytes() - from, began.elapsed().as_secs_f64());
    flows.stop()?;
    if moved == 0 {
        return Err("no byte moved".to_owned());
    }
    let figures = serde_json::json!({
        "gbit_s": moved as f64 * 8.0 / seconds / 1e9, "bytes": moved, "seconds": seconds,
    });
    println!("{figures}");
    Ok(())
}

fn download(address: SocketAddr, stop: &AtomicBool, bytes: &AtomicU64) -> Result<(), String> {
    let (mut stream, pattern) = (visit(address, b'd')?, Pattern::new());
    let mut buffer = vec![0; PIECE_MAX];
    let mut offset = 0;
    while !stop.load(Ordering::Relaxed) {
        let count = stream.read(&mut buffer).map_err(|error| error.to_string())?;
        if count == 0 {
            return Err(format!("an end after {offset} bytes"));
        }
        if buffer[..count] != *pattern.piece(offset, count) {
            return Err(format!("a wrong byte after {offset}"));
        }
        offset += count as u64;
        bytes.fetch_add(count as u64, Ordering::Relaxed);
    }
    Ok(())
}

fn upload(address: SocketAddr, stop: &AtomicBool, bytes: &AtomicU64) -> Result<(), String> {
    let (mut stream, pattern) = (visit(address, b'u')?, Pattern::new());
    let mut offset = 0;
    while !stop.load(Ordering::Relaxed) {
        let count = stream.write(pattern.piece(offset, PIECE_MAX)).map_err(|error| error.to_string())?;
        offset += count as u64;
        bytes.fetch_add(count as u64, Ordering::Relaxed);
    }
    stream.shutdown(Shutdown::Write).map_err(|error| error.to_string())?;
    let mut checked = [0; 8];
    stream.read_exact(&mut checked).map_err(|error| format!("no word on the upload: {error}"))?;
    let checked = u64::from_le_bytes(checked);
    if checked == offset { Ok(()) } else { Err(format!("{offset} bytes sent, {checked} arrived")) }
}

fn visit(address: SocketAddr, wish: u8) -> Result<TcpStream, String> {
    let open = || {
        let mut stream = TcpStream::connect_timeout(&address, SILENCE_MAX)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        stream.write_all(&[wish])?;
        Ok(stream)
    };
    open().map_err(|error: std::io::Error| error.to_string())
}

//! Visitors and a local service for measuring tunnels. The harness in `bench/` starts it; it prints one JSON line.
//!
//! ```text
//! drtp-load serve                                           the local service; prints {"port": N} of TCP and UDP, ends with stdin
//! drtp-load bulk     ADDRESS [flows=1] [seconds=5] [direction=down|up]
//! drtp-load requests ADDRESS [connections=1] [seconds=5] [rate=0] [bulk=0] [stalled=0]
//! drtp-load connects ADDRESS [slots=32] [seconds=5]
//! drtp-load idle     ADDRESS [connections=1000]              prints when all are there, ends with stdin
//! drtp-load burst    ADDRESS [connections=200]               all at once; time to each one's first byte
//! drtp-load datagrams ADDRESS [flows=4] [window=32] [bytes=64] [seconds=5] [segments=64]
//! ```
//!
//! Every byte that comes back is compared with what was asked for; one wrong byte ends the run with an error.

mod arguments;
mod bulk;
mod connects;
mod datagrams;
mod figures;
mod idle;
mod pattern;
mod requests;
mod service;
mod udp;

use std::process::ExitCode;

use arguments::Arguments;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("drtp-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<(), String> {
    let (scenario, rest) =
        words.split_first().ok_or("say what to do: serve, bulk, requests, connects, idle, burst or datagrams")?;
    if scenario == "serve" {
        return service::serve().map_err(|error| error.to_string());
    }
    let arguments = Arguments::parse(rest)?;
    match scenario.as_str() {
        "bulk" => bulk::run(&arguments),
        "requests" => requests::run(&arguments),
        "connects" => connects::run(&arguments),
        "idle" => idle::run(&arguments),
        "burst" => idle::burst(&arguments),
        "datagrams" => datagrams::run(&arguments),
        other => Err(format!("there is no scenario {other:?}")),
    }
}

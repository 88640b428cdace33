//! The short run: every committed input, and mutations of them from fixed seeds. `make fuzz` is the long one.

use std::panic::catch_unwind;
use std::path::PathBuf;

use drtp_fuzz::mutate::Mutator;
use drtp_fuzz::{corpus, hex, seeds, target};

/// Seconds in a debug build, for the slowest target too.
const FAST: usize = 60_000;
const SLOW: usize = 3_000;

fn committed(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let files = std::fs::read_dir(corpus(name)).unwrap().map(|entry| entry.unwrap().path());
    let mut inputs: Vec<_> = files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    inputs.sort();
    inputs
}

fn hold(name: &str, input: &[u8], from: &str) {
    let run = target(name).unwrap();
    assert!(catch_unwind(|| run(input)).is_ok(), "target {name}, {from}: {}", hex(input));
}

fn run(name: &str, mutations: usize) {
    let files = committed(name);
    for (path, input) in &files {
        hold(name, input, &path.display().to_string());
    }
    let inputs: Vec<Vec<u8>> = files.into_iter().map(|(_, input)| input).collect();
    let mut mutator = Mutator::new(&inputs, 7);
    for number in 0..mutations {
        hold(name, &mutator.mutant(), &format!("mutation {number}"));
    }
}

#[test]
fn any_framed_datagrams() {
    run("framed", FAST);
}

#[test]
fn any_frames() {
    run("frames", FAST);
}

#[test]
fn any_proxy_headers() {
    run("proxy", FAST);
}

#[test]
fn any_play_of_two_sessions() {
    run("session", SLOW);
}

#[test]
fn any_snapshot() {
    run("snapshots", SLOW);
}

#[test]
fn any_words_of_a_proxy() {
    run("talks", FAST);
}

#[test]
fn the_committed_seeds_are_what_the_encoders_write() {
    for (name, _) in drtp_fuzz::TARGETS {
        for (seed, bytes) in seeds::of(name) {
            let path = corpus(name).join(seed);
            assert!(std::fs::read(&path).is_ok_and(|held| held == bytes), "{}: cargo run -p drtp-fuzz", path.display());
        }
    }
}

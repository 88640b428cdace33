//! Two parsers of PROXY headers, in two languages and by two hands, say the same of every input.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use drtp_fuzz::differential::verdicts;
use drtp_fuzz::mutate::Mutator;
use drtp_fuzz::{corpus, hex};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;

const MUTATIONS: usize = 20_000;
const LINES: usize = 5_000;

/// What the oracle says, one answer for each input.
fn oracle(inputs: &[Vec<u8>]) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/proxy_oracle.py");
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut child = Command::new(python)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("PYTHON, or python3, is there");
    let mut stdin = child.stdin.take().unwrap();
    let text: String = inputs.iter().map(|input| hex(input) + "\n").collect();
    let writing = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn agree(inputs: &[Vec<u8>]) {
    let answers = oracle(inputs);
    assert_eq!(answers.len(), inputs.len());
    for (input, answer) in inputs.iter().zip(answers) {
        assert_eq!(verdicts(input), answer, "ours on the left: {} {:?}", hex(input), String::from_utf8_lossy(input));
    }
}

/// The committed inputs as the wire has them: without the two bytes that say where the target cuts. `DRTP_FUZZ_FOUND`
/// names a further folder: what a long run found.
fn seeds() -> Vec<Vec<u8>> {
    let found = std::env::var_os("DRTP_FUZZ_FOUND").map(std::path::PathBuf::from);
    let folders = [Some(corpus("proxy")), found].into_iter().flatten();
    let files = folders.flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let mut inputs: Vec<Vec<u8>> = files.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect();
    for input in &mut inputs {
        input.drain(..2.min(input.len()));
    }
    inputs.sort();
    inputs
}

#[test]
fn both_parsers_agree_on_the_corpus_and_mutations_of_it() {
    let seeds = seeds();
    let mut mutator = Mutator::new(&seeds, 11);
    let mutated: Vec<Vec<u8>> = (0..MUTATIONS).map(|_| mutator.mutant()).collect();
    agree(&[seeds, mutated].concat());
}

/// Words that a v1 line is made of, right and nearly right.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just("PROXY".to_owned()),
        2 => prop_oneof![Just("TCP4"), Just("TCP6"), Just("UNKNOWN"), Just("tcp4"), Just("")].prop_map(str::to_owned),
        3 => any::<[u8; 4]>().prop_map(|octets| std::net::Ipv4Addr::from(octets).to_string()),
        3 => any::<[u8; 16]>().prop_map(|octets| std::net::Ipv6Addr::from(octets).to_string()),
        1 => "[0-9]{1,3}(\\.[0-9]{1,3}){2,4}",
        1 => "[0-9a-f:]{2,12}(%[a-z0-9]{1,3})?",
        1 => Just("::ffff:1.2.3.4".to_owned()),
        3 => any::<u16>().prop_map(|port| port.to_string()),
        1 => "[-+0]?[0-9]{1,6}",
    ]
}

#[test]
fn both_parsers_agree_on_lines_that_are_nearly_right() {
    let line = (
        proptest::collection::vec(word(), 1..8),
        any::<bool>(),
        prop_oneof![8 => Just("\r\n"), 1 => Just("\n"), 1 => Just(""), 1 => Just("\r\n\r\n")],
    );
    let line = line.prop_map(|(mut words, shaped, end)| {
        if shaped {
            words.insert(0, "PROXY".to_owned());
        }
        (words.join(" ") + end).into_bytes()
    });
    let shaped =
        (any::<bool>(), any::<[u8; 4]>(), any::<[u8; 16]>(), word(), word()).prop_map(|(six, v4, v6, a, b)| {
            let ip =
                if six { std::net::Ipv6Addr::from(v6).to_string() } else { std::net::Ipv4Addr::from(v4).to_string() };
            format!("PROXY TCP{} {ip} {ip} {a} {b}\r\n", if six { 6 } else { 4 }).into_bytes()
        });
    let any_line = prop_oneof![line, shaped];
    let mut runner = TestRunner::deterministic();
    let lines: Vec<Vec<u8>> = (0..LINES).map(|_| any_line.new_tree(&mut runner).unwrap().current()).collect();
    agree(&lines);
}

/// Bodies of v2 whose lengths are right, and what is in them is nearly so.
fn tlv() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![
        Just(b"0f8fad5b-d9cb-469f-a165-70867728950e".to_vec()),
        Just(b"00000000-0000-0000-0000-000000000000".to_vec()),
        "[0-9a-fA-F+-]{36}".prop_map(String::into_bytes),
        "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..20),
    ];
    (prop_oneof![Just(0xe0_u8), Just(0xe1), any::<u8>()], value)
        .prop_map(|(kind, value)| [&[kind], &(value.len() as u16).to_be_bytes()[..], &value].concat())
}

#[test]
fn both_parsers_agree_on_headers_that_are_nearly_right() {
    let head = (
        prop_oneof![4 => Just(0x21_u8), 2 => Just(0x20), 1 => any::<u8>()],
        prop_oneof![Just(0_u8), Just(0x11), Just(0x12), Just(0x21), Just(0x31), any::<u8>()],
        prop_oneof![Just(0_usize), Just(12), Just(36), Just(216), 0_usize..40],
        proptest::collection::vec(tlv(), 0..4),
        any::<u8>(),
    );
    let header = head.prop_map(|(command, family, addresses, tlvs, fill)| {
        let addresses: Vec<u8> = (0..addresses).map(|at| (at as u8).wrapping_mul(fill)).collect();
        let body = [addresses, tlvs.concat()].concat();
        let signature = b"\r\n\r\n\0\r\nQUIT\n";
        [&signature[..], &[command, family], &(body.len() as u16).to_be_bytes(), &body].concat()
    });
    let mut runner = TestRunner::deterministic();
    let headers: Vec<Vec<u8>> = (0..LINES).map(|_| header.new_tree(&mut runner).unwrap().current()).collect();
    agree(&headers);
}

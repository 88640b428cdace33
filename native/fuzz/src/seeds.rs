//! Where fuzzing starts: small inputs from the real encoders, each with something to say.

use drtp_core::frame::{Frame, put, put_data, put_datagram, put_header};
use drtp_core::message::{CAPABILITY_DATAGRAMS, CAPABILITY_LANES, Carries, GoAway, Hello, Open};
use drtp_core::proxy::{Transport, write_v1, write_v2};
use serde_json::Value;

/// Name and bytes of a seed.
pub type Seed = (&'static str, Vec<u8>);

const VECTORS: &str = include_str!("../../../tests/vectors/snapshots.json");
const ID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

/// The seeds of one target.
pub fn of(target: &str) -> Vec<Seed> {
    match target {
        "framed" => framed(),
        "frames" => frames().into_iter().map(|(name, wire)| (name, [vec![3], wire].concat())).collect(),
        "proxy" => proxy().into_iter().map(|(name, wire)| (name, [vec![0, 20], wire].concat())).collect(),
        "session" => session(),
        "talks" => talks(),
        _ => snapshots(),
    }
}

fn framed() -> Vec<Seed> {
    let of = |piece: u8, datagrams: &[&[u8]]| {
        let mut out = vec![piece];
        for datagram in datagrams {
            drtp_core::framed::put(&mut out, datagram);
        }
        out
    };
    let cut = of(2, &[b"whole", b"not whole"]);
    vec![
        ("some", of(3, &[b"one", b"", b"three"])),
        ("none", of(1, &[b"", b"", b""])),
        ("cut", cut[..cut.len() - 1].to_vec()),
        ("longest", of(200, &[&[7; 65_507]])[..300].to_vec()),
        ("too-long", vec![4, 0, 1, 9, 0xff, 0xe4, 1, 2, 3]),
    ]
}

fn hello() -> Hello {
    let capabilities = CAPABILITY_DATAGRAMS | CAPABILITY_LANES;
    let common = Hello { version_min: 1, version_max: 1, capabilities, epoch: 100, token: [1; 16], ..Hello::default() };
    Hello { attempt: 1, window: 262_144, streams_max: 64, ..common }
}

fn open() -> Open {
    Open {
        connection: "6f1c".into(),
        visitor: "203.0.113.9:5000".parse().ok(),
        destination: "[2001:db8::1]:443".parse().ok(),
        stream_id: [7; 16],
        deadline_ms: 5_000,
        carries: Carries::Datagrams,
    }
}

fn wire(frames: &[(u32, Frame)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (stream, frame) in frames {
        put(&mut out, *stream, frame);
    }
    out
}

fn frames() -> Vec<Seed> {
    let goaway = GoAway { code: 0, deadline_ms: 30_000, reason: "drains".into() };
    let talk = [
        (9, Frame::Open(Box::new(open()))),
        (9, Frame::Window(262_144)),
        (9, Frame::Move { lane: 2, offset: 1 << 40 }),
        (9, Frame::Fin),
        (9, Frame::Rst(4)),
        (9, Frame::StopSending(11)),
    ];
    let mut data = Vec::new();
    put_data(&mut data, 9, b"GET / HTTP/1.1\r\n\r\n");
    put_data(&mut data, 9, b"");
    put_datagram(&mut data, 9, &[1, 2, 3]);
    put_datagram(&mut data, 9, b"");
    let mut long = Vec::new();
    put_header(&mut long, 9, drtp_core::frame::Kind::Open, 0x00ff_ffff);
    vec![
        ("hello", wire(&[(0, Frame::Hello(hello())), (0, Frame::Ping(7)), (0, Frame::Pong(7))])),
        ("stream", wire(&talk)),
        ("goaway", wire(&[(0, Frame::GoAway(goaway))])),
        ("data", data),
        ("too-long", long),
        ("skipped", vec![0, 0, 0, 1, 0x40, 0, 0, 2, 9, 9]),
        ("critical", vec![0, 0, 0, 1, 0x81, 0, 0, 0]),
        ("extremes", wire(&[(u32::MAX, Frame::Window(u64::MAX)), (u32::MAX, Frame::Ping(u64::MAX))])),
    ]
}

fn proxy() -> Vec<Seed> {
    let (v4, other) = ("1.2.3.4:5".parse().ok(), "6.7.8.9:10".parse().ok());
    let (v6, mapped) = ("[2001:db8::1]:5".parse().ok(), "[::ffff:9.9.9.9]:443".parse().ok());
    let mut service = write_v2(Transport::Bytes, v4, other, "");
    service.extend_from_slice(&[0xe1, 0, 4, b'9', b'a', b'0', b'2']);
    service[15] += 7;
    let mut gateway = service.clone();
    gateway.extend_from_slice(&[0xe2, 0, 3, b'g', b'-', b'1']);
    gateway[15] += 6;
    let mut visitor = service.clone();
    let said = br#"{"name":"anna","groups":["idp#a"],"x":[1.5,null]}"#;
    visitor.extend_from_slice(&[0xe4, 0, said.len() as u8]);
    visitor.extend_from_slice(said);
    visitor[15] += 3 + said.len() as u8;
    let mut twice = write_v2(Transport::Bytes, v4, other, ID);
    let tlv = twice[28..].to_vec();
    twice[15] += tlv.len() as u8;
    twice.extend_from_slice(&tlv);
    let mut local = write_v2(Transport::Bytes, v4, other, "");
    local[12] = 0x20;
    vec![
        ("v2-ipv4", write_v2(Transport::Bytes, v4, other, ID)),
        ("v2-ipv6", write_v2(Transport::Bytes, v6, v6, ID)),
        ("v2-mixed", write_v2(Transport::Bytes, v4, v6, "")),
        ("v2-service", service),
        ("v2-gateway", gateway),
        ("v2-visitor", visitor),
        ("v2-twice", twice),
        ("v2-local", local),
        ("v1-ipv4", write_v1(v4, other)),
        ("v1-ipv6", write_v1(v6, mapped)),
        ("v1-unknown", b"PROXY UNKNOWN whatever else\r\n".to_vec()),
        ("http", b"GET / HTTP/1.1\r\n".to_vec()),
    ]
}

fn session() -> Vec<Seed> {
    let inject =
        |up: bool, lane: u8, bytes: &[u8]| [&[if up { 0x8c } else { 0x0c }, lane, bytes.len() as u8], bytes].concat();
    let ghost = 1 << 20 | 1;
    vec![
        ("echo", vec![0, 0, 1, 0, 9, 15, 9, 4, 0, 0x81, 0, 9, 15, 9, 2, 0, 0x82, 0, 15, 9]),
        ("move", vec![0x35, 0, 1, 0, 200, 5, 0, 1, 1, 0, 200, 5, 0, 2, 1, 0, 90, 2, 0, 15, 40, 0x82, 0]),
        ("pieces", vec![0xb2, 0, 0, 1, 0, 30, 1, 1, 30, 15, 5, 0x81, 1, 30, 3, 0, 9, 1, 15, 20]),
        ("lane-lost", vec![0, 0, 0, 5, 1, 1, 1, 1, 50, 15, 3, 6, 1, 15, 9, 6, 0, 15, 9]),
        ("stalled", vec![0, 0x0b, 0, 1, 0, 255, 1, 0, 255, 15, 60, 0x8b, 15, 60, 8, 15, 60]),
        ("dark", vec![0, 0, 1, 0, 9, 0x8a, 15, 63, 15, 63, 0x0a, 15, 63]),
        ("datagrams", vec![0, 0, 7, 0, 15, 9, 0x87, 0, 15, 9, 0x88]),
        ("open-flood", [&[0, 0][..], &inject(false, 0, &wire(&[(ghost, Frame::Open(Box::new(open())))]))].concat()),
        ("late-frames", [&[0][..], &inject(true, 0, &wire(&[(9, Frame::Fin), (9, Frame::Rst(1))]))].concat()),
        ("second-hello", [&[0][..], &inject(true, 0, &wire(&[(0, Frame::Hello(hello()))]))].concat()),
        ("wild-move", [&[0, 0][..], &inject(false, 0, &wire(&[(ghost, Frame::Move { lane: 3, offset: 9 })]))].concat()),
        ("held-fin", [&[0, 0][..], &inject(false, 1, &wire(&[(ghost, Frame::Fin), (ghost, Frame::Fin)]))].concat()),
        ("all-credit", [&[0, 0][..], &inject(true, 0, &wire(&[(ghost, Frame::Window(u64::MAX))]))].concat()),
    ]
}

fn talks() -> Vec<Seed> {
    let answer = |kind: u8, words: &[u8]| [&[kind, 3], words].concat();
    let reply = |words: &[u8]| answer(3, &[&[5, 2, 1, 0][..], words].concat());
    vec![
        ("connect-200", answer(0, b"HTTP/1.1 200 Connection established\r\nVia: 1.1 x\r\n\r\n\x16\x03\x01")),
        ("connect-407", answer(2, b"HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: Basic\r\n\r\n")),
        ("connect-503", answer(0, b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nbad")),
        ("connect-ssh", answer(0, b"SSH-2.0-OpenSSH_9.2\r\n")),
        ("socks-name", reply(b"\x05\x00\x00\x03\x04here\x00\x50\x16")),
        ("socks-v4", answer(1, b"\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50")),
        ("socks-v6", reply(&[&[5, 0, 0, 4][..], &[0; 18]].concat())),
        ("socks-refused", reply(&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0])),
        ("socks-none", answer(1, &[5, 0xff])),
    ]
}

fn snapshots() -> Vec<Seed> {
    let vectors: Value = serde_json::from_str(VECTORS).expect("the vectors are JSON");
    let delta = |reader: u8, upsert: Value| {
        let text = serde_json::json!({"whole": true, "upsert": upsert}).to_string();
        [&[reader], text.as_bytes()].concat()
    };
    let one = |table: &str, key: &str| serde_json::json!({ key: vectors[table][key].clone() });
    vec![
        ("route-table", delta(0, vectors["routeTable"].clone())),
        ("route", delta(0, one("routeTable", "route/6f1c"))),
        ("trust", delta(0, one("routeTable", "trust"))),
        ("tunnel-plan", delta(1, vectors["tunnelPlan"].clone())),
        ("service", delta(1, one("tunnelPlan", "service/6f1c"))),
        ("remove", b"\0{\"remove\":[\"trust\"]}".to_vec()),
    ]
}

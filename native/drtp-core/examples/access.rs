//! What a decision costs at 1,000 rules, in each of two shapes: one long list, and 16 policies as long as the API takes.
//!
//! `cargo run --profile measure -p drtp-core --example access`

use std::hint::black_box;
use std::time::Instant;

use drtp_core::access::{Access, AccessSpec, Asking, Caller, PopPlace, country};
use serde_json::{Value, json};

const BATCHES: usize = 2_001;
const DECISIONS: u32 = 100;

/// Rules of every kind; none before the last one speaks of whoever asks here.
fn clause(number: usize) -> Value {
    let (high, low) = (number / 250, number % 250);
    let nets: Vec<String> = (0..4).map(|net| format!("10.{high}.{low}.{}/30", net * 8)).collect();
    match number % 5 {
        0 => json!({"action": "Allow", "cidrs": nets}),
        1 => json!({"action": "Deny", "cidrs": nets, "countries": ["KP", "AQ"]}),
        2 => json!({"action": "Allow", "principals": [format!("user:u{number}")], "through": {"countries": ["FR"]}}),
        3 => json!({"action": "Deny", "organizations": [format!("o{number}"), format!("p{number}")]}),
        _ => {
            json!({"action": "Allow", "cidrs": nets, "schedule": {"windows": [[number % 7 * 1_440, number % 7 * 1_440 + 600]],
            "offsets": [[0, 3_600]], "offsetsEnd": 4_000_000_000_u64}})
        }
    }
}

fn list(rules: std::ops::Range<usize>) -> Value {
    let mut clauses: Vec<Value> = rules.map(clause).collect();
    clauses
        .push(json!({"action": "Allow", "cidrs": ["203.0.113.0/24"], "countries": ["DE"], "organizations": ["acme"]}));
    json!({"clauses": clauses})
}

fn main() {
    let shapes = [
        ("1 list of 1,000 rules", vec![list(0..999)]),
        ("16 lists of 63 rules", (0..16).map(|policy| list(policy * 62..policy * 62 + 62)).collect()),
    ];
    let caller = Caller::new("user", "bob", vec!["acme".into(), "umbrella".into()]);
    let place = PopPlace { pop: Some("fra".into()), region: Some("eu".into()), country: Some("DE".into()) };
    for (name, lists) in shapes {
        let spec: AccessSpec = serde_json::from_value(json!({"lists": lists})).expect("it is as the feed has it");
        let (access, complaint) = Access::compile(&spec);
        assert_eq!(complaint, None);
        let asking = Asking {
            address: "203.0.113.7".parse().ok(),
            country: country("DE"),
            now: 1_790_000_000,
            caller: Some(&caller),
            place: Some(&place),
        };
        assert!(access.decide(&asking).allowed, "the last rule of every list lets them in");
        let mut batches: Vec<f64> = (0..BATCHES).map(|_| batch_us(&access, &asking)).collect();
        batches.sort_by(f64::total_cmp);
        println!("{name}: {:.2} us a decision", batches[BATCHES / 2]);
    }
}

/// Short enough that a busy machine seldom interrupts it.
fn batch_us(access: &Access, asking: &Asking) -> f64 {
    let begun = Instant::now();
    for _ in 0..DECISIONS {
        black_box(access.decide(black_box(asking)));
    }
    begun.elapsed().as_secs_f64() * 1e6 / f64::from(DECISIONS)
}

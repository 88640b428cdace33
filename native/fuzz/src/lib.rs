//! What must hold for any bytes whatever, one function per target. A broken rule is a panic.
//!
//! `cargo test` replays the committed corpus and mutations of it; `make fuzz` looks for new inputs, guided by coverage.

use std::fmt::Write;

pub mod differential;
mod framed;
mod frames;
pub mod mutate;
mod proxy;
pub mod seeds;
mod session;
mod snapshots;
mod talks;

pub use framed::framed;
pub use frames::frames;
pub use proxy::proxy;
pub use session::session;
pub use snapshots::snapshots;
pub use talks::talks;

/// One target by name.
pub type Target = (&'static str, fn(&[u8]));

/// All targets; each has a folder of its name under `corpus`.
pub const TARGETS: [Target; 6] = [
    ("framed", framed),
    ("frames", frames),
    ("proxy", proxy),
    ("session", session),
    ("snapshots", snapshots),
    ("talks", talks),
];

/// A target by its name.
pub fn target(name: &str) -> Option<fn(&[u8])> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, run)| *run)
}

/// The folder of a target's committed corpus.
pub fn corpus(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)
}

/// An input in words.
pub fn hex(input: &[u8]) -> String {
    input.iter().fold(String::with_capacity(2 * input.len()), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

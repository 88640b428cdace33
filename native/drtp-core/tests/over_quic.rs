//! What holds by TCP holds by QUIC: the facts of the other files, word for word, in a world whose lanes are QUIC.
#![allow(clippy::duplicate_mod, reason = "each file brings its world, and all of them the same")]

#[path = "life.rs"]
mod life;
#[path = "lost.rs"]
mod lost;
#[path = "relay.rs"]
mod relay;

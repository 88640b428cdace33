//! The coverage-guided runner: `DRTP_FUZZ_TARGET=frames drtp-fuzz [libFuzzer's options] [corpus folders]`.
#![no_main]
#![allow(unsafe_code, reason = "libFuzzer's entry point is exported to C++ by its macro")]

use std::sync::OnceLock;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("DRTP_FUZZ_TARGET").unwrap_or_default();
        drtp_fuzz::target(&name).unwrap_or_else(|| panic!("DRTP_FUZZ_TARGET={name:?} names no target"))
    });
    target(input);
});

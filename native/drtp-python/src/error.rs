//! Errors on their way to Python: one exception, `NativeError(kind, message)`, with the kinds as words.

use drtp_core::CoreError;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

pyo3::create_exception!(
    drtp_native,
    NativeError,
    PyException,
    "The core refused: args are (kind, message); kind is identity, config, io or closed."
);

/// The core's own error.
pub fn failed(error: CoreError) -> PyErr {
    let kind = match error {
        CoreError::Identity(_) => "identity",
        CoreError::Config(_) => "config",
        CoreError::Io { .. } => "io",
        CoreError::Closed => "closed",
    };
    NativeError::new_err((kind, error.to_string()))
}

/// A document that does not parse: a mistake of the caller's.
pub fn unreadable(what: &str, error: &impl std::fmt::Display) -> PyErr {
    NativeError::new_err(("config", format!("{what}: {error}")))
}

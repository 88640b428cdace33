//! JSON across the border: one shape for both languages, described by `drtp-core`'s types.

use drtp_core::Identity;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::unreadable;

/// A certificate, its key and the roots. They come beside the configuration, so that no JSON text ever holds a key.
pub fn identity(chain_pem: &[u8], key_pem: &[u8], roots_pem: &[u8]) -> PyResult<Identity> {
    Ok(Identity {
        chain_pem: text("certificate chain", chain_pem)?,
        key_pem: text("private key", key_pem)?,
        roots_pem: text("roots", roots_pem)?,
    })
}

fn text(what: &str, pem: &[u8]) -> PyResult<String> {
    String::from_utf8(pem.to_vec()).map_err(|error| unreadable(what, &error.utf8_error()))
}

/// Reads a configuration and puts the identity into it.
pub fn configuration<T: DeserializeOwned>(document: &[u8], identity: Identity) -> PyResult<T> {
    let mut value: Value = serde_json::from_slice(document).map_err(|error| unreadable("configuration", &error))?;
    value["identity"] = serde_json::json!({
        "chainPem": identity.chain_pem,
        "keyPem": identity.key_pem,
        "rootsPem": identity.roots_pem,
    });
    serde_json::from_value(value).map_err(|error| unreadable("configuration", &error))
}

/// Writes a document for Python.
pub fn document<'py, T: Serialize>(py: Python<'py>, value: &T) -> PyResult<Bound<'py, PyBytes>> {
    let written = serde_json::to_vec(value).map_err(|error| unreadable("document", &error))?;
    Ok(PyBytes::new(py, &written))
}

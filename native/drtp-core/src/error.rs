//! Why the core refuses to start or to take a new identity. The peers' mistakes have their own types in their modules.

/// Our own side's mistakes, or the machine's.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// A certificate, key or root cannot be read or used.
    #[error("identity: {0}")]
    Identity(String),
    /// The configuration does not hold together.
    #[error("configuration: {0}")]
    Config(String),
    /// A socket or thread could not be had.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The driver has ended.
    #[error("the tunnel core is closed")]
    Closed,
}

impl CoreError {
    pub(crate) fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        CoreError::Io { what: what.into(), source }
    }
}

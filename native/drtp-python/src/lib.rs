//! `drtp_native`: the tunnel core as Python sees it.
//!
//! Conversions only. JSON bytes go in and come out, because both languages read the same documents. The GIL is let go
//! around every call that may wait for a driver thread.

mod error;
mod json;

use std::os::fd::RawFd;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::{NativeError, failed, unreadable};

/// What both faces have in common; `#[pymethods]` allows one block per class, so each class gets the whole of it.
macro_rules! class {
    ($name:ident, $core:path, $config:path, $doc:literal, { $($own:tt)* }) => {
        #[doc = $doc]
        #[pyclass(frozen, module = "drtp_native")]
        struct $name {
            core: $core,
        }

        #[pymethods]
        impl $name {
            /// Starts the driver thread. `config` is JSON without the identity, which comes as three PEM texts.
            #[new]
            fn new(
                py: Python<'_>,
                config: &[u8],
                chain_pem: &[u8],
                key_pem: &[u8],
                roots_pem: &[u8],
            ) -> PyResult<Self> {
                let identity = json::identity(chain_pem, key_pem, roots_pem)?;
                let config: $config = json::configuration(config, identity)?;
                let core = py.detach(|| <$core>::new(config)).map_err(failed)?;
                Ok(Self { core })
            }

            /// Puts a delta in force; gives the outcome of each entry.
            fn apply<'py>(&self, py: Python<'py>, delta: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
                let outcome = py.detach(|| self.core.apply(delta));
                json::document(py, &outcome)
            }

            /// Takes up to `max` events, oldest first. Never waits.
            fn events<'py>(&self, py: Python<'py>, max: usize) -> PyResult<Bound<'py, PyBytes>> {
                let events = py.detach(|| self.core.events(max));
                json::document(py, &events)
            }

            /// Readable while events wait. The core owns it: poll it, never read or close it.
            fn fileno(&self) -> RawFd {
                self.core.event_fd()
            }

            /// Counters and gauges; with `flows` the recent ones, too.
            fn stats<'py>(&self, py: Python<'py>, flows: bool) -> PyResult<Bound<'py, PyBytes>> {
                let stats = py.detach(|| if flows { self.core.stats() } else { self.core.counts() });
                json::document(py, &stats)
            }

            /// A new certificate for new handshakes; on error the old one stays in force.
            fn rotate(&self, py: Python<'_>, chain_pem: &[u8], key_pem: &[u8], roots_pem: &[u8]) -> PyResult<()> {
                let identity = json::identity(chain_pem, key_pem, roots_pem)?;
                py.detach(|| self.core.rotate(identity)).map_err(failed)
            }

            /// Starts draining and returns; what is still open after `seconds` is reset.
            fn drain(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
                let deadline = Duration::try_from_secs_f64(seconds).map_err(|error| unreadable("seconds", &error))?;
                py.detach(|| self.core.drain(deadline));
                Ok(())
            }

            /// Ends the driver; whatever is open is reset. Idempotent.
            fn close(&self, py: Python<'_>) {
                py.detach(|| self.core.close());
            }

            $($own)*
        }
    };
}

class!(TunnelServer, drtp_core::TunnelServer, drtp_core::ServerConfig, "The POP side.", {
    /// Where agents dial in, as bound, in the order of the configuration: JSON list of `address:port`.
    fn agent_addresses<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        json::document(py, &self.core.agent_addresses())
    }
});

class!(TunnelAgent, drtp_core::TunnelAgent, drtp_core::AgentConfig, "The private side.", {});

class!(TunnelGateway, drtp_core::TunnelGateway, drtp_core::GatewayConfig, "The visitors' side of UDP.", {});

class!(TunnelConnector, drtp_core::TunnelConnector, drtp_core::GatewayConfig, "The callers' side of `connect`.", {});

/// Copies standard input to a connector's Unix port and back, until the service has ended its direction.
#[pyfunction]
fn carry_stdio(py: Python<'_>, path: std::path::PathBuf) -> PyResult<()> {
    py.detach(|| drtp_core::carry_stdio(&path)).map_err(failed)
}

/// What the core decides on each of `cases`, JSON lines as of `Case`: one byte a case, `1` allowed, plus `2` where a
/// list that only counts would refuse. For tests that hold both languages together.
#[pyfunction]
fn decide<'py>(py: Python<'py>, cases: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let verdicts = py.detach(|| drtp_core::access::decide_each(cases));
    Ok(PyBytes::new(py, &verdicts.map_err(|error| unreadable("cases", &error))?))
}

#[pymodule]
mod drtp_native {
    #[pymodule_export]
    use super::{NativeError, TunnelAgent, TunnelConnector, TunnelGateway, TunnelServer, carry_stdio, decide};
}

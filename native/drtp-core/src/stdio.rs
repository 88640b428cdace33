//! Standard input and output as one connection to a connector's Unix port: what `ssh` expects of a `ProxyCommand`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::error::CoreError;

/// Bytes of one read.
const ROOM: usize = 64 * 1024;

/// Copies both ways until the service has ended its direction. What is still to come from standard input is let go then,
/// as `ssh` does. Whether the end was an orderly one is in the connector's statistics.
pub fn carry_stdio(path: &Path) -> Result<(), CoreError> {
    carry(path).map_err(|error| CoreError::io("standard input and output", error))
}

fn carry(path: &Path) -> io::Result<()> {
    let mut down = UnixStream::connect(path)?;
    let mut up = down.try_clone()?;
    // The descriptors themselves: the standard library's own streams hold back what has no line end.
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    std::thread::Builder::new().name("drtp-stdin".to_owned()).spawn(move || {
        // An end and a failure are the same here: nothing more comes.
        let _ = pass(&mut input, &mut up);
        let _ = up.shutdown(Shutdown::Write);
    })?;
    match pass(&mut down, &mut output) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error),
        _ => Ok(()),
    }
}

/// What comes goes on at once. `io::copy` splices from a pipe, and what it has taken waits there for more.
fn pass(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut room = vec![0; ROOM];
    loop {
        match from.read(&mut room) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&room[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

//! A lane inside a WebSocket over TLS, for networks that let nothing else pass or look into TLS. Messages mean nothing:
//! their payloads, one after the other, are the lane's bytes.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use tungstenite::client::IntoClientRequest;
use tungstenite::error::Error;
use tungstenite::handshake::client::ClientHandshake;
use tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response, ServerHandshake};
use tungstenite::handshake::{HandshakeError, MidHandshake};
use tungstenite::http::StatusCode;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Bytes, Message, WebSocket};

use super::proxy::authority;
use super::{Carrier, Goal};
use crate::driver::socket::would_block;
use crate::tls::{Outer, TlsError};

/// Where a POP answers.
pub(crate) const PATH: &str = "/drtp/1";
/// The port that a Host header does not name.
const HTTPS: u16 = 443;
/// A read of what is below, and what a connection holds for it.
const READ_BYTES: usize = 32 * 1024;
/// One message out.
const MESSAGE_BYTES: usize = 64 * 1024;
/// One message in: what we send fits, and so does what a proxy may put together.
const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Read without a payload: a message with its frames and records, and what was read ahead.
const IDLE_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 2 * READ_BYTES;
/// Messages in a row that carry nothing. A lane has its own signs of life, so these are a proxy's at most.
const EMPTY_MAX: u32 = 64;

type Stream = Outer<Carrier>;

enum Step {
    Asking(MidHandshake<ClientHandshake<Stream>>),
    Answering(MidHandshake<ServerHandshake<Stream, OnePath>>),
    Open(WebSocket<Stream>),
    Over,
}

pub(crate) struct Web {
    step: Step,
    /// Of the message being read.
    rest: Bytes,
    /// Bytes are on their way that the socket has not taken.
    unflushed: bool,
    ending: bool,
    /// Messages without a payload since the last one with.
    empty: u32,
}

impl Web {
    /// The agent's side.
    pub(crate) fn asking(goal: &Goal, mut carrier: Carrier) -> io::Result<Self> {
        carrier.idle_max = IDLE_BYTES_MAX;
        let host = if goal.port == HTTPS { goal.name.clone() } else { authority(&goal.name, goal.port) };
        let request = format!("wss://{host}{PATH}").into_client_request().map_err(io_error)?;
        let tls = Outer::client(&goal.name, carrier).map_err(tls_error)?;
        let step = Step::Asking(ClientHandshake::start(tls, request, Some(limits())).map_err(io_error)?);
        Ok(Self { step, rest: Bytes::new(), unflushed: false, ending: false, empty: 0 })
    }

    /// The POP's side.
    pub(crate) fn answering(config: Arc<ServerConfig>, mut carrier: Carrier) -> io::Result<Self> {
        carrier.idle_max = IDLE_BYTES_MAX;
        let tls = Outer::server(config, carrier).map_err(tls_error)?;
        let step = Step::Answering(ServerHandshake::start(tls, OnePath, Some(limits())));
        Ok(Self { step, rest: Bytes::new(), unflushed: false, ending: false, empty: 0 })
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.step, Step::Open(_))
    }

    pub(crate) fn carrier(&mut self) -> Option<&mut Carrier> {
        match &mut self.step {
            Step::Asking(asking) => Some(asking.get_mut().get_mut().stream()),
            Step::Answering(answering) => Some(answering.get_mut().get_mut().stream()),
            Step::Open(socket) => Some(socket.get_mut().stream()),
            Step::Over => None,
        }
    }

    /// WouldBlock until the WebSocket is open.
    pub(crate) fn advance(&mut self) -> io::Result<()> {
        self.step = match std::mem::replace(&mut self.step, Step::Over) {
            Step::Asking(asking) => match asking.handshake() {
                Ok((socket, _)) => Step::Open(socket),
                Err(HandshakeError::Interrupted(asking)) => {
                    self.step = Step::Asking(asking);
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(HandshakeError::Failure(error)) => return Err(refused(error)),
            },
            Step::Answering(answering) => match answering.handshake() {
                Ok(socket) => Step::Open(socket),
                Err(HandshakeError::Interrupted(answering)) => {
                    self.step = Step::Answering(answering);
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(HandshakeError::Failure(error)) => return Err(io_error(error)),
            },
            open @ Step::Open(_) => open,
            Step::Over => return Err(io::ErrorKind::NotConnected.into()),
        };
        Ok(())
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Step::Open(socket) = &mut self.step else { return Err(io::ErrorKind::NotConnected.into()) };
        while self.rest.is_empty() {
            if self.empty > EMPTY_MAX {
                return Err(io::Error::other("WebSocket messages that carry nothing"));
            }
            self.empty += 1;
            match socket.read() {
                Ok(Message::Binary(bytes)) => self.rest = bytes,
                // Answered by the library; its answer goes out with what follows, or here.
                Ok(Message::Ping(_)) => self.unflushed = true,
                Ok(Message::Pong(_)) => {}
                Ok(Message::Close(_)) | Err(Error::ConnectionClosed) => return Ok(0),
                Ok(_) => return Err(io::Error::other("a message that is not binary")),
                Err(error) => {
                    self.empty -= 1;
                    return Err(io_error(error));
                }
            }
        }
        (self.empty, socket.get_mut().stream().idle) = (0, 0);
        let count = self.rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let Step::Open(socket) = &mut self.step else { return Err(io::ErrorKind::NotConnected.into()) };
        let piece = &bytes[..bytes.len().min(MESSAGE_BYTES)];
        socket.write(Message::Binary(Bytes::copy_from_slice(piece))).map_err(io_error)?;
        self.unflushed = true;
        match self.flush() {
            Err(error) if !would_block(&error) => Err(error),
            _ => Ok(piece.len()),
        }
    }

    /// WouldBlock while the socket has not taken everything.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let Step::Open(socket) = &mut self.step else { return Ok(()) };
        if self.unflushed {
            socket.flush().map_err(io_error)?;
            self.unflushed = false;
        }
        if std::mem::take(&mut self.ending) {
            socket.get_mut().say_bye();
            socket.get_mut().stream().stream.shutdown(std::net::Shutdown::Write)?;
        }
        Ok(())
    }

    /// Ends our side, as soon as the socket has taken what there is.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        if let Step::Open(socket) = &mut self.step {
            (self.ending, self.unflushed) = (true, true);
            match socket.close(None).map_err(io_error) {
                Err(error) if !would_block(&error) => return Err(error),
                _ => {}
            }
        }
        match self.flush() {
            Err(error) if !would_block(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(2 * MESSAGE_BYTES)
        .max_write_buffer_size(8 * MESSAGE_BYTES)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
}

/// The one request that a POP answers; anybody else is told that there is nothing.
struct OnePath;

impl Callback for OnePath {
    fn on_request(self, request: &Request, response: Response) -> Result<Response, ErrorResponse> {
        if request.uri().path() == PATH {
            return Ok(response);
        }
        let mut nothing = ErrorResponse::new(None);
        *nothing.status_mut() = StatusCode::NOT_FOUND;
        Err(nothing)
    }
}

fn tls_error(error: TlsError) -> io::Error {
    io::Error::other(error)
}

fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::other(format!("WebSocket: {other}")),
    }
}

/// Why the other side does not open the WebSocket.
fn refused(error: Error) -> io::Error {
    match error {
        Error::Io(error) if would_block(&error) => error,
        Error::Http(answer) => {
            io::Error::other(format!("DRTP-4056: the answer to the WebSocket's opening was {}", answer.status()))
        }
        other => io::Error::other(format!("DRTP-4056: the WebSocket was not opened ({other})")),
    }
}

//! A lane's way where there is none straight: words with a proxy first, or a WebSocket around it, or both. It reads and
//! writes as the socket below it does, so a lane does not know. Nothing here is trusted: both sides prove who they are in
//! the lane's own TLS, inside.

pub mod proxy;
pub(crate) mod web;

use std::io::{self, Read, Write};

use mio::net::TcpStream;

use crate::driver::socket::would_block;
use proxy::{Progress, Proxy, ProxyFault, Talk};
use web::Web;

/// A lane's first words, while the way is not open: a ClientHello has room many times over.
const EARLY_BYTES_MAX: usize = 64 * 1024;
/// A read of a proxy's answer.
const ANSWER_READ_BYTES: usize = 1024;

/// How a POP is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Way {
    /// The proxy to go through; nothing is asked of anybody without one.
    pub proxy: Option<Proxy>,
    /// The lane goes inside a WebSocket over TLS.
    pub web_socket: bool,
    /// The lane is a QUIC connection, straight to the POP. Nothing of the above goes with it.
    pub quic: bool,
}

impl std::fmt::Display for Way {
    /// The words by which a host remembers a way.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.quic {
            return f.write_str("quic");
        }
        let hop = match self.proxy.as_ref().map(|proxy| proxy.kind) {
            None => "direct",
            Some(proxy::ProxyKind::Connect) => "connect",
            Some(proxy::ProxyKind::Socks5) => "socks5",
        };
        write!(f, "{hop}{}", if self.web_socket { "+websocket" } else { "" })
    }
}

/// Whom a way leads to: the POP's address as the plan has it, and the name in its certificate.
#[derive(Debug, Clone)]
pub(crate) struct Goal {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) name: String,
}

/// A socket whose first bytes were read by somebody else.
pub(crate) struct Carrier {
    ahead: Vec<u8>,
    stream: TcpStream,
    /// Bytes read since somebody last had use of them, and how many that may be.
    idle: usize,
    idle_max: usize,
}

impl Carrier {
    pub(crate) fn new(ahead: Vec<u8>, stream: TcpStream) -> Self {
        Self { ahead, stream, idle: 0, idle_max: usize::MAX }
    }

    /// Counts bytes that came. Whoever sends without end and says nothing would keep its reader for ever.
    fn came(&mut self, count: usize) -> io::Result<usize> {
        self.idle = self.idle.saturating_add(count);
        if self.idle > self.idle_max {
            return Err(io::Error::other("bytes without a message"));
        }
        Ok(count)
    }
}

impl Read for Carrier {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ahead.is_empty() {
            let count = self.stream.read(buffer)?;
            return self.came(count);
        }
        let count = self.ahead.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.ahead[..count]);
        self.ahead.drain(..count);
        self.came(count)
    }
}

impl Write for Carrier {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Stage {
    /// With a proxy. `said`: what it has not heard yet.
    Talking { carrier: Carrier, talk: Talk, said: Vec<u8>, goal: Option<Goal> },
    /// A proxy passes everything on.
    Plain(Carrier),
    /// In a WebSocket.
    Web(Box<Web>),
    /// It failed.
    Over,
}

/// One lane's way.
pub(crate) struct Through {
    stage: Stage,
    early: Vec<u8>,
    /// Why it failed, for whoever asks after that.
    failure: Option<String>,
    proxy: Option<String>,
    /// A proxy said no: another way through the same proxy is useless.
    pub(crate) refused: bool,
}

impl Through {
    /// The agent's side, over a connection to the way's first hop.
    pub(crate) fn dialled(way: &Way, goal: Goal, stream: TcpStream) -> Result<Self, String> {
        let carrier = Carrier::new(Vec::new(), stream);
        let mut said = Vec::new();
        let stage = match &way.proxy {
            Some(proxy) => {
                let talk = Talk::begin(proxy, &goal.host, goal.port, &mut said).map_err(|fault| fault.to_string())?;
                Stage::Talking { carrier, talk, said, goal: way.web_socket.then_some(goal) }
            }
            None => Stage::Web(Box::new(Web::asking(&goal, carrier).map_err(|error| error.to_string())?)),
        };
        Ok(Self {
            stage,
            early: Vec::new(),
            failure: None,
            proxy: way.proxy.as_ref().map(Proxy::to_string),
            refused: false,
        })
    }

    /// The POP's side: `ahead` came from somebody who does not speak `drtp/1`.
    pub(crate) fn accepted(
        config: std::sync::Arc<rustls::ServerConfig>,
        ahead: Vec<u8>,
        stream: TcpStream,
    ) -> io::Result<Self> {
        let web = Web::answering(config, Carrier::new(ahead, stream))?;
        Ok(Self { stage: Stage::Web(Box::new(web)), early: Vec::new(), failure: None, proxy: None, refused: false })
    }

    /// Nothing: what stands in for a socket while it is being made into another.
    pub(crate) fn nothing() -> Self {
        Self { stage: Stage::Over, early: Vec::new(), failure: None, proxy: None, refused: false }
    }

    /// The socket below.
    pub(crate) fn stream(&mut self) -> Option<&mut TcpStream> {
        match &mut self.stage {
            Stage::Talking { carrier, .. } | Stage::Plain(carrier) => Some(&mut carrier.stream),
            Stage::Web(web) => web.carrier().map(|carrier| &mut carrier.stream),
            Stage::Over => None,
        }
    }

    /// Whom a way that is not open waits for, in words; nothing once it is open.
    pub(crate) fn waits_for(&self) -> Option<String> {
        match (&self.stage, &self.proxy) {
            (Stage::Talking { .. }, Some(proxy)) => Some(format!("DRTP-4054: the proxy {proxy} does not answer")),
            (Stage::Web(web), _) if !web.is_open() => Some("DRTP-4056: no answer to the WebSocket's opening".into()),
            _ => None,
        }
    }

    /// Goes on as far as the socket allows. WouldBlock until the way is open.
    fn advance(&mut self) -> io::Result<()> {
        let result = self.go_on();
        if let Err(error) = &result {
            if self.failure.is_none() && !would_block(error) {
                self.failure = Some(error.to_string());
            }
        }
        result
    }

    fn go_on(&mut self) -> io::Result<()> {
        loop {
            match std::mem::replace(&mut self.stage, Stage::Over) {
                Stage::Talking { mut carrier, mut talk, mut said, goal } => {
                    let progress = converse(&mut carrier, &mut talk, &mut said);
                    match progress {
                        Ok(()) => self.stage = opened(carrier, goal)?,
                        Err(Pause::Io(error)) => {
                            if would_block(&error) {
                                self.stage = Stage::Talking { carrier, talk, said, goal };
                            }
                            return Err(self.named(error));
                        }
                        Err(Pause::Fault(fault)) => {
                            self.refused = fault.is_refusal();
                            let whose = self.proxy.clone().unwrap_or_default();
                            return Err(io::Error::other(fault.to_string().replacen(
                                "the proxy",
                                &format!("the proxy {whose}"),
                                1,
                            )));
                        }
                    }
                }
                Stage::Web(mut web) => {
                    let result = web.advance();
                    if result.as_ref().is_err_and(|error| !would_block(error)) {
                        return result;
                    }
                    self.stage = Stage::Web(web);
                    result?;
                    return self.send_early();
                }
                plain @ Stage::Plain(_) => {
                    self.stage = plain;
                    return self.send_early();
                }
                Stage::Over => {
                    return Err(self.failure.clone().map_or(io::ErrorKind::NotConnected.into(), io::Error::other));
                }
            }
        }
    }

    /// An error of the socket while a proxy is being spoken to.
    fn named(&self, error: io::Error) -> io::Error {
        if would_block(&error) {
            return error;
        }
        let whose = self.proxy.clone().unwrap_or_default();
        io::Error::other(format!("DRTP-4052: the proxy {whose} ended the connection without an answer ({error})"))
    }

    fn send_early(&mut self) -> io::Result<()> {
        while !self.early.is_empty() {
            let count = match &mut self.stage {
                Stage::Plain(carrier) => carrier.stream.write(&self.early)?,
                Stage::Web(web) => web.write(&self.early)?,
                Stage::Talking { .. } | Stage::Over => return Err(io::ErrorKind::NotConnected.into()),
            };
            self.early.drain(..count);
        }
        self.early = Vec::new();
        Ok(())
    }

    /// As a socket's: a short read means that nothing more is there now.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.advance() {
            Err(error) if would_block(&error) && !self.is_open() => return Err(error),
            Err(error) if !would_block(&error) => return Err(error),
            _ => {}
        }
        match &mut self.stage {
            Stage::Plain(carrier) if carrier.ahead.is_empty() => carrier.stream.read(buffer),
            Stage::Plain(carrier) => filled(buffer, |room| carrier.read(room)),
            Stage::Web(web) => filled(buffer, |room| web.read(room)),
            Stage::Talking { .. } | Stage::Over => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.advance() {
            Ok(()) => {}
            // The first words wait here, so that the lane need not hear when the way is open.
            Err(error) if would_block(&error) && !self.is_open() => {
                let count = bytes.len().min(EARLY_BYTES_MAX.saturating_sub(self.early.len()));
                self.early.extend_from_slice(&bytes[..count]);
                return if count == 0 { Err(error) } else { Ok(count) };
            }
            Err(error) => return Err(error),
        }
        match &mut self.stage {
            Stage::Plain(carrier) => carrier.stream.write(bytes),
            Stage::Web(web) => web.write(bytes),
            Stage::Talking { .. } | Stage::Over => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn is_open(&self) -> bool {
        match &self.stage {
            Stage::Plain(_) => true,
            Stage::Web(web) => web.is_open(),
            Stage::Talking { .. } | Stage::Over => false,
        }
    }

    /// The socket takes more: what waits here goes out. Its errors come to whoever reads or writes next.
    pub(crate) fn flush(&mut self) {
        if self.advance().is_ok() {
            if let Stage::Web(web) = &mut self.stage {
                let _ = web.flush();
            }
        }
    }

    /// No more will be written.
    pub(crate) fn shutdown_write(&mut self) -> io::Result<()> {
        match &mut self.stage {
            Stage::Web(web) => web.end(),
            Stage::Plain(carrier) => carrier.stream.shutdown(std::net::Shutdown::Write),
            Stage::Talking { .. } | Stage::Over => Ok(()),
        }
    }
}

/// Why a talk does not go on.
enum Pause {
    Io(io::Error),
    Fault(ProxyFault),
}

/// Speaks with a proxy until it consents.
fn converse(carrier: &mut Carrier, talk: &mut Talk, said: &mut Vec<u8>) -> Result<(), Pause> {
    let mut answer = [0; ANSWER_READ_BYTES];
    loop {
        while !said.is_empty() {
            let count = carrier.stream.write(said).map_err(Pause::Io)?;
            said.drain(..count);
        }
        let count = carrier.stream.read(&mut answer).map_err(Pause::Io)?;
        if count == 0 {
            return Err(Pause::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        if let Progress::Through(used) = talk.take(&answer[..count], said).map_err(Pause::Fault)? {
            carrier.ahead = answer[used.min(count)..count].to_vec();
            return Ok(());
        }
    }
}

fn opened(carrier: Carrier, goal: Option<Goal>) -> io::Result<Stage> {
    match goal {
        Some(goal) => Ok(Stage::Web(Box::new(Web::asking(&goal, carrier)?))),
        None => Ok(Stage::Plain(carrier)),
    }
}

/// Reads until the buffer is full or nothing is there.
fn filled(buffer: &mut [u8], mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            // What has come goes up first; the end or the error shows again.
            Err(_) if count > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

//! What is said to a proxy before it passes bytes on: HTTP CONNECT (RFC 9110) and SOCKS5 (RFC 1928, 1929). Sans-I/O; every
//! answer is bounded, and a proxy's words reach people short and printable.

use std::fmt;
use std::net::IpAddr;

use data_encoding::BASE64;
use serde::Deserialize;

/// An answer to CONNECT is a few hundred bytes; some proxies send a page with a refusal, which is not read.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// Of what a proxy says, so much is shown.
const WORDS_MAX: usize = 80;
/// Lengths in SOCKS are one byte.
const SOCKS_TEXT_MAX: usize = 255;

/// How a proxy is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyKind {
    /// HTTP CONNECT.
    Connect,
    /// SOCKS5; it resolves the name.
    Socks5,
}

/// A proxy to go through.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Proxy {
    /// How it is spoken to.
    pub kind: ProxyKind,
    /// Its own host.
    pub host: String,
    /// Its own port.
    pub port: u16,
    /// User name and password, where it asks for them. Secrets.
    #[serde(default)]
    pub credentials: Option<(String, String)>,
}

impl fmt::Debug for Proxy {
    /// Credentials never show.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({:?} {self})", self.kind)
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", authority(&self.host, self.port))
    }
}

/// Why a proxy does not let us through. The words begin with the code of the page that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyFault {
    /// User name or password are missing, or wrong.
    #[error("DRTP-4050: the proxy {0}")]
    Credentials(String),
    /// It knows us, and says no.
    #[error("DRTP-4051: the proxy refused the connection ({0})")]
    Refused(String),
    /// Nothing that this protocol allows.
    #[error("DRTP-4052: the proxy's answer cannot be read ({0})")]
    Unreadable(String),
    /// It would, but cannot reach the target.
    #[error("DRTP-4053: the proxy cannot reach the tunnel server ({0})")]
    Beyond(String),
}

impl ProxyFault {
    /// Asking the same proxy again in another way is useless.
    pub fn is_refusal(&self) -> bool {
        matches!(self, ProxyFault::Credentials(_) | ProxyFault::Refused(_))
    }
}

/// How far a talk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More must come.
    Talking,
    /// The proxy passes on what follows. So many of the bytes just taken were its own.
    Through(usize),
}

enum Await {
    Head,
    Method,
    Verdict,
    Reply,
}

/// One talk, from the first words to the proxy's consent.
pub struct Talk {
    awaits: Await,
    held: Vec<u8>,
    host: String,
    port: u16,
    credentials: Option<(String, String)>,
}

impl Talk {
    /// Begins a talk about `host:port`; its first words go into `out`.
    pub fn begin(proxy: &Proxy, host: &str, port: u16, out: &mut Vec<u8>) -> Result<Self, ProxyFault> {
        let credentials = proxy.credentials.clone();
        let awaits = match proxy.kind {
            ProxyKind::Connect => {
                let target = authority(host, port);
                out.extend_from_slice(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").as_bytes());
                if let Some((user, password)) = &credentials {
                    let basic = BASE64.encode(format!("{user}:{password}").as_bytes());
                    out.extend_from_slice(format!("Proxy-Authorization: Basic {basic}\r\n").as_bytes());
                }
                out.extend_from_slice(b"\r\n");
                Await::Head
            }
            ProxyKind::Socks5 => {
                let long = |text: &String| text.is_empty() || text.len() > SOCKS_TEXT_MAX;
                if credentials.as_ref().is_some_and(|(user, password)| long(user) || long(password)) {
                    let words = "takes user names and passwords of 1 to 255 bytes".into();
                    return Err(ProxyFault::Credentials(words));
                }
                out.extend_from_slice(if credentials.is_some() { &[5, 2, 0, 2] } else { &[5, 1, 0] });
                Await::Method
            }
        };
        Ok(Self { awaits, held: Vec::new(), host: host.to_owned(), port, credentials })
    }

    /// Takes what the proxy said; what is to be said next goes into `out`.
    pub fn take(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Progress, ProxyFault> {
        let before = self.held.len();
        self.held.extend_from_slice(input);
        if matches!(self.awaits, Await::Head) {
            return Ok(self.head()?.map_or(Progress::Talking, |used| Progress::Through(used.saturating_sub(before))));
        }
        // Two answers in one piece come only from a proxy that is ahead of us: a scripted one. Reading on is harmless.
        let (held, mut used) = (std::mem::take(&mut self.held), 0);
        while let Some((length, last)) = self.socks(&held[used..], out)? {
            used += length;
            if last {
                return Ok(Progress::Through(used.saturating_sub(before)));
            }
        }
        self.held = held[used..].to_vec();
        Ok(Progress::Talking)
    }

    /// The answer to CONNECT; its length once it is complete.
    fn head(&self) -> Result<Option<usize>, ProxyFault> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut answer = httparse::Response::new(&mut headers);
        let seen = &self.held[..self.held.len().min(HEAD_BYTES_MAX)];
        let parsed = answer.parse(seen).map_err(|error| ProxyFault::Unreadable(error.to_string()))?;
        let httparse::Status::Complete(length) = parsed else {
            if self.held.len() >= HEAD_BYTES_MAX {
                return Err(ProxyFault::Unreadable(format!("its head is longer than {HEAD_BYTES_MAX} bytes")));
            }
            return Ok(None);
        };
        let code = answer.code.unwrap_or_default();
        let said = format!("{code} {}", printable(answer.reason.unwrap_or_default().as_bytes()));
        match code {
            200..=299 => Ok(Some(length)),
            // 401 is a web server's word for it, and tinyproxy's.
            401 | 407 => Err(ProxyFault::Credentials(self.wants(answer.headers))),
            // The proxy itself is well: its way out is not.
            502..=504 => Err(ProxyFault::Beyond(said)),
            _ => Err(ProxyFault::Refused(said)),
        }
    }

    /// What a 407 is about, in words.
    fn wants(&self, headers: &[httparse::Header<'_>]) -> String {
        let offers = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("proxy-authenticate"));
        let schemes: Vec<String> = offers
            .map(|header| printable(header.value.split(|byte| *byte == b' ').next().unwrap_or_default()))
            .filter(|scheme| !scheme.is_empty())
            .collect();
        let basic = schemes.iter().any(|scheme| scheme.eq_ignore_ascii_case("basic"));
        if !basic && !schemes.is_empty() {
            format!("takes {} only, and Basic is all that is spoken here", schemes.join(" or "))
        } else if self.credentials.is_some() {
            "refused the user name or password".into()
        } else {
            "wants a user name and a password, and none were given".into()
        }
    }

    /// One answer of SOCKS5, if it is complete: its length, and whether it was the last.
    fn socks(&mut self, held: &[u8], out: &mut Vec<u8>) -> Result<Option<(usize, bool)>, ProxyFault> {
        let (version, length) = match self.awaits {
            Await::Head => return Ok(None),
            Await::Method => (5, Some(2)),
            Await::Verdict => (1, Some(2)),
            Await::Reply => (5, reply_length(held)?),
        };
        if held.first().is_some_and(|first| *first != version) {
            return Err(ProxyFault::Unreadable(format!("it begins with {}, and this is SOCKS5", held[0])));
        }
        let Some(length) = length.filter(|length| held.len() >= *length) else { return Ok(None) };
        let answer = held[1];
        match self.awaits {
            Await::Method => self.method(answer, out)?,
            Await::Verdict if answer == 0 => self.ask(out)?,
            Await::Verdict => return Err(ProxyFault::Credentials("refused the user name or password".into())),
            Await::Reply => return verdict(answer).map(|()| Some((length, true))),
            Await::Head => {}
        }
        Ok(Some((length, false)))
    }

    fn method(&mut self, method: u8, out: &mut Vec<u8>) -> Result<(), ProxyFault> {
        match (method, &self.credentials) {
            (0, _) => self.ask(out),
            (2, Some((user, password))) => {
                out.extend_from_slice(&[1, user.len() as u8]);
                out.extend_from_slice(user.as_bytes());
                out.push(password.len() as u8);
                out.extend_from_slice(password.as_bytes());
                self.awaits = Await::Verdict;
                Ok(())
            }
            (0xff, Some(_)) => Err(ProxyFault::Credentials("takes no user name and password".into())),
            (0xff, None) => {
                Err(ProxyFault::Credentials("wants a user name and a password, and none were given".into()))
            }
            _ => Err(ProxyFault::Unreadable(format!("it chose method {method}, which was not offered"))),
        }
    }

    fn ask(&mut self, out: &mut Vec<u8>) -> Result<(), ProxyFault> {
        out.extend_from_slice(&[5, 1, 0]);
        match self.host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => {
                out.push(1);
                out.extend_from_slice(&ip.octets());
            }
            Ok(IpAddr::V6(ip)) => {
                out.push(4);
                out.extend_from_slice(&ip.octets());
            }
            Err(_) if self.host.len() > SOCKS_TEXT_MAX => {
                return Err(ProxyFault::Unreadable("the tunnel server's name is too long for SOCKS".into()));
            }
            Err(_) => {
                out.extend_from_slice(&[3, self.host.len() as u8]);
                out.extend_from_slice(self.host.as_bytes());
            }
        }
        out.extend_from_slice(&self.port.to_be_bytes());
        self.awaits = Await::Reply;
        Ok(())
    }
}

/// How long a SOCKS reply is, as soon as its own bytes say so.
fn reply_length(held: &[u8]) -> Result<Option<usize>, ProxyFault> {
    match (held.get(1), held.get(3), held.get(4)) {
        // Some proxies end a refusal there, and what may follow is of no use.
        (Some(code), ..) if *code != 0 => Ok(Some(2)),
        (_, Some(1), _) => Ok(Some(4 + 4 + 2)),
        (_, Some(4), _) => Ok(Some(4 + 16 + 2)),
        (_, Some(3), Some(length)) => Ok(Some(4 + 1 + usize::from(*length) + 2)),
        (_, Some(3) | None, None) | (_, None, Some(_)) => Ok(None),
        (_, Some(other), _) => Err(ProxyFault::Unreadable(format!("an address of type {other}"))),
    }
}

fn verdict(code: u8) -> Result<(), ProxyFault> {
    let beyond = |words: &str| Err(ProxyFault::Beyond(words.into()));
    match code {
        0 => Ok(()),
        2 => Err(ProxyFault::Refused("not allowed by its rules".into())),
        3 => beyond("network unreachable"),
        4 => beyond("host unreachable"),
        5 => beyond("connection refused"),
        6 => beyond("time to live expired"),
        1 => beyond("general failure"),
        other => Err(ProxyFault::Refused(format!("SOCKS reply {other}"))),
    }
}

/// `host:port`, an IPv6 literal in brackets.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Somebody else's words, short and without control characters.
fn printable(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words);
    text.chars().filter(|letter| !letter.is_control()).take(WORDS_MAX).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(kind: ProxyKind, credentials: Option<(&str, &str)>) -> Proxy {
        let credentials = credentials.map(|(user, password)| (user.to_owned(), password.to_owned()));
        Proxy { kind, host: "proxy.corp".into(), port: 3128, credentials }
    }

    fn begin(proxy: &Proxy, host: &str) -> (Talk, Vec<u8>) {
        let mut out = Vec::new();
        let talk = Talk::begin(proxy, host, 443, &mut out).unwrap();
        (talk, out)
    }

    /// The answers one after the other, each in pieces of `piece` bytes; what was said, and the end of it.
    fn play(talk: &mut Talk, answers: &[&[u8]], piece: usize) -> (Vec<u8>, Result<Progress, ProxyFault>) {
        let (mut said, mut last) = (Vec::new(), Ok(Progress::Talking));
        for answer in answers {
            for part in answer.chunks(piece) {
                last = talk.take(part, &mut said);
                if last != Ok(Progress::Talking) {
                    return (said, last);
                }
            }
        }
        (said, last)
    }

    fn connect(answer: &[u8], credentials: Option<(&str, &str)>) -> Result<Progress, ProxyFault> {
        begin(&proxy(ProxyKind::Connect, credentials), "pop.test").0.take(answer, &mut Vec::new())
    }

    #[test]
    fn connect_names_its_target_and_gives_basic_credentials() {
        let (_, said) = begin(&proxy(ProxyKind::Connect, Some(("sam", "pass:word"))), "2001:db8::1");
        let said = String::from_utf8(said).unwrap();
        assert!(said.starts_with("CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n"), "{said}");
        assert!(said.ends_with("Proxy-Authorization: Basic c2FtOnBhc3M6d29yZA==\r\n\r\n"), "{said}");
    }

    #[test]
    fn connects_answer_may_come_byte_by_byte_and_what_follows_it_is_not_the_proxys() {
        let answer = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 x\r\n\r\n";
        for piece in 1..=answer.len() {
            let (mut talk, _) = begin(&proxy(ProxyKind::Connect, None), "pop.test");
            let (_, end) = play(&mut talk, &[answer], piece);
            assert!(matches!(end, Ok(Progress::Through(used)) if used <= piece));
        }
        assert_eq!(connect(b"HTTP/1.0 200 \r\n\r\n\x16\x03\x03", None), Ok(Progress::Through(17)));
    }

    #[test]
    fn each_refusal_of_connect_has_its_name() {
        let code = |answer: &[u8], credentials| connect(answer, credentials).unwrap_err().to_string();
        let basic = b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n";
        assert!(code(basic, None).starts_with("DRTP-4050: the proxy wants"));
        assert!(code(basic, Some(("a", "b"))).starts_with("DRTP-4050: the proxy refused"));
        let other = b"HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n";
        assert!(code(other, Some(("a", "b"))).contains("takes Negotiate or NTLM only"));
        assert_eq!(
            code(b"HTTP/1.1 403 For\x07bidden\r\n\r\n", None).split(':').next(),
            Some("DRTP-4052"),
            "a control character is no part of a reason"
        );
        assert!(code(b"HTTP/1.1 403 Forbidden\r\n\r\n", None).starts_with("DRTP-4051"));
        assert!(code(b"HTTP/1.1 401 Unauthorized\r\n\r\n", Some(("a", "b"))).starts_with("DRTP-4050"));
        assert!(code(b"HTTP/1.1 503 Service Unavailable\r\n\r\n", None).starts_with("DRTP-4053"));
        assert!(code(b"SSH-2.0-OpenSSH_9.2\r\n", None).starts_with("DRTP-4052"));
        assert!(code(b"\x05\x00", None).starts_with("DRTP-4052"));
    }

    #[test]
    fn a_head_without_end_is_cut_off() {
        let (mut talk, _) = begin(&proxy(ProxyKind::Connect, None), "pop.test");
        talk.take(b"HTTP/1.1 200 OK\r\nX: ", &mut Vec::new()).unwrap();
        let endless = vec![b'x'; 1_024];
        let fault = (0..20).find_map(|_| talk.take(&endless, &mut Vec::new()).err()).expect("an end");
        assert!(matches!(fault, ProxyFault::Unreadable(_)), "{fault}");
        assert!(talk.held.len() <= HEAD_BYTES_MAX + 1_024);
    }

    #[test]
    fn socks_asks_by_name_with_user_and_password() {
        for piece in 1..=16 {
            let (mut talk, hello) = begin(&proxy(ProxyKind::Socks5, Some(("sam", "pw"))), "pop.test");
            assert_eq!(hello, [5, 2, 0, 2]);
            let reply = [&[5, 0, 0, 3, 4][..], b"here", &[0, 80]].concat();
            let (said, end) = play(&mut talk, &[&[5, 2], &[1, 0], &reply], piece);
            assert_eq!(said, [&b"\x01\x03sam\x02pw"[..], b"\x05\x01\x00\x03\x08pop.test\x01\xbb"].concat());
            assert!(matches!(end, Ok(Progress::Through(_))));
        }
    }

    #[test]
    fn socks_leaves_what_follows_its_reply() {
        let (mut talk, hello) = begin(&proxy(ProxyKind::Socks5, None), "192.0.2.7");
        assert_eq!(hello, [5, 1, 0]);
        let mut said = Vec::new();
        assert_eq!(talk.take(&[5, 0], &mut said), Ok(Progress::Talking));
        assert_eq!(said, [5, 1, 0, 1, 192, 0, 2, 7, 1, 0xbb]);
        let reply = [5, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x16, 0x03];
        assert_eq!(talk.take(&reply, &mut said), Ok(Progress::Through(10)));
    }

    #[test]
    fn each_refusal_of_socks_has_its_name() {
        let end = |answers: &[&[u8]], credentials| {
            let (mut talk, _) = begin(&proxy(ProxyKind::Socks5, credentials), "pop.test");
            play(&mut talk, answers, 64).1.unwrap_err().to_string()[..9].to_owned()
        };
        assert_eq!(end(&[&[5, 0xff]], None), "DRTP-4050");
        assert_eq!(end(&[&[5, 2], &[1, 1]], Some(("a", "b"))), "DRTP-4050");
        assert_eq!(end(&[&[5, 0], &[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]], None), "DRTP-4051");
        assert_eq!(end(&[&[5, 0], &[5, 5]], None), "DRTP-4053");
        assert_eq!(end(&[&[5, 2]], None), "DRTP-4052");
        assert_eq!(end(&[b"HTTP/1.1 400 Bad Request\r\n"], None), "DRTP-4052");
        assert_eq!(end(&[&[5, 0], &[5, 0, 0, 9, 0]], None), "DRTP-4052");
        let long = "x".repeat(256);
        let wrong = proxy(ProxyKind::Socks5, Some((&long, "b")));
        assert!(Talk::begin(&wrong, "pop.test", 443, &mut Vec::new()).is_err());
    }

    #[test]
    fn credentials_show_nowhere() {
        let proxy = proxy(ProxyKind::Connect, Some(("sam", "hunter2")));
        let shown = format!("{proxy:?} {proxy}");
        assert!(!shown.contains("hunter2") && !shown.contains("sam"), "{shown}");
    }
}

//! `ADDRESS name=value …`

use std::collections::HashMap;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

/// What a scenario was started with.
pub struct Arguments {
    /// Where visitors go.
    pub address: SocketAddr,
    named: HashMap<String, String>,
}

impl Arguments {
    /// The first word is the address, the others are settings.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        let (address, rest) = words.split_first().ok_or("name the address to visit")?;
        let address = address.parse().map_err(|_| format!("{address:?} is no address:port"))?;
        let mut named = HashMap::new();
        for word in rest {
            let (name, value) = word.split_once('=').ok_or_else(|| format!("{word:?} is not name=value"))?;
            named.insert(name.to_owned(), value.to_owned());
        }
        Ok(Self { address, named })
    }

    /// A number, or what stands for it when nothing is said.
    pub fn number<T: FromStr>(&self, name: &str, otherwise: T) -> Result<T, String> {
        match self.named.get(name) {
            None => Ok(otherwise),
            Some(text) => text.parse().map_err(|_| format!("{name}={text}: that is no such number")),
        }
    }

    /// A word, or what stands for it when nothing is said.
    pub fn word<'a>(&'a self, name: &str, otherwise: &'a str) -> &'a str {
        self.named.get(name).map_or(otherwise, String::as_str)
    }

    /// How long to measure.
    pub fn time(&self) -> Result<Duration, String> {
        Ok(Duration::from_secs_f64(self.number("seconds", 5.0)?))
    }
}

//! Which country an address is in, by a database file in MaxMind's format that the operator supplies.

use std::net::IpAddr;
use std::path::Path;

use maxminddb::path;

/// ISO 3166-1 alpha-2.
pub type Country = [u8; 2];

/// Two capital letters, or nothing that is compared.
pub fn country(text: &str) -> Option<Country> {
    <[u8; 2]>::try_from(text.as_bytes()).ok().filter(|code| code.iter().all(u8::is_ascii_uppercase))
}

/// The file, read whole.
#[derive(Debug)]
pub struct Countries {
    reader: maxminddb::Reader<Vec<u8>>,
}

impl Countries {
    /// Reads a database of countries or cities.
    pub fn open(path: &Path) -> Result<Self, String> {
        let reader = maxminddb::Reader::open_readfile(path);
        Ok(Self { reader: reader.map_err(|error| format!("{}: {error}", path.display()))? })
    }

    /// `None` where the file does not say. A block's owner's country is no substitute for where it is.
    pub fn of(&self, address: IpAddr) -> Option<Country> {
        let found = self.reader.lookup(address.to_canonical()).ok()?;
        country(found.decode_path::<&str>(&path!["country", "iso_code"]).ok()??)
    }
}

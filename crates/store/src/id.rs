//! The name of an image, safe as a part of a file name.
//!
//! Ids are made by the caller, who has the randomness; this module only says which texts are ids. Whatever is not 1 to
//! 64 lower-case hexadecimal digits is refused, so no id can leave the store's folder or collide by letter case.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest id in bytes: the hexadecimal form of a 32-byte hash.
pub(crate) const MAX_ID_LEN: usize = 64;

/// A text is not an image id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an image id: 1 to 64 lower-case hexadecimal digits are expected")]
pub struct BadId {
    /// Text that was given.
    pub text: String,
}

/// Identifies one image in a store: 1 to 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageId(String);

impl ImageId {
    /// Takes `text` as an id, or says that it is none.
    pub fn new(text: impl Into<String>) -> Result<ImageId, BadId> {
        let text = text.into();
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.is_empty() || text.len() > MAX_ID_LEN || !text.bytes().all(is_digit) {
            return Err(BadId { text });
        }
        Ok(ImageId(text))
    }

    /// Makes an id of random bytes that the caller provides.
    pub fn from_bytes(bytes: [u8; 16]) -> ImageId {
        ImageId(format!("{:032x}", u128::from_be_bytes(bytes)))
    }

    /// Returns the digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ImageId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<ImageId, BadId> {
        ImageId::new(text)
    }
}

impl TryFrom<String> for ImageId {
    type Error = BadId;

    fn try_from(text: String) -> Result<ImageId, BadId> {
        ImageId::new(text)
    }
}

impl From<ImageId> for String {
    fn from(id: ImageId) -> String {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // An id becomes a file name: nothing that could name another folder or file may pass.
    #[test]
    fn only_short_lower_case_hex_is_an_id() {
        for good in ["0", "deadbeef", &"f".repeat(64)] {
            assert_eq!(ImageId::new(good).expect(good).as_str(), good);
        }
        for bad in ["", "..", "a/b", "A0", "g", "0 ", &"0".repeat(65), "ä", "a\0"] {
            assert!(matches!(ImageId::new(bad), Err(BadId { .. })), "{bad:?}");
        }
    }

    // Manifests store ids as JSON text: reading one back must refuse what `new` refuses.
    #[test]
    fn serde_form_is_the_digits_and_is_validated() {
        let id = ImageId::from_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        assert_eq!(id.as_str(), "000102030405060708090a0b0c0d0eff");
        let json = serde_json::to_string(&id).expect("an id is text");
        assert_eq!(serde_json::from_str::<ImageId>(&json).expect("it came from an id"), id);
        assert!(serde_json::from_str::<ImageId>("\"../x\"").is_err());
    }
}

//! Names by content: BLAKE3 hashes of objects, of blocks and of packs' directories.
//!
//! Each is a type of its own, so that a block's hash is never looked up among objects. As text they are 64 lower-case
//! hexadecimal digits.

use std::fmt;
use std::str::FromStr;

/// Length of every hash in bytes.
pub(crate) const HASH_LEN: usize = 32;

/// A text is not a hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a hash: 64 lower-case hexadecimal digits are expected")]
pub struct BadHash {
    /// Text that was given.
    pub text: String,
}

/// The same for all three.
macro_rules! hash_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; HASH_LEN]);

        impl $name {
            /// Hashes `content`.
            pub fn of(content: &[u8]) -> $name {
                $name(*blake3::hash(content).as_bytes())
            }

            /// Takes the bytes of a hash.
            pub const fn from_bytes(bytes: [u8; HASH_LEN]) -> $name {
                $name(bytes)
            }

            /// Returns the bytes.
            pub const fn as_bytes(&self) -> &[u8; HASH_LEN] {
                &self.0
            }

            /// Returns the first eight bytes as a number that sorts as the hashes do.
            pub fn prefix(&self) -> u64 {
                let [a, b, c, d, e, f, g, h, ..] = self.0;
                u64::from_be_bytes([a, b, c, d, e, f, g, h])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = BadHash;

            fn from_str(text: &str) -> Result<$name, BadHash> {
                from_hex(text).map($name)
            }
        }
    };
}

hash_type! {
    /// Names an object: the hash of its uncompressed bytes.
    ObjectHash
}
hash_type! {
    /// Names the content of one block.
    BlockHash
}
hash_type! {
    /// Names a pack: the hash of its directory.
    PackId
}

fn from_hex(text: &str) -> Result<[u8; HASH_LEN], BadHash> {
    let refused = || BadHash { text: text.to_owned() };
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(refused()),
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != HASH_LEN || !rest.is_empty() {
        return Err(refused());
    }
    let mut bytes = [0; HASH_LEN];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Hashes become names of files: text and bytes must be one to one, or a pack would not be found again.
    #[test]
    fn text_and_bytes_are_one_to_one() {
        let id = PackId::of(b"directory");
        let text = id.to_string();
        assert_eq!(text.len(), 64);
        assert_eq!(text.parse::<PackId>().expect("it came from an id"), id);
        for bad in [
            "",
            "00",
            &text[1..],
            &format!("{text}0"),
            &text.to_uppercase(),
            &text.replacen(&text[..1], "g", 1),
        ] {
            assert!(matches!(bad.parse::<PackId>(), Err(BadHash { .. })), "{bad:?}");
        }
    }

    // Segments are sorted by prefix and searched by hash: the orders must be one.
    #[test]
    fn prefixes_sort_as_hashes_do() {
        let mut hashes: Vec<BlockHash> = (0..100_u8).map(|n| BlockHash::of(&[n])).collect();
        hashes.sort_unstable();
        assert!(hashes.windows(2).all(|pair| pair[0].prefix() <= pair[1].prefix()));
    }
}

//! Names and ids: what may be the name of a VM or of a snapshot, and the newtypes that keep ids apart.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::host::Host;

/// The longest name, in bytes: it is a folder name and part of socket paths.
const NAME_MAX: usize = 64;

/// Checks a name: 1 to 64 of `A-Z a-z 0-9 . _ -`, not starting with `.` or `-`.
fn check_name(kind: &str, name: &str) -> Result<()> {
    let refuse = |why: String| {
        let shown: String = name.chars().take(40).collect();
        let dots = if name.chars().count() > 40 { "..." } else { "" };
        Err(Error::usage(format!("{kind} name '{}{dots}' is not allowed: {why}", shown.escape_debug()))
            .with_hint(Hint::NameRules))
    };
    if name.is_empty() {
        return refuse("it is empty".into());
    }
    if name.len() > NAME_MAX {
        return refuse(format!("it has {} bytes, at most {NAME_MAX} are possible", name.len()));
    }
    if let Some(c) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || "._-".contains(*c))) {
        return refuse(format!("it holds the character {c:?}"));
    }
    if name.starts_with(['.', '-']) {
        return refuse("it starts with '.' or '-'".into());
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Error;
            fn from_str(name: &str) -> Result<Self> {
                check_name($kind, name)?;
                Ok(Self(name.to_owned()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = Error;
            fn try_from(name: String) -> Result<Self> {
                name.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// The name of a VM; also its folder's name.
    VmName, "VM"
);
name_type!(
    /// The name of a snapshot, unique within its VM.
    SnapshotName, "snapshot"
);

macro_rules! id_type {
    ($(#[$doc:meta])* $type:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Makes a new id from the host's randomness.
            pub fn random(host: &Host) -> Self {
                Self(host.random_hex::<$bytes>())
            }

            /// The id as lower-case hex.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if text.len() == 2 * $bytes && text.bytes().all(hex) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(Error::damaged(format!("'{}' is not an id of {} hex digits", text.escape_debug(), 2 * $bytes)))
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(id: $type) -> String {
                id.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id_type!(
    /// The id of a VM, kept for its life whatever its name.
    VmId, 16
);
id_type!(
    /// The id of a snapshot: its manifest's file name, and the id of its memory image.
    SnapshotId, 8
);
id_type!(
    /// The id of a delta layer: its file name, and part of its QEMU node name.
    LayerId, 8
);

impl LayerId {
    /// The name of the block node that vmrewind gives this layer in QEMU (at most 31 characters are possible there).
    pub fn node_name(&self) -> String {
        format!("vmr-{}", self.0)
    }
}

/// Checks of what stands in a record as plain text and becomes part of a path: damage, or a hand that may write the root,
/// must not lead out of a VM's folder.
pub(crate) mod checked {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer};
    use vmrewind_store::ImageId;

    /// The name of a disk: that of the folder of its layers.
    pub(crate) fn disk_name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
        let name = String::deserialize(from)?;
        let is_good =
            !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && !name.contains(['/', '\0']);
        if is_good {
            Ok(name)
        } else {
            Err(D::Error::custom(format!("'{}' is no name of a disk", name.escape_debug())))
        }
    }

    /// The id of a memory image.
    pub(crate) fn image<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
        let id = String::deserialize(from)?;
        check_image::<D::Error>(&id).map(|()| id)
    }

    /// The id of a memory image, or null.
    pub(crate) fn maybe_image<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
        let id = Option::<String>::deserialize(from)?;
        id.iter().try_for_each(|id| check_image::<D::Error>(id))?;
        Ok(id)
    }

    /// Ids of memory images.
    pub(crate) fn images<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
        let ids = Vec::<String>::deserialize(from)?;
        ids.iter().try_for_each(|id| check_image::<D::Error>(id))?;
        Ok(ids)
    }

    fn check_image<E: serde::de::Error>(id: &str) -> Result<(), E> {
        ImageId::new(id)
            .map(drop)
            .map_err(|_| E::custom(format!("'{}' is no id of a memory image", id.escape_debug())))
    }

    /// A number of bytes that a disk or a machine can have.
    pub(crate) fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        /// 64 PiB: sums of a great many of them still fit.
        const MOST: u64 = 1 << 56;
        let bytes = u64::deserialize(from)?;
        if bytes <= MOST {
            Ok(bytes)
        } else {
            Err(D::Error::custom(format!("{bytes} bytes are more than can be")))
        }
    }
}

/// A snapshot's address, `VM@NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The VM.
    pub vm: VmName,
    /// The snapshot's name.
    pub snapshot: SnapshotName,
}

impl FromStr for Address {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let Some((vm, snapshot)) = text.split_once('@') else {
            return Err(Error::usage(format!("'{}' is not the address of a snapshot", text.escape_debug()))
                .with_hint(Hint::AddressForm));
        };
        Ok(Self { vm: vm.parse()?, snapshot: snapshot.parse()? })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.vm, self.snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// A name becomes a folder name: nothing may lead out of the root or be mistaken for an option.
    #[test]
    fn names_that_could_leave_the_root_are_refused() {
        for bad in
            ["", "../x", "a/b", ".hidden", "-y", "a b", "x\n", "ü", "a@b", &"x".repeat(65), &"x".repeat(300)]
        {
            let error = bad.parse::<VmName>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{bad:?}");
            assert!(error.to_string().len() < 200, "message repeats a long name: {error}");
        }
        for good in ["a", "web-1", "db_2.old", "9", &"x".repeat(64)] {
            assert_eq!(good.parse::<VmName>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn addresses_are_vm_at_name() {
        let address: Address = "web@before".parse().unwrap();
        assert_eq!((address.vm.as_str(), address.snapshot.as_str()), ("web", "before"));
        for bad in ["web", "web@", "@x", "a@b@c"] {
            assert_eq!(bad.parse::<Address>().unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
    }
}

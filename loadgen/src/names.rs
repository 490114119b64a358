//! Names of a run's users and groups, and small numbers that stand for them inside.
//!
//! Every run has users of its own, so every conversation starts at seq 1 and nothing of another run can be
//! mistaken for this one's. All names of a kind have one length, so order of names is order of numbers.

use corelane_protocol::id::{ConvId, GroupId, UserId};

const USER_BYTES: usize = 17;

/// Names of one run.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    run: u32,
}

/// A conversation: two user numbers (smaller first), or a group number. Small, and cheap to hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConvKey(u64);

const GROUP_BIT: u64 = 1 << 63;

impl ConvKey {
    /// The conversation of two users.
    pub fn direct(one: u32, other: u32) -> Self {
        let (small, large) = if one <= other { (one, other) } else { (other, one) };
        Self(u64::from(small) << 32 | u64::from(large))
    }

    /// The conversation of a group.
    pub fn group(index: u32) -> Self {
        Self(GROUP_BIT | u64::from(index))
    }

    /// As a number for payloads.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The two users, if it is a direct conversation.
    #[expect(clippy::cast_possible_truncation, reason = "takes the halves apart")]
    pub const fn users(self) -> Option<(u32, u32)> {
        if self.0 & GROUP_BIT == 0 {
            Some(((self.0 >> 32) as u32, self.0 as u32))
        } else {
            None
        }
    }

    /// The group, if it is one.
    #[expect(clippy::cast_possible_truncation, reason = "takes the halves apart")]
    pub const fn group_index(self) -> Option<u32> {
        if self.0 & GROUP_BIT == 0 {
            None
        } else {
            Some(self.0 as u32)
        }
    }
}

impl Names {
    /// Names of the run with this id.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "32 bits tell runs on one store apart"
    )]
    pub const fn new(run_id: u64) -> Self {
        Self { run: run_id as u32 }
    }

    /// Name of user number `index`.
    pub fn user(&self, index: u32) -> String {
        format!("l{:08x}{index:08}", self.run)
    }

    /// Name of group number `index`.
    pub fn group(&self, index: u32) -> String {
        format!("g{:08x}{index:08}", self.run)
    }

    /// Number of the user with this name.
    pub fn user_index(&self, name: &str) -> Option<u32> {
        self.index_of(name, "l")
    }

    fn index_of(self, name: &str, kind: &str) -> Option<u32> {
        if name.len() != USER_BYTES {
            return None;
        }
        let rest = name.strip_prefix(kind)?;
        let (run, index) = rest.split_at_checked(8)?;
        (u32::from_str_radix(run, 16) == Ok(self.run)).then_some(())?;
        index.parse().ok()
    }

    /// The conversation with these bytes, if it is one of this run.
    pub fn conv_key(&self, conv: &[u8]) -> Option<ConvKey> {
        match conv {
            [0x01, len, users @ ..] => {
                let users = std::str::from_utf8(users).ok()?;
                let (small, large) = users.split_at_checked(usize::from(*len))?;
                Some(ConvKey::direct(self.user_index(small)?, self.user_index(large)?))
            }
            [0x02, group @ ..] => {
                let group = std::str::from_utf8(group).ok()?;
                Some(ConvKey::group(self.index_of(group, "g")?))
            }
            _ => None,
        }
    }

    /// The conversation's id.
    ///
    /// # Panics
    ///
    /// Never: these names are valid ids.
    pub fn conv_id(&self, key: ConvKey) -> ConvId {
        let user = |index| UserId::new(&self.user(index)).expect("17 plain characters");
        if let Some((small, large)) = key.users() {
            return ConvId::direct(&user(small), &user(large));
        }
        let name = self.group(key.group_index().unwrap_or(0));
        ConvId::group(&GroupId::new(&name).expect("17 plain characters"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_to_each_other() {
        let names = Names::new(0xdead_beef_0012);
        for key in [
            ConvKey::direct(7, 3),
            ConvKey::direct(0, 12_345_678),
            ConvKey::group(42),
        ] {
            assert_eq!(names.conv_key(names.conv_id(key).as_bytes()), Some(key));
        }
        assert_eq!(ConvKey::direct(7, 3), ConvKey::direct(3, 7));
        assert_eq!(names.user_index(&names.user(99)), Some(99));
        assert_eq!(Names::new(1).user_index(&names.user(99)), None);
        assert_eq!(names.conv_key(b"\x02team"), None);
        assert_eq!(names.user(1).len(), USER_BYTES);
    }
}

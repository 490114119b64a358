//! The client's errors, sorted in one place by what they leave known.
//!
//! The client wraps: an error may hold many, which hold many. What matters is the most telling one inside. A conflict, a
//! key that exists and a lock can only come from prewriting, before a commit began: nothing was or will be written. Of
//! every other error of a commit nothing follows: the transaction may be there, in part or not at all.

use std::sync::atomic::{AtomicU64, Ordering};

use tikv_client::{Error, ProtoKeyError, ProtoLockInfo, ProtoRegionError};

/// What kind of failure it is. The first of several wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum FaultClass {
    /// A row that must not exist is there.
    Exists = 0,
    /// Somebody else wrote what was read.
    Conflict = 1,
    /// Another transaction holds a key.
    Locked = 2,
    /// The server has too much to do.
    Busy = 3,
    /// The disk of the server is full.
    Full = 4,
    /// More than the server takes at a time.
    TooLarge = 5,
    /// The region moved, split or has no leader.
    Region = 6,
    /// The connection failed.
    Transport = 7,
    /// The transaction is gone: it was rolled back by somebody who waited for it.
    Gone = 8,
    /// The client says that it does not know.
    Undetermined = 9,
    /// The deadline of the call passed.
    Timeout = 10,
    /// Anything else.
    Other = 11,
}

impl FaultClass {
    /// All of them, in order.
    pub const ALL: [Self; 12] = [
        Self::Exists,
        Self::Conflict,
        Self::Locked,
        Self::Busy,
        Self::Full,
        Self::TooLarge,
        Self::Region,
        Self::Transport,
        Self::Gone,
        Self::Undetermined,
        Self::Timeout,
        Self::Other,
    ];

    /// Its name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exists => "exists",
            Self::Conflict => "conflict",
            Self::Locked => "locked",
            Self::Busy => "busy",
            Self::Full => "full",
            Self::TooLarge => "too_large",
            Self::Region => "region",
            Self::Transport => "transport",
            Self::Gone => "gone",
            Self::Undetermined => "undetermined",
            Self::Timeout => "timeout",
            Self::Other => "other",
        }
    }

    /// Whether a commit that ended with it has written nothing and never will.
    pub const fn is_refusal(self) -> bool {
        matches!(self, Self::Exists | Self::Conflict | Self::Locked)
    }

    /// Whether a new connection might help.
    pub const fn is_of_connection(self) -> bool {
        matches!(
            self,
            Self::Transport | Self::Timeout | Self::Undetermined | Self::Other
        )
    }

    /// Whether the same is worth another try soon.
    pub(super) const fn is_passing(self) -> bool {
        !matches!(self, Self::TooLarge)
    }
}

/// A lock that stood in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lock {
    /// The key.
    pub(super) key: Vec<u8>,
    /// Start timestamp of who holds it.
    pub(super) holder: u64,
}

impl From<&ProtoLockInfo> for Lock {
    fn from(lock: &ProtoLockInfo) -> Self {
        Self {
            key: lock.key.clone(),
            holder: lock.lock_version,
        }
    }
}

/// A failed call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// Its kind.
    pub(super) class: FaultClass,
    /// For logs.
    pub(super) text: String,
    /// What it waited for in vain. Their holders are right; a key may be the holder's primary key instead of the one that
    /// was wanted.
    pub(super) locks: Vec<Lock>,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.class.name(), self.text)
    }
}

/// Characters of an error's text that are kept: the client puts whole messages into some.
const TEXT_CHARS: usize = 300;

impl Fault {
    pub(super) fn new(class: FaultClass, text: impl Into<String>) -> Self {
        Self {
            class,
            text: text.into(),
            locks: Vec::new(),
        }
    }

    pub(super) fn timeout(what: &str) -> Self {
        Self::new(FaultClass::Timeout, format!("no answer to {what} in time"))
    }

    pub(super) fn locked(text: &str) -> Self {
        Self::new(FaultClass::Locked, text)
    }

    /// Whether what stands in the way is a lock of the transaction that began at `start`, or one whose primary key nobody
    /// knows.
    pub(super) fn may_be_of(&self, start: u64) -> bool {
        self.class == FaultClass::Gone || self.locks.iter().any(|lock| lock.holder == start)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let text: String = error.to_string().chars().take(TEXT_CHARS).collect();
        let mut found = Found::default();
        found.add(&error);
        let class = if found.is_undetermined {
            FaultClass::Undetermined
        } else {
            found.class.unwrap_or(FaultClass::Other)
        };
        Self {
            class,
            text,
            locks: found.locks,
        }
    }
}

#[derive(Default)]
struct Found {
    class: Option<FaultClass>,
    /// The client says that the commit had begun: whatever else is inside.
    is_undetermined: bool,
    locks: Vec<Lock>,
}

impl Found {
    fn note(&mut self, class: FaultClass) {
        self.class = Some(self.class.map_or(class, |known| known.min(class)));
    }

    fn add(&mut self, error: &Error) {
        match error {
            Error::ExtractedErrors(errors) | Error::MultipleKeyErrors(errors) => {
                for error in errors {
                    self.add(error);
                }
            }
            Error::UndeterminedError(_) => self.is_undetermined = true,
            Error::PessimisticLockError { inner, .. } => self.add(inner),
            Error::ResolveLockError(locks) => {
                self.note(FaultClass::Locked);
                self.locks.extend(locks.iter().map(Lock::from));
            }
            Error::KeyError(error) => self.add_key(error),
            Error::RegionError(error) => self.note(region_class(error)),
            Error::DuplicateKeyInsertion => self.note(FaultClass::Exists),
            Error::TxnNotFound(_) => self.note(FaultClass::Gone),
            Error::Io(_)
            | Error::Channel(_)
            | Error::Grpc(_)
            | Error::GrpcAPI(_)
            | Error::Canceled(_)
            | Error::InternalError { .. } => self.note(FaultClass::Transport),
            Error::LeaderNotFound { .. }
            | Error::RegionForKeyNotFound { .. }
            | Error::RegionForRangeNotFound { .. }
            | Error::RegionNotFoundInResponse { .. }
            | Error::EntryNotFoundInRegionCache
            | Error::NoCurrentRegions => self.note(FaultClass::Region),
            _ => self.note(FaultClass::Other),
        }
    }

    fn add_key(&mut self, error: &ProtoKeyError) {
        if error.already_exist.is_some() {
            self.note(FaultClass::Exists);
        } else if error.conflict.is_some() {
            self.note(FaultClass::Conflict);
        } else if let Some(locked) = &error.locked {
            self.note(FaultClass::Locked);
            self.locks.push(Lock::from(locked));
        } else if error.txn_not_found.is_some() || !error.retryable.is_empty() {
            // A commit whose lock is gone: old servers say so in `retryable` only.
            self.note(FaultClass::Gone);
        } else {
            self.note(FaultClass::Other);
        }
    }
}

fn region_class(error: &ProtoRegionError) -> FaultClass {
    if error.server_is_busy.is_some() {
        FaultClass::Busy
    } else if error.disk_full.is_some() {
        FaultClass::Full
    } else if error.raft_entry_too_large.is_some() {
        FaultClass::TooLarge
    } else {
        FaultClass::Region
    }
}

/// How often each kind occurred since the start.
#[derive(Debug, Default)]
pub(super) struct FaultCounts([AtomicU64; FaultClass::ALL.len()]);

impl FaultCounts {
    pub(super) fn count(&self, class: FaultClass) {
        if let Some(counter) = self.0.get(class as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn all(&self) -> Vec<(FaultClass, u64)> {
        let counts = self.0.iter().map(|counter| counter.load(Ordering::Relaxed));
        FaultClass::ALL.into_iter().zip(counts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_error(fill: impl FnOnce(&mut ProtoKeyError)) -> Error {
        let mut error = ProtoKeyError::default();
        fill(&mut error);
        Error::KeyError(Box::new(error))
    }

    fn locked() -> Error {
        let lock = ProtoLockInfo {
            key: b"k".to_vec(),
            lock_version: 7,
            ..ProtoLockInfo::default()
        };
        key_error(|error| error.locked = Some(lock))
    }

    fn conflict() -> Error {
        key_error(|error| {
            error.conflict.get_or_insert_default();
        })
    }

    #[test]
    fn the_most_telling_error_is_found_in_every_wrapper() {
        let class = |error: Error| Fault::from(error).class;
        assert_eq!(
            class(Error::MultipleKeyErrors(vec![locked(), conflict()])),
            FaultClass::Conflict
        );
        let exists = key_error(|error| {
            error.already_exist.get_or_insert_default();
        });
        let deep = Error::ExtractedErrors(vec![Error::MultipleKeyErrors(vec![exists])]);
        assert_eq!(class(deep), FaultClass::Exists);
        let fault = Fault::from(Error::PessimisticLockError {
            inner: Box::new(locked()),
            success_keys: Vec::new(),
        });
        assert_eq!(fault.class, FaultClass::Locked);
        let lock = Lock {
            key: b"k".to_vec(),
            holder: 7,
        };
        assert_eq!(fault.locks, [lock]);
        assert!(fault.may_be_of(7) && !fault.may_be_of(8));
        let mut busy = ProtoRegionError::default();
        busy.server_is_busy.get_or_insert_default();
        assert_eq!(class(Error::RegionError(Box::new(busy))), FaultClass::Busy);
        assert_eq!(class(Error::ResolveLockError(Vec::new())), FaultClass::Locked);
        assert_eq!(class(Error::StringError("odd".to_owned())), FaultClass::Other);
        let gone = key_error(|error| error.retryable = "TxnLockNotFound".to_owned());
        assert_eq!(class(gone), FaultClass::Gone);
    }

    #[test]
    fn an_undetermined_commit_is_no_refusal_whatever_is_inside_or_beside_it() {
        let undetermined = || Error::UndeterminedError(Box::new(conflict()));
        for error in [
            undetermined(),
            Error::ExtractedErrors(vec![undetermined(), conflict()]),
        ] {
            let fault = Fault::from(error);
            assert_eq!(fault.class, FaultClass::Undetermined);
            assert!(!fault.class.is_refusal());
        }
        assert!(!Fault::timeout("commit").class.is_refusal());
        assert!(FaultClass::ALL.windows(2).all(|pair| pair[0] < pair[1]));
    }
}

//! Secrets in the data directory: made at the first start, readable by their owner only.
//!
//! A key file holds 64 hexadecimal characters (32 bytes) and is created with mode 0600. Several processes may start at
//! once on one directory: the file is made under another name and linked into place, so all read the same key.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Signs the tokens of users.
pub const TOKEN_KEY: &str = "token.key";
/// Shared by both ends of all links.
pub const LINK_KEY: &str = "link.key";
/// Opens the HTTP API; used as bearer token in its text form.
pub const ADMIN_KEY: &str = "admin.key";
/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// A key cannot be had. Always the operator's to mend.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The directory or the file cannot be made or read.
    #[error("{}: {source}; check that the directory exists and is writable for this user", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{}: is no key: expected 64 hexadecimal characters, found {found}", path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// What was found, without showing it.
        found: String,
    },
    /// Others may read it.
    #[error("{}: can be read by others (mode {mode:o}); run chmod 600 on it", path.display())]
    Mode {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

/// Makes the data directory if it is missing (mode 0700) and checks that it can be written.
///
/// # Errors
///
/// [`KeyError::Io`].
pub fn ensure_dir(dir: &Path) -> Result<(), KeyError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| KeyError::Io { path, source }
    };
    if !dir.exists() {
        fs::create_dir_all(dir).map_err(at(dir))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(at(dir))?;
    }
    let probe = dir.join(format!(".writable-{}", std::process::id()));
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&probe)
        .map_err(at(dir))?;
    fs::remove_file(&probe).map_err(at(&probe))
}

/// Reads the key `name` of `dir`; makes it if it is missing.
///
/// # Errors
///
/// [`KeyError`]: print it and exit.
pub fn ensure(dir: &Path, name: &str) -> Result<[u8; KEY_BYTES], KeyError> {
    let path = dir.join(name);
    match read(&path) {
        Err(KeyError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
        outcome => return outcome,
    }
    let io = |source| KeyError::Io {
        path: path.clone(),
        source,
    };
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(|error| io(std::io::Error::other(error.to_string())))?;
    let draft = dir.join(format!(".{name}-{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .map_err(io)?;
    file.write_all(format!("{}\n", to_hex(&key)).as_bytes())
        .map_err(io)?;
    file.sync_all().map_err(io)?;
    let linked = fs::hard_link(&draft, &path);
    fs::remove_file(&draft).map_err(io)?;
    match linked {
        Ok(()) => Ok(key),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => read(&path),
        Err(error) => Err(io(error)),
    }
}

/// Reads a key file.
///
/// # Errors
///
/// [`KeyError`].
pub fn read(path: &Path) -> Result<[u8; KEY_BYTES], KeyError> {
    let io = |source| KeyError::Io {
        path: path.to_owned(),
        source,
    };
    let text = fs::read_to_string(path).map_err(io)?;
    let mode = fs::metadata(path).map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Mode {
            path: path.to_owned(),
            mode,
        });
    }
    from_hex(text.trim()).ok_or_else(|| KeyError::Format {
        path: path.to_owned(),
        found: format!("{} characters", text.trim().chars().count()),
    })
}

/// A key as text.
pub fn to_hex(key: &[u8]) -> String {
    use std::fmt::Write as _;
    key.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> Option<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    if text.len() != 2 * KEY_BYTES || !text.is_ascii() {
        return None;
    }
    for (index, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = ensure(dir.path(), LINK_KEY).unwrap();
        assert_eq!(ensure(dir.path(), LINK_KEY).unwrap(), first);
        assert_ne!(ensure(dir.path(), TOKEN_KEY).unwrap(), first);
        let mode = fs::metadata(dir.path().join(LINK_KEY))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no drafts stay");
    }

    #[test]
    fn a_file_that_is_no_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ADMIN_KEY);
        fs::write(&path, "hello").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let text = ensure(dir.path(), ADMIN_KEY).unwrap_err().to_string();
        assert!(
            text.contains("admin.key") && text.contains("5 characters"),
            "{text}"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            ensure(dir.path(), ADMIN_KEY),
            Err(KeyError::Mode { mode: 0o644, .. })
        ));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = ensure_dir(Path::new("/proc/nowhere")).unwrap_err().to_string();
        assert!(error.contains("/proc/nowhere"), "{error}");
    }
}

//! Which cluster a data directory belongs to, where the store itself is elsewhere.
//!
//! A router that was pointed at another cluster's TiKV would serve its messages to the wrong people; one that was pointed at
//! an empty one, or at none at all, would begin anew without a word. So the first start notes the store's cluster in the
//! file [`CLUSTER_FILE`] of the data directory, and no later one takes another store.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use super::StoreError;

/// The file: 16 hexadecimal digits.
pub const CLUSTER_FILE: &str = "cluster";

/// The cluster that the directory remembers; `None` at the first start.
///
/// # Errors
///
/// [`StoreError::Open`]: the file cannot be read, or holds something else.
pub fn cluster(dir: &Path) -> Result<Option<u64>, StoreError> {
    let path = dir.join(CLUSTER_FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(path, format!("cannot be read: {error}"))),
    };
    match parse(text.trim()) {
        Some(cluster) => Ok(Some(cluster)),
        None => Err(wrong(
            path,
            format!(
                "names no cluster: expected 16 hexadecimal digits, found {} characters",
                text.trim().chars().count()
            ),
        )),
    }
}

/// Notes the cluster, if it is not noted.
///
/// # Errors
///
/// [`StoreError::Open`]: the file cannot be written.
pub fn remember(dir: &Path, cluster: u64) -> Result<(), StoreError> {
    let path = dir.join(CLUSTER_FILE);
    if path.exists() {
        return Ok(());
    }
    let draft = dir.join(format!(".{CLUSTER_FILE}-{}", std::process::id()));
    let write = || {
        let mut file = std::fs::File::create(&draft)?;
        writeln!(file, "{cluster:016x}")?;
        file.sync_all()?;
        std::fs::rename(&draft, &path)
    };
    write().map_err(|error: std::io::Error| wrong(path.clone(), format!("cannot be written: {error}")))
}

/// A cluster as it stands in the file and in the configuration.
pub fn parse(text: &str) -> Option<u64> {
    let is_digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_digits.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

fn wrong(path: PathBuf, problem: String) -> StoreError {
    StoreError::Open {
        path: path.display().to_string(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_remembers_its_first_cluster() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(cluster(dir.path()).unwrap(), None);
        remember(dir.path(), 0x1f).unwrap();
        remember(dir.path(), 0x2f).unwrap();
        assert_eq!(cluster(dir.path()).unwrap(), Some(0x1f));
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no drafts stay"
        );
    }

    #[test]
    fn a_file_that_names_no_cluster_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(CLUSTER_FILE), "+0000000000000ff\n").unwrap();
        let text = cluster(dir.path()).unwrap_err().to_string();
        assert!(
            text.contains(CLUSTER_FILE) && text.contains("16 characters"),
            "{text}"
        );
        assert_eq!(parse("00000000000000FF"), Some(255));
        assert_eq!(parse("ff"), None);
    }
}

//! What a power cut leaves of a program's files, read from a trace of its calls.
//!
//! A sync that came back without an error makes durable what had been written to that file when it was entered, whoever wrote
//! it. Of everything else that was written until the power went, each sector is on the disk or is not, and each change of a
//! file's length happened or did not. Files that were made are taken to be found again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use crate::strace::Call;

/// The calls that must be in the trace, as an option of strace.
pub const CALLS: &str = "trace=write,writev,pwrite64,pwritev,pwritev2,ftruncate,fallocate,fsync,fdatasync,sendto,sendmsg,sendmmsg";

/// What a disk writes whole.
const SECTOR_BYTES: usize = 512;

/// What happened to the files in a directory, in the order in which the calls were entered.
#[derive(Debug)]
pub struct Disk(BTreeMap<String, Vec<Step>>);

#[derive(Debug)]
struct Step {
    entered: usize,
    /// Line on which it came back; `None` if it did not, or failed.
    returned: Option<usize>,
    what: What,
}

#[derive(Debug)]
enum What {
    Write(u64, Vec<u8>),
    Length(u64),
    Sync,
}

/// What is on the disk of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsynced {
    /// All of it.
    Kept,
    /// Nothing.
    Lost,
    /// Each sector or not.
    Torn,
}

/// Numbers that look random, the same ones for the same seed.
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The next number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut next = self.0;
        next = (next ^ next >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        next = (next ^ next >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from(next >> 32).unwrap_or_default() % bound.max(1)
    }
}

impl Disk {
    /// What the calls of a trace did in `dir` to files whose names begin with `with`, but for those whose names end in one of
    /// `without`.
    ///
    /// # Errors
    ///
    /// A call that is not understood: what is left after it cannot be told.
    pub fn read(calls: Vec<Call>, dir: &Path, with: &str, without: &[&str]) -> Result<Self, String> {
        let mut files: BTreeMap<String, Vec<Step>> = BTreeMap::new();
        for call in calls {
            let path = Path::new(&call.target);
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let is_meant = name.starts_with(with) && !without.iter().any(|end| name.ends_with(end));
            if path.parent() != Some(dir) || !is_meant {
                continue;
            }
            let odd = |what: &str| format!("line {}: {} {what}", call.entered, call.name);
            let what = match call.name.as_str() {
                "fsync" | "fdatasync" => What::Sync,
                "ftruncate" => What::Length(call.number.ok_or_else(|| odd("has no length"))?),
                "pwrite64" => {
                    let at = call.number.ok_or_else(|| odd("has no offset"))?;
                    let whole = call.data.len();
                    let written = call
                        .result
                        .map_or(whole, |bytes| usize::try_from(bytes).unwrap_or(0));
                    What::Write(at, call.data.get(..written).unwrap_or_default().to_vec())
                }
                _ => return Err(odd("is none of what the store does")),
            };
            let returned = call
                .returned
                .filter(|_| call.result.is_some_and(|result| result >= 0));
            let step = Step {
                entered: call.entered,
                returned,
                what,
            };
            files.entry(name).or_default().push(step);
        }
        Ok(Self(files))
    }

    /// The lines on which something was written to files whose names contain `name`, at these offsets.
    pub fn writes(&self, name: &str, at: &Range<u64>) -> Vec<usize> {
        let files = self.0.iter().filter(|(file, _)| file.contains(name));
        let mut lines: Vec<usize> = files
            .flat_map(|(_, steps)| steps)
            .filter(|step| matches!(&step.what, What::Write(offset, _) if at.contains(offset)))
            .map(|step| step.entered)
            .collect();
        lines.sort_unstable();
        lines
    }

    /// Writes into `dir` what is left when the power goes while line `line` has been written and the next one has not.
    ///
    /// # Errors
    ///
    /// The files'.
    pub fn cut(&self, line: usize, unsynced: Unsynced, dice: &mut Dice, dir: &Path) -> std::io::Result<()> {
        for (name, steps) in &self.0 {
            std::fs::write(dir.join(name), left(steps, line, unsynced, dice))?;
        }
        Ok(())
    }
}

fn left(steps: &[Step], line: usize, unsynced: Unsynced, dice: &mut Dice) -> Vec<u8> {
    let happened = || steps.iter().take_while(|step| step.entered <= line);
    // What came back before this line is durable.
    let durable = happened()
        .filter(|step| {
            matches!(step.what, What::Sync) && step.returned.is_some_and(|returned| returned <= line)
        })
        .map(|step| step.entered)
        .max()
        .unwrap_or(0);
    let one_in = 1 + dice.below(8);
    let mut bytes = Vec::new();
    for step in happened() {
        let is_durable = step.returned.is_some_and(|returned| returned < durable);
        let mut is_kept = || match unsynced {
            _ if is_durable => true,
            Unsynced::Kept => true,
            Unsynced::Lost => false,
            Unsynced::Torn => dice.below(one_in) == 0,
        };
        match &step.what {
            What::Sync => {}
            What::Length(length) => {
                if is_kept() {
                    bytes.resize(usize::try_from(*length).expect("a small file"), 0);
                }
            }
            What::Write(at, data) => {
                let at = usize::try_from(*at).expect("a small file");
                write(&mut bytes, at, data, is_kept);
            }
        }
    }
    bytes
}

/// Writes the sectors that are kept.
fn write(bytes: &mut Vec<u8>, at: usize, data: &[u8], mut is_kept: impl FnMut() -> bool) {
    let mut done = 0;
    while done < data.len() {
        let from = at + done;
        let sector_end = (from / SECTOR_BYTES + 1) * SECTOR_BYTES;
        let take = (sector_end - from).min(data.len() - done);
        if is_kept() {
            if bytes.len() < from + take {
                bytes.resize(from + take, 0);
            }
            bytes
                .iter_mut()
                .skip(from)
                .zip(data.iter().skip(done).take(take))
                .for_each(|(into, byte)| *into = *byte);
        }
        done += take;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strace;

    fn disk(text: &str) -> Disk {
        Disk::read(strace::parse(text).unwrap(), Path::new("/d"), "f", &["-shm"]).unwrap()
    }

    fn after(disk: &Disk, line: usize, unsynced: Unsynced, seed: u64) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        disk.cut(line, unsynced, &mut Dice(seed), dir.path()).unwrap();
        std::fs::read(dir.path().join("f")).unwrap()
    }

    const TEXT: &str = "\
1 pwrite64(9</d/f>, \"ab\", 2, 0) = 2
1 fdatasync(9</d/f> <unfinished ...>
2 pwrite64(8</d/f>, \"c\", 1, 2) = 1
1 <... fdatasync resumed>) = 0
1 pwrite64(9</d/f>, \"d\", 1, 0) = 1
1 ftruncate(9</d/f>, 1) = 0
1 fdatasync(9</d/f>) = -1 EIO (Input/output error)
1 pwrite64(9</d/f-shm>, \"d\", 1, 0) = 1
";

    #[test]
    fn what_was_written_before_a_sync_that_came_back_is_there() {
        let disk = disk(TEXT);
        for (line, left) in [(0, ""), (2, ""), (3, "ab"), (7, "ab")] {
            assert_eq!(after(&disk, line, Unsynced::Lost, 1), left.as_bytes(), "{line}");
        }
        for (line, left) in [(0, "ab"), (2, "abc"), (4, "dbc"), (7, "d")] {
            assert_eq!(after(&disk, line, Unsynced::Kept, 1), left.as_bytes(), "{line}");
        }
    }

    #[test]
    fn of_what_was_not_synced_anything_may_be_there() {
        let disk = disk(TEXT);
        let seen: std::collections::BTreeSet<Vec<u8>> = (0..200)
            .map(|seed| after(&disk, 7, Unsynced::Torn, seed))
            .collect();
        for left in ["ab", "abc", "db", "dbc", "a", "d"] {
            assert!(seen.contains(left.as_bytes()), "{left}");
        }
        assert_eq!(seen.len(), 6);
        assert_eq!(disk.writes("f", &(0..1)), [0, 4]);
    }

    #[test]
    fn sectors_are_written_whole() {
        let mut bytes = vec![1; 2048];
        let mut turns = [false, true, false].into_iter();
        write(&mut bytes, 500, &[2; 600], || turns.next().unwrap());
        let two: Vec<usize> = (0..2048).filter(|at| bytes[*at] == 2).collect();
        assert_eq!((two.first(), two.len()), (Some(&512), 512));
    }

    #[test]
    fn a_call_that_is_not_known_is_an_error() {
        let calls = strace::parse("1 write(9</d/f>, \"ab\", 2) = 2\n").unwrap();
        assert!(Disk::read(calls, Path::new("/d"), "f", &[]).is_err());
    }
}

//! Runs a program under strace and reads what it wrote: the system calls in the order in which they happened.
//!
//! strace stops a thread when it enters a call and again when the call returns, and writes a line at each stop that it
//! shows. So the order of the lines is the order of what happened, whatever the clock says: a thread that was told
//! something after a call returned cannot enter its own call on an earlier line. A call whose two stops have another
//! call's line between them is cut in two (`<unfinished ...>`, `resumed`); both halves are put together here.
//!
//! The tracer runs as a grandchild (`-D`): the program is the child of the test, with the pid that the test knows.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::wait_for;

/// Longest string that is shown: every write of the programs is shorter.
const STRING_BYTES_MAX: &str = "1048576";
/// How long the tracer may take to write its last lines.
const LAST_LINES: Duration = Duration::from_secs(10);

/// The same program under strace, with the lines of all its threads in the file `trace`.
pub fn traced(command: &Command, trace: &Path, options: &[&str]) -> Command {
    let mut under = Command::new("strace");
    under.args([
        "-D",
        "-f",
        "--seccomp-bpf",
        "-q",
        "-yy",
        "-s",
        STRING_BYTES_MAX,
        "-o",
    ]);
    under.arg(trace).args(options).arg("--");
    under.arg(command.get_program()).args(command.get_args());
    let set = command
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    under.envs(set.collect::<Vec<(&OsStr, &OsStr)>>());
    under
}

/// The lines of a program that has ended, once the last of them is written.
///
/// # Panics
///
/// If the end of process `pid` is not in the file within 10 s.
pub fn lines(trace: &Path, pid: u32) -> String {
    let pid = pid.to_string();
    let is_end = |line: &str| {
        let (thread, rest) = line.split_once(' ').unwrap_or_default();
        thread == pid && rest.trim_start().starts_with("+++ ")
    };
    wait_for("the end of the trace", LAST_LINES, || {
        let text = std::fs::read(trace).ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().rev().any(is_end).then_some(text)
    })
}

/// One system call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// What the descriptor in its first argument is: a path, or `TCP:[from->to]`.
    pub target: String,
    /// All bytes of its string arguments.
    pub data: Vec<u8>,
    /// The last of its arguments, if that is a number: an offset or a length.
    pub number: Option<u64>,
    /// Line on which it was entered.
    pub entered: usize,
    /// Line on which it returned, if it did.
    pub returned: Option<usize>,
    /// What it returned: -1 for an error.
    pub result: Option<i64>,
}

/// Reads the lines of a trace into calls, in the order of their entry.
///
/// # Errors
///
/// The first line that is not understood, and why. A trace that is only partly understood proves nothing.
pub fn parse(text: &str) -> Result<Vec<Call>, String> {
    let mut calls: Vec<Call> = Vec::new();
    // By thread: the call that was entered and has not returned.
    let mut open: HashMap<&str, usize> = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let wrong = |problem: &str| {
            let shown: String = line.chars().take(160).collect();
            format!("line {}: {problem}: {shown}", number + 1)
        };
        let (thread, rest) = line.split_once(' ').ok_or_else(|| wrong("no thread"))?;
        let rest = rest.trim_start();
        if rest.starts_with("+++ ") || rest.starts_with("--- ") {
            continue;
        }
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let index = open.remove(thread).ok_or_else(|| wrong("resumes nothing"))?;
            let call = calls.get_mut(index).ok_or_else(|| wrong("resumes nothing"))?;
            let tail = resumed
                .strip_prefix(call.name.as_str())
                .and_then(|tail| tail.strip_prefix(" resumed>"))
                .ok_or_else(|| wrong("resumes another call"))?;
            call.returned = Some(number);
            call.result = result(tail);
            continue;
        }
        let (name, arguments) = rest.split_once('(').ok_or_else(|| wrong("no call"))?;
        let mut call = Call {
            name: name.to_owned(),
            entered: number,
            ..Call::default()
        };
        let tail = read_arguments(arguments, &mut call).map_err(|problem| wrong(&problem))?;
        call.number = last_number(tail);
        if tail.ends_with("<unfinished ...>") {
            if open.insert(thread, calls.len()).is_some() {
                return Err(wrong("the thread is in another call"));
            }
        } else {
            call.returned = Some(number);
            call.result = result(tail);
        }
        calls.push(call);
    }
    Ok(calls)
}

/// Reads the descriptor and the strings; gives what stands behind the last string.
fn read_arguments<'a>(arguments: &'a str, call: &mut Call) -> Result<&'a str, String> {
    let mut rest = arguments;
    if let Some((number, described)) = arguments.split_once('<')
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
    {
        // The arrow between two addresses is not the end.
        let end = described
            .match_indices('>')
            .find(|(at, _)| !described[..*at].ends_with('-'))
            .map(|(at, _)| at)
            .ok_or("the description of the descriptor does not end")?;
        described[..end].clone_into(&mut call.target);
        rest = &described[end + 1..];
    }
    while let Some(start) = rest.find('"') {
        let after = unescape(&rest[start + 1..], &mut call.data)?;
        if after.starts_with("...") {
            return Err("a string was cut".to_owned());
        }
        rest = after;
    }
    Ok(rest)
}

/// The number before the closing parenthesis, or before the cut of a call that is in two.
fn last_number(tail: &str) -> Option<u64> {
    let arguments = tail.split(')').next()?;
    let arguments = arguments.strip_suffix("<unfinished ...>").unwrap_or(arguments);
    arguments.rsplit(',').next()?.trim().parse().ok()
}

/// Appends the bytes of a string up to its closing quote; gives what follows the quote.
fn unescape<'a>(text: &'a str, into: &mut Vec<u8>) -> Result<&'a str, String> {
    let bytes = text.as_bytes();
    let mut at = 0;
    loop {
        let byte = *bytes.get(at).ok_or("a string does not end")?;
        at += 1;
        match byte {
            b'"' => return Ok(&text[at..]),
            b'\\' => {
                let escaped = *bytes.get(at).ok_or("an escape does not end")?;
                at += 1;
                into.push(match escaped {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'v' => 0x0b,
                    b'f' => 0x0c,
                    b'0'..=b'7' => {
                        let mut value = u32::from(escaped - b'0');
                        let mut digits = 1;
                        while digits < 3
                            && let Some(digit @ b'0'..=b'7') = bytes.get(at)
                        {
                            value = value * 8 + u32::from(digit - b'0');
                            at += 1;
                            digits += 1;
                        }
                        u8::try_from(value).map_err(|_| "an octal escape is no byte")?
                    }
                    b'"' | b'\\' | b'\'' => escaped,
                    other => return Err(format!("unknown escape {:?}", char::from(other))),
                });
            }
            plain => into.push(plain),
        }
    }
}

/// The number behind `) = `; an error's name and text may follow it.
fn result(tail: &str) -> Option<i64> {
    let value = tail
        .match_indices(')')
        .find_map(|(at, _)| tail[at + 1..].trim_start().strip_prefix("= "))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_was_cut_in_two_has_the_lines_of_both_halves() {
        let text = "\
7 pwrite64(9</d/corelane.db-wal>, \"a\\0\\0011\\n\\\"\\\\\\377\", 8, 32) = 8
7 fsync(9</d/corelane.db-wal> <unfinished ...>
81 sendto(5<TCP:[127.0.0.1:7090->127.0.0.1:9]>, \"x)\", 2, MSG_NOSIGNAL, NULL, 0 <unfinished ...>
7 <... fsync resumed>)              = 0
81 <... sendto resumed>)             = 2
7 fsync(9</d/corelane.db-wal>)      = -1 EIO (Input/output error) (INJECTED)
7 +++ exited with 0 +++
";
        let calls = parse(text).unwrap();
        let seen: Vec<_> = calls
            .iter()
            .map(|call| (call.name.as_str(), call.entered, call.returned, call.result))
            .collect();
        assert_eq!(
            seen,
            [
                ("pwrite64", 0, Some(0), Some(8)),
                ("fsync", 1, Some(3), Some(0)),
                ("sendto", 2, Some(4), Some(2)),
                ("fsync", 5, Some(5), Some(-1)),
            ]
        );
        assert_eq!(calls[0].data, b"a\0\x011\n\"\\\xff");
        assert_eq!(calls[1].target, "/d/corelane.db-wal");
        assert_eq!(calls[2].target, "TCP:[127.0.0.1:7090->127.0.0.1:9]");
    }

    #[test]
    fn all_parts_of_a_gathered_write_are_read() {
        let text = "7 writev(4</x>, [{iov_base=\"ab\", iov_len=2}, {iov_base=\"c\", iov_len=1}], 2) = 3\n";
        assert_eq!(parse(text).unwrap()[0].data, b"abc");
    }

    #[test]
    fn a_line_that_is_not_understood_is_an_error() {
        for text in [
            "7 pwrite64(9</w>, \"ab\"..., 9, 0) = 9",
            "7 <... fsync resumed>) = 0",
            "7 what is this",
            "7 pwrite64(9</w>, \"ab, 9, 0) = 9",
            "7 pwrite64(9</w>, \"\\q\", 9, 0) = 9",
            "7 fsync(9</w> <unfinished ...>\n7 fsync(9</w> <unfinished ...>",
            "7 fsync(9</w> <unfinished ...>\n7 <... write resumed>) = 0",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}

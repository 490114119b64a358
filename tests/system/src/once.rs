//! Programs that end by themselves, in time: because they must not start, or because they were asked for one thing only.
//!
//! One that starts where it should refuse fails its test and is ended. Nothing waits for it for ever.

use std::process::Command;
use std::time::Duration;

use crate::{Running, wait_for};

/// How long a program may take. A port in use is looked at for 2 s, and under strace everything takes longer.
const LIMIT: Duration = Duration::from_secs(20);

/// What a program says on standard error that must not start. `what` it is told is named where it does.
///
/// # Panics
///
/// If it ends with another code than 1, or not within 20 s.
pub fn refusal(what: &str, command: &mut Command) -> String {
    let process = ended(what, command, 1);
    process.log()
}

/// What a program prints on standard output that does what it was asked for.
///
/// # Panics
///
/// If it ends with another code than 0, or not within 20 s.
pub fn printed(what: &str, command: &mut Command) -> String {
    let process = ended(what, command, 0);
    process.rest()
}

/// A program that has ended with this code.
fn ended(what: &str, command: &mut Command, code: i32) -> Running {
    let mut process = Running::start(command);
    let seen = wait_for(
        &format!("the end of a program that is told {what}"),
        LIMIT,
        || process.ended(),
    );
    assert_eq!(seen, Some(code), "{what}: {}", process.log());
    process
}

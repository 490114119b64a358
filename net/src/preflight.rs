//! Whether this machine lets the engine run, and if not, exactly why.

use std::fs;
use std::io;

use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::ring::Ring;

/// Makes a small ring the way the engine does, and drops it.
///
/// # Errors
///
/// The one thing that is missing, with how to allow it. Print it and exit: there is no other data plane.
pub fn preflight() -> Result<(), EngineError> {
    let config = EngineConfig {
        slots_per_ring: 4,
        rings_max: 1,
        receive_buffers: 1,
        receive_buffer_bytes: 4096,
        ..EngineConfig::default()
    };
    Ring::new(&config, config.receive_buffers, None).map(drop)
}

/// Finds out why the kernel refused `step`.
pub(crate) fn explain(step: &'static str, source: io::Error) -> EngineError {
    let facts = Facts {
        release: read_trimmed("/proc/sys/kernel/osrelease")
            .unwrap_or_else(|| "of unknown version".to_owned()),
        disabled: read_trimmed("/proc/sys/kernel/io_uring_disabled").and_then(|text| text.parse().ok()),
        seccomp: fs::read_to_string("/proc/self/status")
            .ok()
            .and_then(|status| seccomp_mode(&status)),
    };
    judge(step, source, facts)
}

/// What the machine says about itself.
struct Facts {
    release: String,
    disabled: Option<u32>,
    seccomp: Option<u32>,
}

fn judge(step: &'static str, source: io::Error, facts: Facts) -> EngineError {
    let filtered = facts.seccomp.filter(|mode| *mode != 0);
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => match (facts.disabled.filter(|value| *value != 0), filtered) {
            (Some(value), _) => EngineError::Disabled { value },
            (None, Some(mode)) => EngineError::Seccomp { mode, step, source },
            (None, None) => EngineError::Setup { step, source },
        },
        Some(libc::ENOSYS) => match filtered {
            // Some profiles answer "no such system call" to what they do not know. A kernel that knows the
            // switch has io_uring.
            Some(mode) if facts.disabled.is_some() => EngineError::Seccomp { mode, step, source },
            _ => too_old(step, source, facts),
        },
        Some(libc::EINVAL) => too_old(step, source, facts),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => EngineError::Limit { step, source },
        _ => EngineError::Setup { step, source },
    }
}

fn too_old(step: &'static str, source: io::Error, facts: Facts) -> EngineError {
    EngineError::KernelTooOld {
        release: facts.release,
        step,
        source,
    }
}

fn seccomp_mode(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Seccomp:"))?;
    line.trim().parse().ok()
}

fn read_trimmed(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(errno: i32, disabled: Option<u32>, seccomp: Option<u32>) -> EngineError {
        let facts = Facts {
            release: "5.15.0".to_owned(),
            disabled,
            seccomp,
        };
        judge("io_uring_setup", io::Error::from_raw_os_error(errno), facts)
    }

    #[test]
    fn each_refusal_has_its_own_name() {
        let denied = libc::EPERM;
        assert!(matches!(
            judged(denied, Some(2), Some(2)),
            EngineError::Disabled { value: 2 }
        ));
        assert!(matches!(
            judged(denied, Some(0), Some(2)),
            EngineError::Seccomp { .. }
        ));
        assert!(matches!(
            judged(denied, Some(0), Some(0)),
            EngineError::Setup { .. }
        ));
        assert!(matches!(
            judged(libc::ENOSYS, None, Some(0)),
            EngineError::KernelTooOld { .. }
        ));
        assert!(matches!(
            judged(libc::ENOSYS, Some(0), Some(2)),
            EngineError::Seccomp { .. }
        ));
        assert!(matches!(
            judged(libc::EINVAL, None, None),
            EngineError::KernelTooOld { .. }
        ));
        assert!(matches!(
            judged(libc::EMFILE, Some(0), None),
            EngineError::Limit { .. }
        ));
    }

    #[test]
    fn the_seccomp_mode_is_found() {
        assert_eq!(
            seccomp_mode("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"),
            Some(2)
        );
        assert_eq!(seccomp_mode("Name:\tx\n"), None);
    }

    #[test]
    fn this_machine_can_run_the_engine() {
        preflight().unwrap();
    }
}

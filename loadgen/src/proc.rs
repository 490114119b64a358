//! What `/proc` says about the target and about ourselves.

use std::fs;

use serde::Serialize;

/// Clock ticks per second in `/proc/PID/stat`: fixed at 100 for user space on Linux.
const TICKS_PER_S: u64 = 100;

/// CPU and memory of some processes together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// CPU time so far, in us.
    pub cpu_us: u64,
    /// Resident memory in bytes.
    pub rss_bytes: u64,
    /// The part of it that is no file: heap, stacks, buffers.
    pub rss_anon_bytes: u64,
    /// Open descriptors.
    pub descriptors: u64,
}

/// Usage of these processes; `None` if one of them is gone.
pub fn usage(pids: &[u32]) -> Option<Usage> {
    let mut total = Usage::default();
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        total.cpu_us += cpu_ticks(&stat)? * (1_000_000 / TICKS_PER_S);
        total.rss_bytes += kilobytes(&status, "VmRSS:") * 1024;
        total.rss_anon_bytes += kilobytes(&status, "RssAnon:") * 1024;
        total.descriptors += fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |dir| dir.count() as u64);
    }
    Some(total)
}

/// User and system ticks: fields 14 and 15, counted behind the name, which may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn kilobytes(status: &str, key: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_ascii_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// CPU time of the calling thread so far in ns, and how long it waited for a CPU.
pub fn thread_cpu_ns() -> (u64, u64) {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let mut numbers = text
        .split_ascii_whitespace()
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Local ports that outgoing connections of one source address may use.
pub fn local_ports() -> u32 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text
        .split_ascii_whitespace()
        .filter_map(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) if last >= first => last - first + 1,
        _ => 28_232,
    }
}

/// The machine, for reports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Processor model.
    pub cpu: String,
    /// Processors usable.
    pub cpus: usize,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Kernel release.
    pub kernel: String,
}

/// Describes this machine.
pub fn machine() -> Machine {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpuinfo
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(':'))
        .map_or("unknown", |(_, model)| model.trim());
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Machine {
        cpu: cpu.to_owned(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: kilobytes(&meminfo, "MemTotal:") * 1024,
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim()
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_texts_are_read() {
        assert_eq!(cpu_ticks("12 (a) b) S 1 2 3 4 5 6 7 8 9 10 70 30 0"), Some(100));
        assert_eq!(cpu_ticks("nothing"), None);
        assert_eq!(kilobytes("VmRSS:\t   12 kB\n", "VmRSS:"), 12);
        let own = usage(&[std::process::id()]).unwrap();
        assert!(own.rss_bytes > 0 && own.descriptors > 0);
        assert!(usage(&[u32::MAX]).is_none());
        assert!(local_ports() > 1000);
    }
}

//! Which CPUs the shards run on: those of the affinity mask, no more than the cgroup's quota.

use std::fs;

/// CPUs that this process may run on, by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpus {
    /// From the affinity mask.
    pub allowed: Vec<usize>,
    /// Whole CPUs that the cgroup's quota pays for, if it has one.
    pub quota: Option<usize>,
}

impl Cpus {
    /// Reads /proc/self/status and the cgroup's cpu.max.
    pub fn of_this_process() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let list = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .unwrap_or("0");
        let mut allowed = parse_list(list.trim());
        if allowed.is_empty() {
            allowed.push(0);
        }
        Self {
            allowed,
            quota: cgroup_quota(),
        }
    }

    /// CPUs for `shards` shards (0: one each): `None` if there are fewer CPUs than shards.
    pub fn place(&self, shards: usize) -> Option<Vec<usize>> {
        let count = if shards == 0 {
            self.allowed.len().min(self.quota.unwrap_or(usize::MAX)).max(1)
        } else {
            shards
        };
        (count <= self.allowed.len()).then(|| self.allowed.iter().copied().take(count).collect())
    }
}

/// Takes "0-3,8".
fn parse_list(list: &str) -> Vec<usize> {
    list.split(',')
        .filter_map(|part| match part.split_once('-') {
            Some((from, to)) => Some(from.parse().ok()?..=to.parse().ok()?),
            None => part.parse().ok().map(|cpu| cpu..=cpu),
        })
        .flatten()
        .collect()
}

/// Quota of the cgroup (version 2) of this process, rounded up to whole CPUs.
fn cgroup_quota() -> Option<usize> {
    let group = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = group.lines().find_map(|line| line.strip_prefix("0::"))?;
    let limit = fs::read_to_string(format!("/sys/fs/cgroup{}/cpu.max", path.trim_end_matches('/'))).ok()?;
    let (quota, period) = limit.trim().split_once(' ')?;
    let (quota, period): (usize, usize) = (quota.parse().ok()?, period.parse().ok()?);
    Some(quota.div_ceil(period.max(1)).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_go_to_allowed_cpus_only() {
        let cpus = Cpus {
            allowed: parse_list("1-2,8"),
            quota: Some(2),
        };
        assert_eq!(cpus.place(0), Some(vec![1, 2]));
        assert_eq!(cpus.place(3), Some(vec![1, 2, 8]));
        assert_eq!(cpus.place(4), None);
    }
}

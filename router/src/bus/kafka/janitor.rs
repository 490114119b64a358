//! Deletes the topics of boots that are dead for long.
//!
//! Owns since when each boot that has a topic is known to be dead; that is counted from the first sweep that finds it so,
//! and anew after each start, because Kafka does not tell how old a topic is. A boot that is seen alive once more begins
//! anew, too: its topic was made before its lease. Several janitors may sweep one Kafka. It deletes only names of the
//! form that the bus makes under its prefix.

use std::collections::HashMap;
use std::time::Duration;

use corelane_protocol::id::BootId;

use super::super::{Bus as _, BusError};
use super::KafkaBus;

/// Topics deleted in one sweep: a burst would hold up the brokers' controller.
const SWEEP_MAX: usize = 100;

/// Sweeps topics.
#[derive(Debug)]
pub struct Janitor {
    age: Duration,
    dead_since: HashMap<BootId, Duration>,
}

impl Janitor {
    /// A janitor that lets the topic of a dead boot be for so long. Shorter than a gateway may take between making its
    /// topic and its lease would delete topics that are about to be used: a minute or more.
    pub fn new(age: Duration) -> Self {
        Self {
            age,
            dead_since: HashMap::new(),
        }
    }

    /// Deletes what is due, and returns whose topics those were. `now` counts from any moment; `is_alive` must know the
    /// leases: do not sweep while the registry is away.
    ///
    /// # Errors
    ///
    /// [`BusError::Unavailable`]: sweep again later.
    pub async fn sweep(
        &mut self,
        bus: &KafkaBus,
        now: Duration,
        is_alive: impl Fn(BootId) -> bool,
    ) -> Result<Vec<BootId>, BusError> {
        let boots = bus.boots().await?;
        let due = self.due(&boots, now, is_alive);
        for boot in &due {
            bus.delete(*boot).await?;
            self.dead_since.remove(boot);
            tracing::info!(
                boot = format!("{:016x}", boot.0),
                "the topic of a dead gateway is deleted"
            );
        }
        Ok(due)
    }

    fn due(&mut self, boots: &[BootId], now: Duration, is_alive: impl Fn(BootId) -> bool) -> Vec<BootId> {
        let mut dead = HashMap::new();
        for boot in boots.iter().filter(|boot| !is_alive(**boot)) {
            let since = self.dead_since.get(boot).copied().unwrap_or(now);
            dead.insert(*boot, since);
        }
        self.dead_since = dead;
        let mut due: Vec<BootId> = self
            .dead_since
            .iter()
            .filter(|(_, since)| now.saturating_sub(**since) >= self.age)
            .map(|(boot, _)| *boot)
            .collect();
        due.sort_unstable();
        due.truncate(SWEEP_MAX);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_secs(100);

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn only_what_was_dead_at_every_sweep_for_the_whole_age_is_due() {
        let mut janitor = Janitor::new(AGE);
        let boots = [BootId(1), BootId(2), BootId(3)];
        assert!(janitor.due(&boots, at(0), |boot| boot == BootId(1)).is_empty());
        assert!(janitor.due(&boots, at(50), |boot| boot != BootId(3)).is_empty());
        assert_eq!(janitor.due(&boots, at(100), |_| false), [BootId(3)]);
        assert_eq!(janitor.due(&boots[..2], at(199), |_| false), []);
        assert_eq!(
            janitor.due(&boots[..2], at(200), |_| false),
            [BootId(1), BootId(2)],
            "counted from when they were seen dead last"
        );
    }

    #[test]
    fn a_sweep_is_bounded_and_the_next_one_goes_on() {
        let mut janitor = Janitor::new(AGE);
        let boots: Vec<BootId> = (0..250).map(BootId).collect();
        janitor.due(&boots, at(0), |_| false);
        assert_eq!(janitor.due(&boots, at(100), |_| false).len(), SWEEP_MAX);
        assert_eq!(janitor.due(&boots[100..], at(101), |_| false)[0], BootId(100));
    }
}

//! Faults on command. A rule says what happens to requests of a kind: to the next so many, or to a share of them.
//! The first rule that matches acts; one that is used up is gone. What each did is counted, so that a test knows whether its
//! fault hit anything.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::txn::RequestKind;
use serde::{Deserialize, Serialize};

/// More rules are refused.
const RULES_MAX: usize = 1_000;
/// A share is out of so many.
const PERMILLE: u64 = 1_000;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Applied, never answered: the client runs into its timeout.
    Drop,
    /// Applied, answered with gRPC's UNAVAILABLE.
    Break,
    /// Applied, answered `ms` later.
    Delay,
    /// Applied `ms` later, then answered, whether the client is still there or not.
    Late,
    /// Applied and answered, and applied once more `ms` later.
    Repeat,
    /// Not applied: `ServerIsBusy`.
    Busy,
    /// Not applied: `EpochNotMatch` with the regions as they are.
    EpochNotMatch,
    /// Not applied: `NotLeader` without a leader.
    NotLeader,
    /// Not applied: `RegionNotFound`.
    RegionNotFound,
    /// Not applied: `KeyNotInRegion`.
    KeyNotInRegion,
    /// Not applied: gRPC's UNAVAILABLE.
    Refuse,
}

/// Which requests, and what happens to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What happens.
    #[serde(rename = "do")]
    pub action: Action,
    /// To requests of this kind; to every kind where it is left out.
    #[serde(default)]
    pub on: Option<RequestKind>,
    /// To so many of them; without end where it is left out.
    #[serde(default)]
    pub count: Option<u64>,
    /// To this share of them, in permille, drawn from a fixed sequence.
    #[serde(default = "all")]
    pub permille: u64,
    /// Milliseconds, where the action has a time.
    #[serde(default)]
    pub ms: u64,
}

fn all() -> u64 {
    PERMILLE
}

impl Rule {
    /// The rule for every request of every kind.
    pub fn always(action: Action) -> Self {
        Self {
            action,
            on: None,
            count: None,
            permille: PERMILLE,
            ms: 0,
        }
    }

    /// The same, for one kind.
    #[must_use]
    pub fn on(self, kind: RequestKind) -> Self {
        Self {
            on: Some(kind),
            ..self
        }
    }

    /// The same, for so many requests.
    #[must_use]
    pub fn times(self, count: u64) -> Self {
        Self {
            count: Some(count),
            ..self
        }
    }

    /// The same, with a time.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self {
            ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            ..self
        }
    }

    /// Its time.
    pub(crate) fn time(&self) -> Duration {
        Duration::from_millis(self.ms)
    }
}

/// A rule that cannot be taken.
#[derive(Debug, thiserror::Error)]
#[error("there are {RULES_MAX} rules already")]
pub struct TooManyRules;

/// A rule and how often it acted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Hits {
    /// The rule as it was given.
    pub rule: Rule,
    /// Requests that it hit.
    pub hits: u64,
}

#[derive(Default)]
struct Rules {
    list: Vec<Hits>,
    drawn: u64,
    total: u64,
}

/// All rules.
#[derive(Default)]
pub(crate) struct Faults {
    rules: Mutex<Rules>,
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule behind the others.
    ///
    /// # Errors
    /// There are too many.
    pub(crate) fn add(&self, rule: Rule) -> Result<(), TooManyRules> {
        let mut rules = self.lock();
        rules.list.retain(Hits::is_live);
        if rules.list.len() >= RULES_MAX {
            return Err(TooManyRules);
        }
        rules.list.push(Hits { rule, hits: 0 });
        Ok(())
    }

    /// Ends all rules.
    pub(crate) fn clear(&self) {
        self.lock().list.clear();
    }

    /// The rules since the last clearing that have not been used up, and what all rules ever hit.
    pub(crate) fn report(&self) -> (Vec<Hits>, u64) {
        let rules = self.lock();
        (
            rules.list.iter().filter(|hits| hits.is_live()).copied().collect(),
            rules.total,
        )
    }

    /// What happens to a request of this kind, if anything does.
    pub(crate) fn meet(&self, kind: RequestKind) -> Option<Rule> {
        let mut rules = self.lock();
        let Rules { list, drawn, total } = &mut *rules;
        let matching = |hits: &&mut Hits| hits.is_live() && hits.rule.on.is_none_or(|on| on == kind);
        for hits in list.iter_mut().filter(matching) {
            if hits.rule.permille < PERMILLE {
                *drawn += 1;
                if draw(*drawn) >= hits.rule.permille {
                    continue;
                }
            }
            hits.hits += 1;
            *total += 1;
            return Some(hits.rule);
        }
        None
    }
}

impl Hits {
    fn is_live(&self) -> bool {
        self.rule.count.is_none_or(|count| self.hits < count)
    }
}

/// The n-th number of a fixed sequence (splitmix64), below [`PERMILLE`].
fn draw(n: u64) -> u64 {
    let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) % PERMILLE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_acts_on_its_kind_so_often_and_is_gone() {
        let faults = Faults::default();
        faults
            .add(Rule::always(Action::Drop).on(RequestKind::Commit).times(2))
            .unwrap();
        let acts = |kind| faults.meet(kind).is_some();
        assert!(!acts(RequestKind::Get));
        assert_eq!([(); 3].map(|()| acts(RequestKind::Commit)), [true, true, false]);
        assert_eq!(faults.report(), (vec![], 2));
    }

    #[test]
    fn a_share_hits_about_that_many() {
        let faults = Faults::default();
        faults
            .add(Rule {
                permille: 10,
                ..Rule::always(Action::Drop)
            })
            .unwrap();
        let hits = (0..10_000)
            .filter(|_| faults.meet(RequestKind::Commit).is_some())
            .count();
        assert!((50..200).contains(&hits), "{hits}");
    }
}

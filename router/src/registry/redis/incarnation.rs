//! Whether the registry still has its memory; and a new incarnation where it has not.
//!
//! An incarnation is drawn by one router at a time: it marks every slot group as born in it, then sets it, by
//! compare-and-set from the one it found wanting. A router that dies in between leaves groups that do not fit, so the
//! next one draws again. The others see groups that do not fit, wait, and take over the result.

use std::collections::{HashMap, HashSet};

use corelane_protocol::id::{BootId, NodeId};
use fred::error::{Error, ErrorKind};
use fred::interfaces::KeysInterface as _;
use fred::types::{Expiration, SetOptions, Value};
use thiserror::Error as ThisError;
use tokio::sync::MutexGuard;

use super::Inner;
use super::groups::Memory;
use super::keys::Group;
use super::row::{hex, parse_hex};
use super::script::{BATCH, Call, of_each};
use super::sweep::FLOOR_MS;

/// A router that draws an incarnation has so long.
const DRAWING_MS: i64 = 10_000;

/// Why the registry does not count as checked.
#[derive(Debug, ThisError)]
pub(super) enum CheckError {
    /// A command failed.
    #[error(transparent)]
    Client(#[from] Error),
    /// Somebody else mends it.
    #[error("another router draws a new incarnation")]
    Drawing,
    /// Something happened to the connections meanwhile.
    #[error("connections changed while it was checked")]
    Disturbed,
    /// There was no randomness.
    #[error("no random number: {0}")]
    Random(getrandom::Error),
}

/// What stands in Redis for every router.
struct State {
    incarnation: Option<u64>,
    dead: HashSet<BootId>,
    live: HashMap<BootId, NodeId>,
}

/// A random number that is not 0.
pub(super) fn random() -> Result<u64, getrandom::Error> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes) | 1)
}

impl Inner {
    /// Reads what every router must know, while the registry is there.
    pub(super) async fn refresh(&self) -> Result<(), CheckError> {
        let incarnation = self.read_state().await?;
        if incarnation == Some(*self.incarnation.borrow()) {
            return Ok(());
        }
        self.doubt("its incarnation changed");
        self.check_memory().await
    }

    /// Checks whether the registry remembers what it must; draws a new incarnation where it does not. Afterwards it is
    /// there.
    pub(super) async fn check_memory(&self) -> Result<(), CheckError> {
        let ticket = self.health().check_begins();
        let found = self.read_state().await?;
        let ours = *self.incarnation.borrow();
        let incarnation = match found {
            Some(theirs) if self.remembers_all(theirs, ours == theirs).await? => theirs,
            _ => {
                tracing::warn!(
                    url = self.url,
                    was = found.map(hex),
                    "the registry has no memory, or lost some: all gateways claim again"
                );
                self.draw(found).await?
            }
        };
        if incarnation != ours {
            self.adopt(incarnation).await?;
        }
        if self.health().check_ends(ticket, self.mono()) {
            Ok(())
        } else {
            Err(CheckError::Disturbed)
        }
    }

    async fn read_state(&self) -> Result<Option<u64>, Error> {
        let _turn = self.roster.turn.lock().await;
        let keys = [self.keys.incarnation(), self.keys.dead(), self.keys.gateways()];
        let answer = self.scripts.state.run(&self.client, Call::new(keys, [])).await?;
        let (server_ms, state) = parse_state(&answer).ok_or_else(|| {
            Error::new(
                ErrorKind::Parse,
                format!("what stands of boots is not readable: {answer:?}"),
            )
        })?;
        let now = self.mono();
        self.health().heard(server_ms, now);
        self.roster.refresh(state.dead, state.live, now);
        Ok(state.incarnation)
    }

    /// Whether every group was born in this incarnation and, where `changes` counts, knows the last change made here.
    async fn remembers_all(&self, incarnation: u64, changes: bool) -> Result<bool, Error> {
        let groups: Vec<Group> = Group::all().collect();
        let mut all = true;
        for batch in groups.chunks(BATCH) {
            // Nothing is changed while the numbers are compared.
            let memories = self.lock_all(batch).await;
            let calls = batch.iter().zip(&memories).map(|(group, memory)| {
                let keys = [self.keys.born(*group), self.keys.claims(*group, memory.writer())];
                Call::new(keys, [FLOOR_MS.to_string()])
            });
            let answers = self
                .scripts
                .remembers
                .run_all(&self.client, calls.collect())
                .await?;
            for (answer, memory) in answers.iter().zip(&memories) {
                all &= remembers(answer, incarnation, memory, changes);
            }
        }
        Ok(all)
    }

    async fn lock_all(&self, groups: &[Group]) -> Vec<MutexGuard<'_, Memory>> {
        let mut memories = Vec::with_capacity(groups.len());
        for group in groups {
            memories.push(self.groups.lock(*group).await);
        }
        memories
    }

    /// Draws a new incarnation in the place of `old`.
    async fn draw(&self, old: Option<u64>) -> Result<u64, CheckError> {
        let drawing = self.keys.drawing();
        let expires = Some(Expiration::PX(DRAWING_MS));
        let locked: Option<String> = self
            .client
            .set(
                drawing.clone(),
                self.name.as_str(),
                expires,
                Some(SetOptions::NX),
                false,
            )
            .await?;
        if locked.is_none() {
            return Err(CheckError::Drawing);
        }
        let new = random().map_err(CheckError::Random)?;
        let groups: Vec<Group> = Group::all().collect();
        for batch in groups.chunks(BATCH) {
            self.begin_groups(batch, new).await?;
        }
        let old = old.map(hex).unwrap_or_default();
        let call = Call::new(
            [self.keys.incarnation(), drawing],
            [self.name.clone(), old, hex(new)],
        );
        let adopted = self.scripts.adopt.run(&self.client, call).await?;
        if adopted == ["1"] {
            Ok(new)
        } else {
            Err(CheckError::Drawing)
        }
    }

    async fn begin_groups(&self, groups: &[Group], incarnation: u64) -> Result<(), Error> {
        let pipeline = self.client.pipeline();
        for group in groups {
            let born = self.keys.born(*group);
            let _: () = pipeline.set(born, hex(incarnation), None, None, false).await?;
        }
        let results = pipeline.try_all::<Value>().await;
        for result in of_each(results, groups.len())? {
            result?;
        }
        Ok(())
    }

    /// Goes over to another incarnation, under another name.
    async fn adopt(&self, incarnation: u64) -> Result<(), CheckError> {
        let writer = random().map_err(CheckError::Random)?;
        for group in Group::all() {
            self.groups.lock(group).await.reset(writer);
        }
        self.incarnation.send_replace(incarnation);
        tracing::info!(
            url = self.url,
            incarnation = hex(incarnation),
            "the registry's incarnation"
        );
        Ok(())
    }
}

fn parse_state(answer: &[String]) -> Option<(u64, State)> {
    let [server_ms, incarnation, dead_count, boots @ ..] = answer else {
        return None;
    };
    let incarnation = match incarnation.as_str() {
        "" => None,
        text => Some(parse_hex(text)?),
    };
    let (dead, live) = boots.split_at_checked(dead_count.parse().ok()?)?;
    let boot = |text: &String| parse_hex(text).map(BootId);
    let live = live.chunks_exact(2).map(|pair| match pair {
        [id, node] => Some((boot(id)?, NodeId::new(node).ok()?)),
        _ => None,
    });
    let state = State {
        incarnation,
        dead: dead.iter().map(boot).collect::<Option<_>>()?,
        live: live.collect::<Option<_>>()?,
    };
    Some((server_ms.parse().ok()?, state))
}

fn remembers(answer: &[String], incarnation: u64, memory: &Memory, changes: bool) -> bool {
    let [born, last] = answer else { return false };
    *born == hex(incarnation) && (!changes || last.parse().is_ok_and(|last| memory.remembers(last)))
}

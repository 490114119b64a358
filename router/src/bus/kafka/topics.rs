//! Topics: making, deleting and listing them, and knowing which are gone.
//!
//! Owns the last list of topics, and which boots' topics were found to be gone: at most
//! [`BOOTS_MAX`] of them, the oldest are forgotten (and would be found gone again). A name is never used twice, so what
//! is gone stays so. That a topic is gone is believed only when two lists miss it, [`GONE_AFTER`] apart: a router that
//! believes it forgets what it owes to that gateway.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corelane_protocol::id::BootId;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode as Code};

use super::super::BusError;
use super::config::KafkaConfig;
use super::consumer::end_elsewhere;
use super::counters::Counters;
use super::error::KafkaError;
use super::looker::{Listed, Listing, Looker};
use super::watch::GONE_AFTER;
use crate::clock::Clock;

/// Boots that are remembered, of those that have a topic and of those that have none any more.
const BOOTS_MAX: usize = 4096;
/// Longest that an answer of Kafka is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Longest until a topic that was made can be used.
const READY_MAX: Duration = Duration::from_secs(10);
/// How often that is looked at.
const READY_PACE: Duration = Duration::from_millis(20);

/// All topics of boots.
pub(super) struct Topics {
    config: KafkaConfig,
    pub(super) looker: Looker,
    clock: Clock,
    counters: Arc<Counters>,
    listed: tokio::sync::Mutex<Option<(Duration, Arc<Listing>)>>,
    boots: Mutex<Boots>,
}

#[derive(Debug, Default)]
struct Boots {
    /// Partitions of topics that were there.
    known: HashMap<BootId, u16>,
    gone: HashSet<BootId>,
    gone_order: VecDeque<BootId>,
    /// Those of them that nobody publishes to or reads any more.
    abandoned: HashSet<BootId>,
}

/// Whether a boot has a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has, with so many partitions.
    There(u16),
    /// It has none.
    Gone,
    /// Nobody knows.
    Unknown(String),
}

impl std::fmt::Debug for Topics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topics")
            .field("boots", &self.boots)
            .finish_non_exhaustive()
    }
}

impl Topics {
    pub(super) fn start(config: KafkaConfig, counters: Arc<Counters>) -> Result<Self, KafkaError> {
        Ok(Self {
            looker: Looker::start(&config, Arc::clone(&counters))?,
            config,
            clock: Clock::start(),
            counters,
            listed: tokio::sync::Mutex::default(),
            boots: Mutex::default(),
        })
    }

    /// A client for one request: one that is kept may have lost its brokers for good when it is needed (see `looker.rs`).
    pub(super) fn admin(&self) -> Result<AdminClient<DefaultClientContext>, KafkaError> {
        let client = self.config.admin().create();
        client.map_err(|error: ClientError| KafkaError::Client(error.to_string()))
    }

    /// The name of a boot's topic.
    pub(super) fn name(&self, boot: BootId) -> String {
        format!("{}.{:016x}", self.config.topic_prefix, boot.0)
    }

    /// Whose topic has this name.
    fn boot_of(&self, name: &str) -> Option<BootId> {
        let digits = name
            .strip_prefix(self.config.topic_prefix.as_str())?
            .strip_prefix('.')?;
        let is_ours = digits.len() == 16
            && digits
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_ours
            .then(|| u64::from_str_radix(digits, 16).ok())
            .flatten()
            .map(BootId)
    }

    fn lock(&self) -> MutexGuard<'_, Boots> {
        // A panic elsewhere leaves it whole: every change is made in one go.
        self.boots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_gone(&self, boot: BootId) -> bool {
        self.lock().gone.contains(&boot)
    }

    /// Partitions of a topic that was there once.
    pub(super) fn known(&self, boot: BootId) -> Option<u16> {
        self.lock().known.get(&boot).copied()
    }

    /// Remembers that a boot's topic is gone. True: that is new.
    pub(super) fn note_gone(&self, boot: BootId) -> bool {
        let mut boots = self.lock();
        boots.known.remove(&boot);
        if !boots.gone.insert(boot) {
            return false;
        }
        boots.gone_order.push_back(boot);
        if boots.gone_order.len() > BOOTS_MAX
            && let Some(oldest) = boots.gone_order.pop_front()
        {
            boots.gone.remove(&oldest);
            boots.abandoned.remove(&oldest);
        }
        true
    }

    /// Remembers that a boot, whose topic counts as gone, is given up. True: that is new.
    pub(super) fn note_abandoned(&self, boot: BootId) -> bool {
        self.lock().abandoned.insert(boot)
    }

    fn note_known(&self, boot: BootId, partitions: u16) {
        let mut boots = self.lock();
        if boots.known.len() >= BOOTS_MAX {
            // What is forgotten is looked up again.
            boots.known.clear();
        }
        boots.known.insert(boot, partitions);
    }

    /// Makes a boot's topic and waits until it can be used.
    pub(super) async fn create(&self, boot: BootId, partitions: u16) -> Result<(), BusError> {
        if self.is_gone(boot) {
            return Err(BusError::NoTopic(boot.0));
        }
        // Made once per life of this process: made again, a topic that was deleted would come back empty.
        if self.known(boot).is_some() {
            return Ok(());
        }
        let name = self.name(boot);
        let settings = self.config.topic_settings();
        let replicas = match self.config.replicas {
            0 => -1,
            replicas => i32::from(replicas),
        };
        let mut topic = NewTopic::new(&name, i32::from(partitions), TopicReplication::Fixed(replicas));
        for (key, value) in &settings {
            topic = topic.set(key, value);
        }
        let admin = self
            .admin()
            .map_err(|error| BusError::Unavailable(error.to_string()))?;
        let made = admin.create_topics([&topic], &options()).await;
        end_elsewhere(admin);
        match first(made) {
            Ok(()) | Err(Some(Code::TopicAlreadyExists)) => self.await_ready(boot, &name, partitions).await,
            Err(code) => Err(self.refused("make", &name, code)),
        }
    }

    async fn await_ready(&self, boot: BootId, name: &str, partitions: u16) -> Result<(), BusError> {
        let begun = self.clock.now().mono;
        loop {
            let listing = self.list().await.map_err(BusError::Unavailable)?;
            match listing.topics.get(name) {
                Some(listed) if listed.is_led && listed.partitions > 0 => {
                    if listed.partitions != partitions {
                        tracing::warn!(
                            name,
                            partitions,
                            listed.partitions,
                            "a topic has other partitions than asked"
                        );
                    }
                    self.note_known(boot, listed.partitions);
                    return Ok(());
                }
                _ if self.clock.now().mono.saturating_sub(begun) > READY_MAX => {
                    let why =
                        format!("{name} was made, but its partitions have no leaders after {READY_MAX:?}");
                    return Err(BusError::Unavailable(why));
                }
                _ => tokio::time::sleep(READY_PACE).await,
            }
        }
    }

    /// Deletes a boot's topic. One that is not there is deleted already.
    pub(super) async fn delete(&self, boot: BootId) -> Result<(), BusError> {
        let name = self.name(boot);
        let admin = self
            .admin()
            .map_err(|error| BusError::Unavailable(error.to_string()))?;
        let deleted = admin.delete_topics(&[&name], &options()).await;
        end_elsewhere(admin);
        match first(deleted) {
            Ok(()) | Err(Some(Code::UnknownTopicOrPartition)) => Ok(()),
            Err(code) => Err(self.refused("delete", &name, code)),
        }
    }

    fn refused(&self, what: &str, name: &str, code: Option<Code>) -> BusError {
        let prefix = &self.config.topic_prefix;
        let fix = match code {
            Some(Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed) => {
                format!("grant the user Create, Delete and Describe on topics that begin with {prefix}")
            }
            Some(Code::InvalidReplicationFactor) => {
                "set bus.replicas to at most the number of brokers that are up".to_owned()
            }
            _ => "see the brokers' logs".to_owned(),
        };
        let code = code.map_or_else(|| "no answer".to_owned(), |code| code.to_string());
        BusError::Unavailable(format!("Kafka did not {what} topic {name} ({code}); {fix}"))
    }

    /// The topics as a broker knows them at some moment after this call began. Calls that come together share a list.
    pub(super) async fn list(&self) -> Result<Arc<Listing>, String> {
        let begun = self.clock.now().mono;
        let mut listed = self.listed.lock().await;
        if let Some((at, listing)) = &*listed
            && *at >= begun
        {
            return Ok(Arc::clone(listing));
        }
        let at = self.clock.now().mono;
        self.counters.questions.add(1);
        let listing = self.looker.topics().await?;
        *listed = Some((at, Arc::clone(&listing)));
        Ok(listing)
    }

    /// All boots that have a topic.
    pub(super) async fn boots(&self) -> Result<Vec<BootId>, BusError> {
        let listing = self.list().await.map_err(BusError::Unavailable)?;
        let mut boots: Vec<BootId> = listing
            .topics
            .keys()
            .filter_map(|name| self.boot_of(name))
            .collect();
        boots.sort_unstable();
        Ok(boots)
    }

    /// Whether a boot has a topic. That it has none takes [`GONE_AFTER`] to believe.
    pub(super) async fn judge(&self, boot: BootId) -> Verdict {
        let name = self.name(boot);
        let mut was_missed = false;
        loop {
            if self.is_gone(boot) {
                return Verdict::Gone;
            }
            match self.list().await {
                Err(why) => return Verdict::Unknown(why),
                Ok(listing) => match listing.topics.get(&name) {
                    Some(Listed { partitions, .. }) => {
                        self.note_known(boot, *partitions);
                        return Verdict::There(*partitions);
                    }
                    None if was_missed => return Verdict::Gone,
                    None => was_missed = true,
                },
            }
            tokio::time::sleep(GONE_AFTER).await;
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(ANSWER_MAX))
        .operation_timeout(Some(ANSWER_MAX))
}

/// What Kafka says of one topic: its name, or its name and why not.
type TopicOutcome = Result<String, (String, Code)>;

/// The outcome for the one topic that was asked for; no code if there was no answer.
fn first(outcome: Result<Vec<TopicOutcome>, ClientError>) -> Result<(), Option<Code>> {
    match outcome {
        Ok(outcomes) => match outcomes.into_iter().next() {
            Some(Ok(_)) => Ok(()),
            Some(Err((_, code))) => Err(Some(code)),
            None => Err(None),
        },
        Err(ClientError::AdminOp(code)) => Err(Some(code)),
        Err(_) => Err(None),
    }
}

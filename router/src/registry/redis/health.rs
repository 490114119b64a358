//! Whether the registry is known to be there, and since when.
//!
//! An answer counts only if the connections stood from before the question until after the answer: a question that
//! waited in the client while the server came back empty must not be answered "nobody is connected". The client tells
//! of lost and new connections by events before it hands out any answer that came later; here they are counted. After
//! each the registry counts as away until its memory was checked. No lease is ended for a while after it came back, after
//! its clock jumped, or after this router heard nothing from it.

use std::time::Duration;

use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::EventInterface as _;
use fred::types::ClusterStateChange;
use fred::types::config::Server;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;

use crate::registry::RegistryError;

/// The server's clock may differ from ours by so much from one look at it to the next.
const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(2);
/// Who heard nothing for so long does not know whether leases could be renewed meanwhile.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// State of the connections as one count: it changes with every event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// What is known of the registry.
pub(super) struct Health {
    reconnects: Receiver<Server>,
    errors: Receiver<(Error, Option<Server>)>,
    changes: Receiver<Vec<ClusterStateChange>>,
    events: u64,
    /// Why it counts as away; `None`: it is there.
    away: Option<String>,
    /// How long no lease is ended after a doubt.
    grace: Duration,
    /// Time of the server (ms since 1970) and ours at the last answer that told it.
    heard: Option<(u64, Duration)>,
    grace_until: Duration,
}

impl Health {
    pub(super) fn new(client: &Client, grace: Duration) -> Self {
        Self {
            reconnects: client.reconnect_rx(),
            errors: client.error_rx(),
            changes: client.cluster_change_rx(),
            events: 0,
            away: Some("not connected yet".to_owned()),
            grace,
            heard: None,
            grace_until: Duration::MAX,
        }
    }

    /// To be taken before a question.
    pub(super) fn ticket(&mut self) -> Result<Ticket, RegistryError> {
        self.take_events();
        match &self.away {
            None => Ok(Ticket(self.events)),
            Some(reason) => Err(RegistryError::Unavailable(reason.clone())),
        }
    }

    /// To be shown after its answer.
    pub(super) fn confirm(&mut self, ticket: Ticket) -> Result<(), RegistryError> {
        self.take_events();
        if ticket.0 == self.events {
            return Ok(());
        }
        let reason = self
            .away
            .clone()
            .unwrap_or_else(|| "the connection was lost meanwhile".to_owned());
        Err(RegistryError::Unavailable(reason))
    }

    /// Something speaks against it. True: it counted as there until now.
    pub(super) fn doubt(&mut self, reason: &str) -> bool {
        self.take_events();
        self.events += 1;
        let was_there = self.away.is_none();
        self.away.get_or_insert_with(|| reason.to_owned());
        was_there
    }

    pub(super) fn is_away(&mut self) -> bool {
        self.take_events();
        self.away.is_some()
    }

    /// To be taken before the registry's memory is checked.
    pub(super) fn check_begins(&mut self) -> Ticket {
        self.take_events();
        Ticket(self.events)
    }

    /// The check found everything in order. False: something happened meanwhile, check again.
    pub(super) fn check_ends(&mut self, ticket: Ticket, now: Duration) -> bool {
        self.take_events();
        if ticket.0 != self.events {
            return false;
        }
        if self.away.take().is_some() {
            self.grace_until = now + self.grace;
        }
        true
    }

    /// The server told its time. Clocks that do not agree on how long it was begin the time of grace.
    pub(super) fn heard(&mut self, server_ms: u64, now: Duration) {
        if let Some((last_ms, last)) = self.heard.replace((server_ms, now)) {
            let ours = now.saturating_sub(last);
            let theirs = Duration::from_millis(server_ms.saturating_sub(last_ms));
            if ours.abs_diff(theirs) > CLOCK_DIFFERENCE_MAX || ours > SILENCE_MAX || server_ms < last_ms {
                self.grace_until = self.grace_until.max(now + self.grace);
            }
        }
    }

    /// The server's time at the last answer that told it, ms since 1970.
    pub(super) fn server_ms(&self) -> Option<u64> {
        self.heard.map(|(server_ms, _)| server_ms)
    }

    /// Whether leases may be ended.
    pub(super) fn may_bury(&self, now: Duration) -> bool {
        now >= self.grace_until
    }

    fn take_events(&mut self) {
        let mut reason = None;
        while let Some(error) = next(&mut self.errors) {
            self.events += 1;
            let missed = || "more happened to its connections than was kept".to_owned();
            reason = Some(match error {
                Next::Event((error, _)) => error.to_string(),
                Next::Missed => missed(),
            });
        }
        while next(&mut self.reconnects).is_some() {
            self.events += 1;
            reason.get_or_insert_with(|| "it is connected anew and not checked yet".to_owned());
        }
        while next(&mut self.changes).is_some() {
            self.events += 1;
            reason.get_or_insert_with(|| "the cluster changed and is not checked yet".to_owned());
        }
        if let Some(reason) = reason {
            self.away.get_or_insert(reason);
        }
    }
}

/// Something that happened to the connections.
enum Next<T> {
    Event(T),
    /// More than is kept.
    Missed,
}

fn next<T: Clone>(events: &mut Receiver<T>) -> Option<Next<T>> {
    match events.try_recv() {
        Ok(event) => Some(Next::Event(event)),
        Err(TryRecvError::Lagged(_)) => Some(Next::Missed),
        Err(TryRecvError::Empty | TryRecvError::Closed) => None,
    }
}

//! What one user still has to send, and the rules it sends by: go-back-N per conversation.
//!
//! A retryable refusal closes the gate of its conversation at the server, and later sends are refused there
//! until one with the restart flag comes. So a refused conversation stops here too: its sends gather in order,
//! and when none of them is out any more and a pause has passed, they leave again, the oldest one first with
//! the restart flag. After a lost connection all unanswered sends of all conversations do the same.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::names::ConvKey;

/// Most sends that wait at one user; more are given up as unsent.
pub const WAITING_MAX: usize = 100_000;

/// Shortest and longest pause before a refused conversation is tried again.
const PAUSE_MIN_NS: u64 = 20_000_000;
const PAUSE_MAX_NS: u64 = 1_000_000_000;

/// One send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// The sender's count; also its order.
    pub counter: u64,
    /// Where it goes.
    pub conv: ConvKey,
    /// Its place in the ledger.
    pub place: u32,
    /// When it was due.
    pub due_ns: u64,
    /// When it was first handed to the socket; 0 before.
    pub sent_ns: u64,
    /// When it was last handed to a socket.
    pub left_ns: u64,
}

/// A conversation that waits to start again.
#[derive(Debug, Default)]
struct Gate {
    sends: BTreeMap<u64, Pending>,
    retry_at_ns: u64,
    pause_ns: u64,
    /// The restart was sent; the rest follows as the window allows.
    open: bool,
}

/// Sends of one user.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: VecDeque<Pending>,
    out: HashMap<u32, Pending>,
    gates: BTreeMap<ConvKey, Gate>,
}

impl Outbox {
    /// Takes a send up; false if there is no room.
    pub fn offer(&mut self, send: Pending) -> bool {
        if self.waiting.len() >= WAITING_MAX {
            return false;
        }
        self.waiting.push_back(send);
        true
    }

    /// The next send that may leave now while at most `window` are out, and whether it carries the restart flag.
    /// Say under which reference it left by [`Outbox::sent`].
    pub fn next(&mut self, now_ns: u64, window: usize) -> Option<(Pending, bool)> {
        if self.out.len() >= window {
            return None;
        }
        if !self.gates.is_empty()
            && let Some(found) = self.next_of_gates(now_ns)
        {
            return Some(found);
        }
        loop {
            let send = self.waiting.pop_front()?;
            match self.gates.get_mut(&send.conv) {
                // All earlier ones have left again, so this one may follow them.
                Some(gate) if gate.open && gate.sends.is_empty() => return Some((send, false)),
                Some(gate) => drop(gate.sends.insert(send.counter, send)),
                None => return Some((send, false)),
            }
        }
    }

    fn next_of_gates(&mut self, now_ns: u64) -> Option<(Pending, bool)> {
        let out = &self.out;
        let (_, gate) = self.gates.iter_mut().find(|(conv, gate)| {
            let may_start = || gate.retry_at_ns <= now_ns && !is_out(out, **conv);
            !gate.sends.is_empty() && (gate.open || may_start())
        })?;
        let restart = !gate.open;
        gate.open = true;
        gate.sends.pop_first().map(|(_, send)| (send, restart))
    }

    /// A send left under `reference`.
    pub fn sent(&mut self, reference: u32, send: Pending) {
        self.out.insert(reference, send);
    }

    /// When the oldest of those that are out left.
    pub fn out_since_ns(&self) -> Option<u64> {
        self.out.values().map(|send| send.left_ns).min()
    }

    /// The send with this reference was answered for good.
    pub fn settle(&mut self, reference: u32) -> Option<Pending> {
        let send = self.out.remove(&reference)?;
        if let Some(gate) = self.gates.get(&send.conv)
            && gate.open
            && gate.sends.is_empty()
        {
            self.gates.remove(&send.conv);
        }
        Some(send)
    }

    /// The send with this reference was refused and may be tried again.
    pub fn refuse(&mut self, reference: u32, now_ns: u64) -> bool {
        let Some(send) = self.out.remove(&reference) else {
            return false;
        };
        let gate = self.gates.entry(send.conv).or_default();
        gate.sends.insert(send.counter, send);
        if gate.open || gate.retry_at_ns == 0 {
            gate.pause_ns = (gate.pause_ns * 2).clamp(PAUSE_MIN_NS, PAUSE_MAX_NS);
            gate.retry_at_ns = now_ns + gate.pause_ns;
            gate.open = false;
        }
        true
    }

    /// The connection is gone: everything that was out goes again, in order, when there is another one.
    pub fn disconnected(&mut self) {
        for (_, send) in std::mem::take(&mut self.out) {
            self.gates
                .entry(send.conv)
                .or_default()
                .sends
                .insert(send.counter, send);
        }
        self.gates.retain(|_, gate| !gate.sends.is_empty());
        for gate in self.gates.values_mut() {
            gate.open = false;
            gate.retry_at_ns = 0;
        }
    }

    /// When a gate wants to be tried again, if it waits for nothing but time.
    pub fn wake_at_ns(&self) -> Option<u64> {
        let waits = |(conv, gate): &(&ConvKey, &Gate)| {
            !gate.open && !gate.sends.is_empty() && !is_out(&self.out, **conv)
        };
        self.gates
            .iter()
            .filter(waits)
            .map(|(_, gate)| gate.retry_at_ns)
            .min()
    }

    /// Sends that were not answered for good.
    pub fn unsettled(&self) -> u64 {
        let gated: usize = self.gates.values().map(|gate| gate.sends.len()).sum();
        (self.waiting.len() + self.out.len() + gated) as u64
    }

    /// All of them, at the end.
    pub fn drain(&mut self) -> impl Iterator<Item = Pending> + use<> {
        let gated = std::mem::take(&mut self.gates)
            .into_values()
            .flat_map(|gate| gate.sends.into_values());
        let out = std::mem::take(&mut self.out).into_values();
        std::mem::take(&mut self.waiting)
            .into_iter()
            .chain(gated)
            .chain(out)
    }
}

fn is_out(out: &HashMap<u32, Pending>, conv: ConvKey) -> bool {
    out.values().any(|send| send.conv == conv)
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: fn(u32) -> ConvKey = ConvKey::group;

    fn send(counter: u64, conv: ConvKey) -> Pending {
        Pending {
            counter,
            conv,
            place: 0,
            due_ns: 0,
            sent_ns: 0,
            left_ns: 0,
        }
    }

    /// Sends all it can; the reference is the counter.
    fn pump(outbox: &mut Outbox, now: u64) -> Vec<(u64, bool)> {
        let mut left = Vec::new();
        while let Some((send, restart)) = outbox.next(now, 4) {
            outbox.sent(u32::try_from(send.counter).unwrap(), send);
            left.push((send.counter, restart));
        }
        left
    }

    #[test]
    fn a_window_bounds_what_is_out() {
        let mut outbox = Outbox::default();
        for counter in 0..6 {
            assert!(outbox.offer(send(counter, C(0))));
        }
        assert_eq!(pump(&mut outbox, 1).len(), 4);
        assert!(outbox.settle(0).is_some() && outbox.settle(0).is_none());
        assert_eq!(pump(&mut outbox, 1), [(4, false)]);
        assert_eq!(outbox.unsettled(), 5);
    }

    #[test]
    fn a_refused_conversation_starts_again_from_its_oldest_and_others_go_on() {
        let mut outbox = Outbox::default();
        for counter in 0..3 {
            outbox.offer(send(counter, C(0)));
        }
        pump(&mut outbox, 1);
        assert!(outbox.settle(0).is_some());
        assert!(outbox.refuse(1, 1));
        outbox.offer(send(3, C(0)));
        outbox.offer(send(4, C(1)));
        assert_eq!(pump(&mut outbox, 2), [(4, false)]);
        // 2 is still out: nothing of the conversation may leave, however late it is.
        assert_eq!(pump(&mut outbox, u64::MAX), []);
        assert!(outbox.refuse(2, 3));
        assert_eq!(pump(&mut outbox, 3), []);
        let at = outbox.wake_at_ns().unwrap();
        assert_eq!(pump(&mut outbox, at), [(1, true), (2, false), (3, false)]);
        outbox.offer(send(5, C(0)));
        for counter in [1, 2, 3, 4] {
            outbox.settle(counter);
        }
        assert_eq!(pump(&mut outbox, at), [(5, false)]);
        assert!(outbox.settle(5).is_some());
        assert_eq!((outbox.unsettled(), outbox.wake_at_ns()), (0, None));
    }

    #[test]
    fn a_restart_that_is_refused_waits_longer() {
        let mut outbox = Outbox::default();
        outbox.offer(send(0, C(0)));
        outbox.offer(send(1, C(0)));
        pump(&mut outbox, 1);
        outbox.refuse(0, 1);
        outbox.refuse(1, 1);
        let first = outbox.wake_at_ns().unwrap();
        assert_eq!(pump(&mut outbox, first), [(0, true), (1, false)]);
        outbox.refuse(0, first);
        outbox.refuse(1, first);
        assert!(outbox.wake_at_ns().unwrap() - first > first - 1);
        assert_eq!(pump(&mut outbox, u64::MAX), [(0, true), (1, false)]);
    }

    #[test]
    fn after_a_lost_connection_everything_goes_again_in_order() {
        let mut outbox = Outbox::default();
        for counter in 0..5 {
            outbox.offer(send(counter, C(0)));
        }
        pump(&mut outbox, 1);
        outbox.settle(0);
        outbox.disconnected();
        assert_eq!(
            pump(&mut outbox, 2),
            [(1, true), (2, false), (3, false), (4, false)]
        );
        assert_eq!(outbox.drain().count(), 4);
    }
}

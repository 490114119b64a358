//! A gate that a frozen server keeps shut: whatever comes to it waits, without end and without bound, as it would in the
//! sockets of a stopped process.

use tokio::sync::watch;

/// Open at first.
pub(crate) struct Gate {
    shut: watch::Sender<bool>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            shut: watch::Sender::new(false),
        }
    }
}

impl Gate {
    /// Shuts or opens it; those that wait go on.
    pub(crate) fn set_shut(&self, shut: bool) {
        self.shut.send_replace(shut);
    }

    /// Whether it is shut.
    pub(crate) fn is_shut(&self) -> bool {
        *self.shut.borrow()
    }

    /// Returns when it is open.
    pub(crate) async fn pass(&self) {
        // The sender lives as long as `self`, so this never fails.
        let _ = self.shut.subscribe().wait_for(|shut| !shut).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn what_waits_at_a_shut_gate_goes_on_when_it_opens() {
        let gate = Arc::new(Gate::default());
        gate.set_shut(true);
        let own = Arc::clone(&gate);
        let passing = tokio::spawn(async move { own.pass().await });
        tokio::task::yield_now().await;
        assert!(!passing.is_finished());
        gate.set_shut(false);
        passing.await.unwrap();
    }
}

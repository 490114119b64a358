//! Finding out what became of commits whose outcome was unknown when they were answered.
//!
//! Senders were told to try again, and most do: then their resend finds it out. This is for the rest. A message that such a
//! commit stored after all is in the log and was published by nobody; its outbox row, or one that mending writes, is handed
//! over to be published.

use std::collections::BTreeSet;

use super::super::OutboxRow;
use super::client::{Rows, SCAN_ROWS};
use super::doubt::Orphans;
use super::fault::Fault;
use super::keys::ConvKey;
use super::lane::Writer;
use super::outbox;
use super::read::Trouble;
use super::rows::{Outbox, Value};

impl Writer {
    /// Looks at everything that is doubted; what fails is looked at again later.
    pub(super) async fn settle(&mut self) {
        match self.find_out().await {
            Ok(()) => {
                self.doubts.settled();
                // A resend would be published once more.
                self.orphans = Orphans::default();
            }
            Err(fault) => {
                tracing::debug!(lane = self.lane.0, %fault, "what became of a commit cannot be found out yet");
                let now = self.now();
                self.doubts.put_off(now);
            }
        }
    }

    async fn find_out(&mut self) -> Result<(), Fault> {
        let deadline = self.now() + self.shared.limits.commit;
        let mut convs = BTreeSet::new();
        for (start, doubt) in self.doubts.open() {
            self.shared.kv.end(&doubt.primary, start).await?;
            convs.extend(doubt.convs);
        }
        let rows = self.untold().await?;
        let named = rows.iter().flat_map(|row| &row.entries);
        convs.extend(named.map(|(app, conv, ..)| (*app, conv.clone())));
        let convs: Vec<ConvKey> = convs.into_iter().collect();
        self.mend(&convs, deadline).await?;
        match outbox::in_log(&self.shared, rows).await {
            Ok(rows) => {
                for row in rows {
                    if !self.shared.hand_over(row) {
                        return Err(Fault::timeout("room for what is to be published"));
                    }
                }
                Ok(())
            }
            Err(Trouble::Fault(fault)) => Err(fault),
            Err(Trouble::Store(error)) => {
                tracing::error!(%error, "what a commit stored cannot be published");
                Ok(())
            }
        }
    }

    /// Outbox rows of this router in the lane that nobody was told of.
    async fn untold(&self) -> Result<Vec<OutboxRow>, Fault> {
        let (shared, lane) = (&self.shared, self.lane);
        let mut read = shared.kv.snapshot().await?;
        let (mut after, mut rows) = (0, Vec::new());
        loop {
            let page = read
                .scan(shared.keys.outbox_behind(lane, after), SCAN_ROWS)
                .await?;
            let is_last = page.len() < SCAN_ROWS as usize;
            for (key, value) in page {
                let Some(id) = shared.keys.outbox_of(lane, &key) else {
                    continue;
                };
                after = id;
                match Outbox::decode(&key, &value) {
                    Ok(row) if row.writer == shared.boot && !shared.is_told(id) => {
                        rows.push(row.named(id, lane));
                    }
                    Ok(_) => {}
                    Err(error) => tracing::error!(%error, "an outbox row cannot be read"),
                }
            }
            if is_last {
                return Ok(rows);
            }
        }
    }
}

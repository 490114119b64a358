//! What is published without being stored: read marks, typing, steps of calls, "pull this".
//!
//! Owns nothing. A notice is numbered like every record, so that a gateway's count has no holes, but no outbox row
//! waits for it: a notice that dies with a process is not missed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use corelane_protocol::bus::{BusFrame, BusRecord, FrameReceivers, Receivers};
use corelane_protocol::hash;
use corelane_protocol::id::{AppId, ConvId, UserId};

use crate::core::RouterCore;
use crate::event::{Output, Route};

/// A frame for sessions whose routes are known.
#[derive(Debug, Clone)]
pub struct Notice {
    /// Tenant.
    pub app: AppId,
    /// The conversation it is about.
    pub conv: ConvId,
    /// Class of the record ([`corelane_protocol::bus::class`]).
    pub class: u8,
    /// Priority lane: 0 control, 1 calls, 3 transient.
    pub priority: u8,
    /// Not worth delivering after this wall time, in ms; 0 for ever.
    pub expires_ms: u64,
    /// Whose doing it is.
    pub sender: UserId,
    /// Receivers.
    pub routes: Vec<Route>,
    /// The server frame.
    pub frame: Vec<u8>,
}

impl RouterCore {
    pub(crate) fn notice(&mut self, notice: Notice, outputs: &mut Vec<Output>) {
        let mut by_boot: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        for route in &notice.routes {
            by_boot.entry(route.boot).or_default().insert(route.conn);
        }
        let partition = hash::partition_of(notice.app, &notice.conv, self.partitions);
        for (boot, conns) in by_boot {
            let number = self.outbox.next_number(boot, partition);
            let record = BusRecord {
                class: notice.class,
                priority: notice.priority,
                app: notice.app.0,
                conv: notice.conv.as_bytes().to_vec(),
                first_seq: 0,
                last_seq: 0,
                member_version: 0,
                epoch: self.epoch,
                router_boot: self.boot,
                number,
                outbox: 0,
                expires_ms: notice.expires_ms,
                published_us: self.now.wall_ms * 1000,
                receivers: Receivers::Conns(conns.into_iter().collect()),
                frames: vec![BusFrame {
                    seq: 0,
                    receivers: FrameReceivers::All,
                    sender: notice.sender.as_str().to_owned(),
                    stamp: 0,
                    frame: notice.frame.clone(),
                }],
            };
            let record: Arc<[u8]> = Arc::from(record.encode());
            self.outbox.sent(boot, partition, number, 0, Arc::clone(&record));
            self.metrics.records += 1;
            outputs.push(Output::Publish {
                boot,
                partition,
                number,
                record,
                stamp: 0,
            });
        }
    }
}

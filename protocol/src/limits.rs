//! Every bound of the wire, and how they fit together.

use std::time::Duration;

use crate::id::{CONV_ID_BYTES_MAX, ID_BYTES_MAX};

/// Largest payload of a message, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// Largest body of a call step, in bytes.
pub const CALL_BODY_BYTES_MAX: usize = 16 * 1024;
/// Most bytes of all extensions of a frame.
pub const EXTENSION_BYTES_MAX: usize = 2 * 1024;
/// Most extensions of a frame.
pub const EXTENSIONS_MAX: usize = 16;
/// Largest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 2 * 1024;
/// Largest canonical client frame, in bytes.
pub const CLIENT_FRAME_BYTES_MAX: usize = 72 * 1024;
/// Largest JSON text of a client frame, in bytes: a payload of control characters escapes to six bytes each;
/// what is larger is refused although its payload might be short enough.
pub const CLIENT_JSON_BYTES_MAX: usize = 128 * 1024;
/// Largest server frame, in bytes. Pages are cut so that they stay below.
pub const SERVER_FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of messages that a page aims at.
pub const PAGE_BYTES: usize = 512 * 1024;
/// Most messages or conversations in a page.
pub const PAGE_ITEMS_MAX: u16 = 200;
/// Most places in `Delivered` and `PullRequired`.
pub const PLACES_MAX: usize = 32;
/// Most users in a `PresenceQuery`.
pub const PRESENCE_USERS_MAX: usize = 100;
/// Largest sync cursor, in bytes.
pub const CURSOR_BYTES_MAX: usize = 64;
/// Most unacknowledged sends of a connection.
pub const SEND_WINDOW: u16 = 64;
/// Most closed gates of a connection before it is closed with 4007.
pub const GATES_MAX: usize = 32;
/// Most bytes in one commit of a lane.
pub const COMMIT_BYTES_MAX: usize = 1024 * 1024;
/// Largest batch on a link, in bytes, its length prefix excluded.
pub const LINK_BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest bus record, in bytes.
pub const BUS_RECORD_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Most members of a group.
pub const GROUP_MEMBERS_MAX: usize = 10_000;
/// How long a gateway lives without a sign of life: its lease.
pub const LEASE: Duration = Duration::from_secs(10);
/// How often a gateway renews its lease in the time of one.
pub const RENEWALS_PER_LEASE: u32 = 3;
/// Most routers of a cluster: those of a `RouterList`, and the seeds of a gateway.
pub const ROUTERS_MAX: usize = 32;
/// Highest seq and n: JSON numbers stay exact.
pub const SEQ_MAX: u64 = (1 << 53) - 1;

const _: () = {
    assert!(
        PAYLOAD_BYTES_MAX + EXTENSION_BYTES_MAX + CONV_ID_BYTES_MAX + 2 * ID_BYTES_MAX + 256
            <= CLIENT_FRAME_BYTES_MAX,
        "a frame must hold the largest payload with the largest ids and extensions"
    );
    assert!(
        PAGE_BYTES + CLIENT_FRAME_BYTES_MAX + 64 * PAGE_ITEMS_MAX as usize <= SERVER_FRAME_BYTES_MAX,
        "a page that aims at PAGE_BYTES and takes one more message must fit"
    );
    assert!(
        COMMIT_BYTES_MAX + 2 * CLIENT_FRAME_BYTES_MAX < BUS_RECORD_BYTES_MAX,
        "a commit fits a bus record"
    );
    assert!(
        BUS_RECORD_BYTES_MAX + 4096 < LINK_BATCH_BYTES_MAX,
        "a bus record fits a link batch"
    );
    assert!(
        RENEWALS_PER_LEASE >= 3,
        "one renewal may be lost with its link, and the next one late"
    );
    assert!(
        SERVER_FRAME_BYTES_MAX + 4096 < LINK_BATCH_BYTES_MAX,
        "a page fits a link batch"
    );
};

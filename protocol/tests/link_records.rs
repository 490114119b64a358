//! Records of a proved peer: hostile bytes are an error and never a panic, credit bounds memory, and it does not matter
//! where reads end.
#![expect(
    clippy::cast_possible_truncation,
    reason = "the numbers of these tests are small"
)]

mod link_support;

use corelane_protocol::frame;
use corelane_protocol::limits::LINK_BATCH_BYTES_MAX;
use corelane_protocol::link::body::Credit;
use corelane_protocol::link::codec::{CREDIT_BYTES, CREDIT_RECORDS, LinkError, NoCredit};
use corelane_protocol::link::record::{Record, RecordError, RecordKind};
use link_support::{client_frame, established, feed, output};
use proptest::prelude::*;

fn batch(payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_le_bytes().to_vec();
    bytes.extend(payload);
    bytes
}

#[test]
fn a_batch_with_any_byte_changed_is_an_error_or_other_records() {
    let (mut gateway, _) = established();
    gateway.push(&client_frame(b"abc")).unwrap();
    gateway.push(&client_frame(b"")).unwrap();
    let bytes = output(&mut gateway);
    for at in 0..bytes.len() {
        for flip in [0x01, 0x40, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            let (_, mut router) = established();
            let (seen, result) = feed(&mut router, &changed);
            assert!(seen.len() <= 2, "byte {at}: {seen:?} {result:?}");
        }
    }
}

#[test]
fn a_record_is_not_read_beyond_its_end() {
    let mut bytes = Vec::new();
    client_frame(b"abc").encode(&mut bytes);
    for length in 0..bytes.len() {
        assert!(
            matches!(Record::split(&bytes[..length]), Err(RecordError::Length { .. })),
            "first {length} bytes"
        );
    }
    let (record, rest) = Record::split(&bytes).unwrap();
    assert_eq!((record, rest), (client_frame(b"abc"), &[][..]));
}

#[test]
fn a_batch_above_the_limit_is_refused_before_it_is_kept() {
    let (_, mut router) = established();
    let announced = LINK_BATCH_BYTES_MAX + 1;
    let (_, result) = feed(&mut router, &(announced as u32).to_le_bytes());
    assert_eq!(result, Err(LinkError::BatchLength { bytes: announced }));
}

#[test]
fn a_peer_that_sends_beyond_its_credit_is_cut_off() {
    let (_, mut router) = established();
    let body = vec![0; LINK_BATCH_BYTES_MAX - 1024];
    let mut record = Vec::new();
    client_frame(&body).encode(&mut record);
    // One read that holds more than the credit: nothing was granted in between.
    let reads = batch(&record).repeat(3);
    let (seen, result) = feed(&mut router, &reads);
    assert_eq!((seen.len(), result), (2, Err(LinkError::Credit)));
}

#[test]
fn control_records_pass_when_payload_has_no_credit() {
    let (mut gateway, mut router) = established();
    let mut count = 0;
    while gateway.push(&client_frame(b"x")).is_ok() {
        count += 1;
    }
    assert_eq!(count, CREDIT_RECORDS);
    assert_eq!(gateway.room().records, 0);
    assert!(!gateway.has_room_for(0));
    for kind in RecordKind::ALL {
        let record = Record {
            kind: *kind as u8,
            ..Record::default()
        };
        let counts = matches!(
            kind,
            RecordKind::ClientFrame | RecordKind::ServerFrame | RecordKind::BusBatch
        );
        if *kind != RecordKind::Credit {
            let expected = if counts { Err(NoCredit) } else { Ok(()) };
            assert_eq!(gateway.push(&record), expected, "{kind:?}");
        }
    }
    let controls = RecordKind::ALL.len() - 4;
    let (seen, result) = feed(&mut router, &output(&mut gateway));
    result.unwrap();
    assert_eq!(seen.len(), count as usize + controls);
    feed(&mut gateway, &output(&mut router)).1.unwrap();
    assert_eq!(
        gateway.room().records,
        u64::from(CREDIT_RECORDS),
        "all was granted again"
    );
}

#[test]
fn credit_granted_without_end_does_not_overflow() {
    let (mut gateway, mut router) = established();
    let body = frame::archive(&Credit {
        bytes: u32::MAX,
        records: u32::MAX,
    });
    let grant = Record {
        kind: RecordKind::Credit as u8,
        body: &body,
        ..Record::default()
    };
    for _ in 0..100 {
        router.push(&grant).unwrap();
    }
    feed(&mut gateway, &output(&mut router)).1.unwrap();
    assert_eq!(gateway.room().bytes, 8 * u64::from(CREDIT_BYTES));
    let nonsense = Record { body: b"x", ..grant };
    router.push(&nonsense).unwrap();
    assert_eq!(
        feed(&mut gateway, &output(&mut router)).1,
        Err(LinkError::CreditBody)
    );
}

#[test]
fn the_largest_record_always_gets_its_credit() {
    let (mut gateway, mut router) = established();
    let bodies = [
        vec![0; CREDIT_BYTES as usize / 2 - 100],
        vec![0; LINK_BATCH_BYTES_MAX - 100],
    ];
    for round in 0..6 {
        let body = &bodies[round % 2];
        assert!(gateway.push(&client_frame(body)).is_ok(), "round {round}");
        feed(&mut router, &output(&mut gateway)).1.unwrap();
        feed(&mut gateway, &output(&mut router)).1.unwrap();
    }
}

proptest! {
    #[test]
    fn records_do_not_depend_on_where_reads_end(
        bodies in prop::collection::vec(0_usize..5000, 1..20),
        cuts in prop::collection::vec(1_usize..4000, 1..20),
    ) {
        let (mut gateway, mut router) = established();
        let mut bytes = Vec::new();
        for (at, length) in bodies.iter().enumerate() {
            gateway.push(&client_frame(&vec![at as u8; *length])).unwrap();
            if at % 3 == 0 {
                gateway.output(&mut bytes);
            }
        }
        gateway.output(&mut bytes);
        let (mut seen, mut rest) = (Vec::new(), &bytes[..]);
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (read, after) = rest.split_at((*cut).min(rest.len()));
            rest = after;
            let (more, result) = feed(&mut router, read);
            prop_assert_eq!(result, Ok(()));
            seen.extend(more);
        }
        let expected: Vec<String> = bodies.iter().map(|length| format!("1:{length}")).collect();
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn bytes_of_anybody_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let (_, mut router) = established();
        let _ = feed(&mut router, &batch(&bytes));
        let _ = Record::split(&bytes);
    }
}

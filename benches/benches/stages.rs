//! Time per stage. Information, not a gate: wall time never fails a run.

use std::hint::black_box;

use corelane_benches::send_frame;
use corelane_benches::sessions::Sessions;
use corelane_protocol::arena::Arena;
use corelane_protocol::frame::{Frame, read};
use corelane_protocol::ws::{Decoder, Opcode, Role, client_frame, server_header, unmask};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn stages(criterion: &mut Criterion) {
    let frame = send_frame(512);
    let mut masked = Vec::new();
    client_frame(Opcode::Binary, &frame, [1, 2, 3, 4], &mut masked);

    let mut group = criterion.benchmark_group("512B");
    group.throughput(Throughput::Bytes(frame.len() as u64));
    group.bench_function("decode", |bencher| {
        let mut decoder = Decoder::new(Role::Server, 72 * 1024);
        let mut bytes = masked.clone();
        bencher.iter(|| {
            bytes.copy_from_slice(&masked);
            let mut items = decoder.feed(&mut bytes);
            while let Some(item) = items.next() {
                black_box(item.is_ok());
            }
        });
    });
    group.bench_function("unmask", |bencher| {
        let mut bytes = frame.clone();
        bencher.iter(|| unmask(black_box(&mut bytes), [1, 2, 3, 4]));
    });
    group.bench_function("frame access", |bencher| {
        bencher.iter(|| {
            let frame = Frame::parse(black_box(&frame)).expect("a frame");
            black_box(read::send(&frame).expect("a send").payload.len())
        });
    });
    group.bench_function("encode", |bencher| bencher.iter(|| black_box(send_frame(512))));
    group.bench_function("deliver to an arena", |bencher| {
        let mut arena = Arena::new();
        bencher.iter(|| {
            let span = arena.push(&[&server_header(Opcode::Binary, frame.len(), true), &frame]);
            black_box(span.len());
            drop(span);
            arena.turn_ended();
        });
    });
    group.finish();
}

/// A record of one message through the gateway's rules: read, delivered, flushed, and its sends completed.
fn deliver(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("deliver 512B");
    for count in [1, 50] {
        let mut sessions = Sessions::of(count);
        let (record, wire) = sessions.message(512);
        let mut left = Vec::new();
        sessions.deliver(&record, |conn, span| left.push((conn, span.to_vec())));
        left.sort_unstable();
        let everybody = sessions.conns().iter();
        assert!(
            left.into_iter().eq(everybody.map(|conn| (*conn, wire.clone()))),
            "each socket gets the message, once and whole"
        );
        group.throughput(Throughput::Elements(u64::from(count)));
        group.bench_function(BenchmarkId::new("receivers", count), |bencher| {
            bencher.iter(|| {
                let mut sent_bytes = 0;
                sessions.deliver(&record, |_, span| sent_bytes += span.len());
                black_box(sent_bytes)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, stages, deliver);
criterion_main!(benches);

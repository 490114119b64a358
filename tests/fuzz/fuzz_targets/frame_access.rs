//! Hostile archives: every reader answers, none panics or reads wrong.
#![no_main]

use corelane_protocol::bus;
use corelane_protocol::frame::{Frame, json, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(frame) = Frame::parse(bytes) {
        let _ = read::hello(&frame);
        if let Ok(send) = read::send(&frame) {
            let _ = read::stored_extensions(&frame);
            assert!(send.payload.len() <= bytes.len());
        }
        let _ = read::read(&frame);
        let _ = read::delivered(&frame);
        let _ = read::sync(&frame);
        let _ = read::pull(&frame);
        let _ = read::call(&frame);
        let _ = read::typing(&frame);
        let _ = read::presence_query(&frame);
        let mut out = Vec::new();
        let _ = json::to_json(bytes, &mut out);
    }
    if let Ok((_, record)) = bus::read(bytes) {
        let _ = (record.conv.len(), record.frames.iter().filter(|each| each.receivers.include(1)).count());
    }
});

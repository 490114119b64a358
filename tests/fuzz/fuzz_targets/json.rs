//! Whatever a browser sends becomes a frame that parses, or an error.
#![no_main]

use corelane_protocol::frame::Frame;
use corelane_protocol::frame::json::{JsonInput, from_json};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(JsonInput::Frame(bytes)) = from_json(text) {
        Frame::parse(&bytes).expect("a canonical frame parses");
    }
});

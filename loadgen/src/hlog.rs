//! The histogram log: one interval per second and series, for the tools that people have for it.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::time::Duration;

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::record::Recorder;
use crate::shared::Shared;

/// Writes the latencies of each second, each with its end.
///
/// # Errors
///
/// A text that says what could not be written; the report names it.
pub(crate) fn write(file: File, shared: &Shared, intervals: &[(u64, Recorder)]) -> Result<(), String> {
    let mut file = BufWriter::new(file);
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    builder
        .add_comment("corelane-loadgen, values in us")
        .with_start_time(shared.clock.wall_start())
        .with_max_value_divisor(1.0);
    let mut log = builder
        .begin_log_with(&mut file, &mut serializer)
        .map_err(|error| error.to_string())?;
    let mut before_ns = 1_000_000_000;
    for (at_ns, recorder) in intervals {
        for (tag, latency) in recorder.tagged() {
            if latency.count() == 0 {
                continue;
            }
            let start = Duration::from_nanos(before_ns - 1_000_000_000);
            let length = Duration::from_nanos(at_ns - before_ns);
            log.write_histogram(latency.histogram(), start, length, Tag::new(tag))
                .map_err(|error| format!("{error:?}"))?;
        }
        before_ns = *at_ns;
    }
    file.flush().map_err(|error| error.to_string())
}

//! One line per event, for a look at a run (`CORELANE_SIM_TRACE=1`).

use crate::world::Event;

/// The event without the bytes it carries.
pub(crate) fn line(event: &Event) -> String {
    match event {
        Event::Bytes(socket, bytes) => format!("Bytes({socket}, {} bytes)", bytes.len()),
        Event::Left(socket, bytes) => format!("Left({socket}, {} bytes)", bytes.len()),
        Event::Down(socket, bytes) => format!("Down({socket}, {} bytes)", bytes.len()),
        Event::LinkIn(link, bytes) => format!("LinkIn({link}, {} bytes)", bytes.len()),
        Event::LinkOut(link, bytes) => format!("LinkOut({link}, {} bytes)", bytes.len()),
        Event::Append(_, (boot, partition, number), ..) => format!("Append({boot}, {partition}, {number})"),
        Event::Inbox(shard, _) => format!("Inbox({shard})"),
        Event::Committed(life, lane, committed) => {
            let text = format!("{committed:?}");
            format!(
                "Committed({life}, {lane:?}, {})",
                text.get(..text.len().min(60)).unwrap_or("")
            )
        }
        Event::Apply(life, begun) => {
            let batch = &begun.batch;
            let ids = batch
                .appends
                .iter()
                .map(|append| crate::terminal::origin_of(append.client_msg_id.0));
            format!("Apply({life}, {:?}, {:?})", batch.lane, ids.collect::<Vec<_>>())
        }
        other => format!("{other:?}"),
    }
}

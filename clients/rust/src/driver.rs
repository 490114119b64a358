//! The task of a session: socket on one side, handles and events on the other, the rules in the middle.
//!
//! Reads the socket only while no event waits for room, takes commands only while few frames wait to be written, and
//! never waits for one of these alone. A second task writes, so that a server that does not read cannot keep this one
//! from reading.

use std::time::Duration;

use corelane_protocol::id::UserId;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::client::Command;
use crate::error::ClientError;
use crate::event::Event;
use crate::raw::{RawClient, RawItem, item};
use crate::session::{Ending, Session};

/// Frames handed to the writer and not yet written.
const WRITE_SLOTS: usize = 32;
/// Frames waiting for the writer above which no command is taken.
const OUT_FRAMES_MAX: usize = 128;
/// How long a closing connection may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs a session to its end.
pub(crate) async fn run(
    mut session: Session,
    mut commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    welcomed: oneshot::Sender<Result<UserId, ClientError>>,
) {
    let mut welcomed = Some(welcomed);
    loop {
        let dial = RawClient::connect(&session.options.url, None);
        let ending = match timeout(session.options.answer_timeout, dial).await {
            Ok(Ok(raw)) => talk(&mut session, raw, &mut commands, &events, &mut welcomed).await,
            Ok(Err(error)) => {
                let ending = Ending {
                    code: 1006,
                    reason: error.to_string(),
                    wanted: false,
                };
                if let Some(welcomed) = welcomed.take() {
                    drop(welcomed.send(Err(error)));
                }
                ending
            }
            Err(_) => Ending {
                code: 1006,
                reason: "no answer to the connect".to_owned(),
                wanted: false,
            },
        };
        let (code, reason) = (ending.code, ending.reason.clone());
        let Some(pause) = session.ended(Instant::now(), ending) else {
            if let Some(welcomed) = welcomed.take() {
                drop(welcomed.send(Err(ClientError::Closed { code, reason })));
            }
            break;
        };
        wait(&mut session, Instant::now() + pause, &mut commands, &events).await;
        if let Some(ending) = session.ending.take() {
            // Only the user can end a session that has no connection.
            session.ended(Instant::now(), ending);
            break;
        }
    }
    // Handles see the end before the last events are taken.
    drop(commands);
    while let Some(event) = session.events.pop_front() {
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// One connection, from hello to its end.
async fn talk(
    session: &mut Session,
    raw: RawClient,
    commands: &mut mpsc::Receiver<Command>,
    events: &mpsc::Sender<Event>,
    welcomed: &mut Option<oneshot::Sender<Result<UserId, ClientError>>>,
) -> Ending {
    let (mut sink, mut stream) = raw.into_socket().split();
    let (writer, mut to_write) = mpsc::channel::<Vec<u8>>(WRITE_SLOTS);
    let writing = tokio::spawn(async move {
        while let Some(frame) = to_write.recv().await {
            let mut written = sink.feed(Message::Binary(frame.into())).await;
            while let (Ok(()), Ok(frame)) = (&written, to_write.try_recv()) {
                written = sink.feed(Message::Binary(frame.into())).await;
            }
            if written.is_err() || sink.flush().await.is_err() {
                // The reader sees why.
                return;
            }
        }
        let close = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        drop(timeout(CLOSE_TIMEOUT, sink.send(Message::Close(Some(close)))).await);
    });
    session.connected(Instant::now());
    let ending = loop {
        let now = Instant::now();
        session.tick(now);
        session.pump(now);
        if let (Some(user), Some(_)) = (&session.user, &welcomed)
            && let Some(welcomed) = welcomed.take()
        {
            drop(welcomed.send(Ok(user.clone())));
        }
        if let Some(ending) = session.ending.take() {
            break ending;
        }
        let deadline = session.deadline().unwrap_or(now + Duration::from_hours(1));
        tokio::select! {
            message = stream.next(), if session.events.is_empty() => match item(message) {
                Some(RawItem::Frame(bytes)) => {
                    if let Err(error) = session.frame(Instant::now(), &bytes) {
                        session.end(1006, &error.to_string(), false);
                    }
                }
                Some(RawItem::Closed { code, reason }) => break Ending { code, reason, wanted: false },
                Some(RawItem::Text(_)) => session.end(1006, "the server sent text", false),
                None => {}
            },
            room = writer.reserve(), if !session.out.is_empty() => match (room, session.out.pop_front()) {
                (Ok(room), Some(frame)) => room.send(frame),
                // The writer failed; the reader is about to see it too.
                _ => session.end(1006, "connection lost", false),
            },
            room = events.reserve(), if !session.events.is_empty() => pass_event(session, room),
            command = commands.recv(), if session.out.len() < OUT_FRAMES_MAX => {
                session.command(Instant::now(), command.unwrap_or(Command::Close));
            }
            () = sleep_until(deadline) => {}
        }
    };
    drop(writer);
    if session.closing {
        drop(writing.await);
        let closed = async {
            while stream
                .next()
                .await
                .is_some_and(|message| message.is_ok_and(|each| !each.is_close()))
            {}
        };
        drop(timeout(CLOSE_TIMEOUT, closed).await);
    }
    ending
}

/// The pause between two connections.
async fn wait(
    session: &mut Session,
    until: Instant,
    commands: &mut mpsc::Receiver<Command>,
    events: &mpsc::Sender<Event>,
) {
    while session.ending.is_none() {
        tokio::select! {
            () = sleep_until(until) => return,
            room = events.reserve(), if !session.events.is_empty() => pass_event(session, room),
            command = commands.recv() => session.command(Instant::now(), command.unwrap_or(Command::Close)),
        }
    }
}

fn pass_event(session: &mut Session, room: Result<mpsc::Permit<'_, Event>, mpsc::error::SendError<()>>) {
    match room {
        Ok(room) => {
            if let Some(event) = session.events.pop_front() {
                room.send(event);
            }
        }
        // Nobody listens.
        Err(_) => session.events.clear(),
    }
}

//! The handle of a session: what a program calls.

use std::pin::Pin;
use std::task::{Context, Poll};

use corelane_protocol::frame::body;
use corelane_protocol::frame::kind::content;
use corelane_protocol::frame::read::TargetId;
use corelane_protocol::id::{ConvId, UserId};
use tokio::sync::{mpsc, oneshot};

use crate::driver;
use crate::error::ClientError;
use crate::event::Events;
use crate::message::{Ack, Received, new_client_msg_id};
use crate::options::Options;
use crate::session::Session;

/// Commands that wait for the session's task.
const COMMAND_SLOTS: usize = 64;

/// Where an answer goes.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, ClientError>>;

/// What a handle asks of its session.
#[derive(Debug)]
pub(crate) enum Command {
    Send(ConvId, body::Send, Answer<Ack>),
    Sync(Answer<Vec<body::ConvState>>),
    Pull(body::Pull, Answer<PullAnswer>),
    Read(body::Read, Answer<body::ReadUpTo>),
    Presence(body::PresenceQuery, Answer<body::Presence>),
    Typing(body::Typing),
    Call(body::Call),
    RefreshToken(String),
    Close,
}

/// Messages of a range, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullAnswer {
    /// Where to go on; 0 when the range is complete.
    pub next_seq: u64,
    /// Last place in the conversation.
    pub head_seq: u64,
    /// Countable messages in it.
    pub head_n: u64,
    /// Everything up to here was cut by retention.
    pub floor_seq: u64,
    /// The messages.
    pub messages: Vec<Received>,
}

/// A session. Clones share it; it ends with the last of them, or with [`Self::close`].
#[derive(Debug, Clone)]
pub struct Client {
    user: UserId,
    commands: mpsc::Sender<Command>,
}

impl Client {
    /// Connects and logs in. Returns after the first `Welcome`; until then nothing is tried twice.
    ///
    /// # Errors
    ///
    /// [`ClientError::WebSocket`] or [`ClientError::Address`] if there is no connection, [`ClientError::Closed`] if the
    /// gateway closed it (wrong token, no room).
    pub async fn connect(options: Options) -> Result<(Self, Events), ClientError> {
        let (commands, from_handles) = mpsc::channel(COMMAND_SLOTS);
        let (to_user, events) = mpsc::channel(options.event_slots.max(1));
        let (welcomed, welcome) = oneshot::channel();
        tokio::spawn(driver::run(
            Session::new(options),
            from_handles,
            to_user,
            welcomed,
        ));
        let user = welcome.await.unwrap_or(Err(ClientError::Disconnected))?;
        Ok((Self { user, commands }, Events(events)))
    }

    /// The user that the token named.
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// Sends a message of `kind` with a `content` type ([`corelane_protocol::frame::kind`]). Returns when it is queued:
    /// messages of one conversation keep the order of these calls. The ack is waited for apart; a payload that is larger
    /// than the gateway takes is refused there ([`ClientError::TooLarge`]).
    ///
    /// # Errors
    ///
    /// [`ClientError::Closed`]: the session is over.
    pub async fn send(
        &self,
        target: TargetId,
        kind: u16,
        content: u8,
        payload: Vec<u8>,
    ) -> Result<PendingAck, ClientError> {
        self.send_frame(body::Send {
            target: body_target(&target),
            kind,
            flags: 0,
            ref_seq: 0,
            client_msg_id: new_client_msg_id().0,
            content_type: content,
            payload,
        })
        .await
    }

    /// Sends text.
    ///
    /// # Errors
    ///
    /// As [`Self::send`].
    pub async fn send_text(&self, target: TargetId, text: &str) -> Result<PendingAck, ClientError> {
        let kind = corelane_protocol::frame::kind::TEXT;
        self.send(target, kind, content::TEXT, text.as_bytes().to_vec())
            .await
    }

    /// Sends a message whose every field the caller chose, its id included.
    ///
    /// # Errors
    ///
    /// As [`Self::send`]; [`ClientError::Frame`] for a target that is none.
    pub async fn send_frame(&self, body: body::Send) -> Result<PendingAck, ClientError> {
        let conv = self.conv_of(&body.target)?;
        let (done, answer) = oneshot::channel();
        self.command(Command::Send(conv, body, done)).await?;
        Ok(PendingAck(answer))
    }

    /// The state of every conversation, from the beginning, page after page.
    ///
    /// # Errors
    ///
    /// [`ClientError::Disconnected`] or a refusal.
    pub async fn sync_all(&self) -> Result<Vec<body::ConvState>, ClientError> {
        self.ask(Command::Sync).await
    }

    /// Up to `limit` (1 to 200) messages from `from_seq` up to and with `to_seq`. What is pulled here does not come as
    /// an event.
    ///
    /// # Errors
    ///
    /// [`ClientError::Disconnected`] or a refusal.
    pub async fn pull(
        &self,
        conv: &ConvId,
        from_seq: u64,
        to_seq: u64,
        limit: u16,
    ) -> Result<PullAnswer, ClientError> {
        let body = body::Pull {
            conv: conv.as_bytes().to_vec(),
            from_seq,
            to_seq,
            limit,
        };
        self.ask(|answer| Command::Pull(body, answer)).await
    }

    /// Says that the user has read up to `seq`; returns the mark as the server knows it now.
    ///
    /// # Errors
    ///
    /// [`ClientError::Disconnected`] or a refusal.
    pub async fn read(&self, conv: &ConvId, seq: u64) -> Result<body::ReadUpTo, ClientError> {
        let upto = body::ConvSeq {
            conv: conv.as_bytes().to_vec(),
            seq,
        };
        self.ask(|answer| Command::Read(body::Read { upto }, answer))
            .await
    }

    /// Which terminals of these users (1 to 100) are online?
    ///
    /// # Errors
    ///
    /// [`ClientError::Disconnected`] or a refusal.
    pub async fn presence(&self, users: Vec<String>) -> Result<body::Presence, ClientError> {
        self.ask(|answer| Command::Presence(body::PresenceQuery { users }, answer))
            .await
    }

    /// Tells the others that the user types, or stopped. Dropped while offline.
    ///
    /// # Errors
    ///
    /// [`ClientError::Closed`].
    pub async fn typing(&self, target: TargetId, on: bool) -> Result<(), ClientError> {
        let body = body::Typing {
            target: body_target(&target),
            from: String::new(),
            on,
        };
        self.command(Command::Typing(body)).await
    }

    /// Passes a step of a call on to the others in it. Dropped while offline.
    ///
    /// # Errors
    ///
    /// [`ClientError::Closed`].
    pub async fn call(
        &self,
        target: TargetId,
        call_id: [u8; 16],
        step: u8,
        body: Vec<u8>,
    ) -> Result<(), ClientError> {
        let body = body::Call {
            target: body_target(&target),
            from: String::new(),
            call_id,
            step,
            body,
        };
        self.command(Command::Call(body)).await
    }

    /// Gives the session a newer token, for now and for later logins.
    ///
    /// # Errors
    ///
    /// [`ClientError::Closed`].
    pub async fn refresh_token(&self, token: impl Into<String>) -> Result<(), ClientError> {
        self.command(Command::RefreshToken(token.into())).await
    }

    /// Ends the session; what was not acknowledged fails. Returns when the connection is closed.
    pub async fn close(&self) {
        if self.commands.send(Command::Close).await.is_ok() {
            self.commands.closed().await;
        }
    }

    fn conv_of(&self, target: &body::Target) -> Result<ConvId, ClientError> {
        match target {
            body::Target::Conv(bytes) => Ok(crate::message::conv(bytes)?),
            body::Target::User(user) => {
                let user =
                    UserId::new(user).map_err(|error| corelane_protocol::frame::FrameError::Field {
                        field: "target",
                        problem: error.to_string(),
                    })?;
                Ok(ConvId::direct(&self.user, &user))
            }
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, ClientError> {
        let (done, answer) = oneshot::channel();
        self.command(command(done)).await?;
        answer.await.unwrap_or_else(|_| Err(over()))
    }

    async fn command(&self, command: Command) -> Result<(), ClientError> {
        self.commands.send(command).await.map_err(|_| over())
    }
}

/// An ack that is on its way. Dropping it does not take the message back.
#[derive(Debug)]
pub struct PendingAck(oneshot::Receiver<Result<Ack, ClientError>>);

impl Future for PendingAck {
    type Output = Result<Ack, ClientError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|answer| answer.unwrap_or_else(|_| Err(over())))
    }
}

fn over() -> ClientError {
    ClientError::Closed {
        code: 0,
        reason: "the session ended before".to_owned(),
    }
}

fn body_target(target: &TargetId) -> body::Target {
    match target {
        TargetId::Conv(conv) => body::Target::Conv(conv.as_bytes().to_vec()),
        TargetId::User(user) => body::Target::User(user.as_str().to_owned()),
    }
}

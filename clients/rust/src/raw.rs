//! A WebSocket that carries frames and nothing more: no login, no answers, no order.

use corelane_protocol::limits::SERVER_FRAME_BYTES_MAX;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use crate::error::ClientError;

/// The subprotocol of native clients.
pub(crate) const SUBPROTOCOL: &str = "corelane.rkyv.v1";

/// What came from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawItem {
    /// A binary message: a frame, if the server is well.
    Frame(Vec<u8>),
    /// A text message.
    Text(String),
    /// The connection ended. Nothing follows.
    Closed {
        /// Close code; 1005 if the close frame held none, 1006 if there was no close frame.
        code: u16,
        /// The server's words.
        reason: String,
    },
}

/// An open connection.
#[derive(Debug)]
pub struct RawClient {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl RawClient {
    /// Opens a connection with the native subprotocol. `token` goes into the upgrade request, if there is one.
    ///
    /// # Errors
    ///
    /// [`ClientError::Address`] for a URL that cannot be used, [`ClientError::WebSocket`] if there is no server or it
    /// refused.
    pub async fn connect(url: &str, token: Option<&str>) -> Result<Self, ClientError> {
        Self::connect_with(url, token, Some(SUBPROTOCOL)).await
    }

    /// Opens a connection with any subprotocol, or with none.
    ///
    /// # Errors
    ///
    /// As [`Self::connect`].
    pub async fn connect_with(
        url: &str,
        token: Option<&str>,
        subprotocol: Option<&str>,
    ) -> Result<Self, ClientError> {
        let address = |problem: String| ClientError::Address {
            url: url.to_owned(),
            problem,
        };
        let mut request = url
            .into_client_request()
            .map_err(|error| address(error.to_string()))?;
        let header = |value: &str| HeaderValue::from_str(value).map_err(|error| address(error.to_string()));
        if let Some(token) = token {
            request
                .headers_mut()
                .insert("authorization", header(&format!("Bearer {token}"))?);
        }
        if let Some(subprotocol) = subprotocol {
            request
                .headers_mut()
                .insert("sec-websocket-protocol", header(subprotocol)?);
        }
        let config = WebSocketConfig::default()
            .max_message_size(Some(2 * SERVER_FRAME_BYTES_MAX))
            .max_frame_size(Some(2 * SERVER_FRAME_BYTES_MAX));
        let (socket, _) = connect_async_with_config(request, Some(config), true).await?;
        Ok(Self { socket })
    }

    /// Sends bytes as one binary message.
    ///
    /// # Errors
    ///
    /// [`ClientError::WebSocket`] when the connection is gone; [`Self::next`] may still tell why.
    pub async fn send(&mut self, frame: Vec<u8>) -> Result<(), ClientError> {
        Ok(self.socket.send(Message::Binary(frame.into())).await?)
    }

    /// Sends a text message.
    ///
    /// # Errors
    ///
    /// As [`Self::send`].
    pub async fn send_text(&mut self, text: &str) -> Result<(), ClientError> {
        Ok(self.socket.send(Message::Text(text.into())).await?)
    }

    /// What comes next. Pings are answered on the way.
    pub async fn next(&mut self) -> RawItem {
        loop {
            let message = self.socket.next().await;
            if let Some(item) = item(message) {
                return item;
            }
        }
    }

    /// Closes in order: says so and waits for the server's answer.
    pub async fn close(mut self) {
        // A connection that is gone already is closed.
        if self.socket.close(None).await.is_ok() {
            while let Some(Ok(_)) = self.socket.next().await {}
        }
    }

    pub(crate) fn into_socket(self) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
        self.socket
    }
}

/// What a WebSocket message is to a client; `None` for what the library answers itself.
pub(crate) fn item(
    message: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>,
) -> Option<RawItem> {
    let lost = |reason: String| Some(RawItem::Closed { code: 1006, reason });
    match message {
        Some(Ok(Message::Binary(bytes))) => Some(RawItem::Frame(bytes.into())),
        Some(Ok(Message::Text(text))) => Some(RawItem::Text(text.as_str().to_owned())),
        Some(Ok(Message::Close(Some(close)))) => Some(RawItem::Closed {
            code: close.code.into(),
            reason: close.reason.as_str().to_owned(),
        }),
        Some(Ok(Message::Close(None))) => Some(RawItem::Closed {
            code: 1005,
            reason: String::new(),
        }),
        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => None,
        Some(Err(error)) => lost(error.to_string()),
        None => lost("connection lost".to_owned()),
    }
}

//! HTTP/1.1 by hand, both sides: as little of it as a cheap load generator and stub need.
//!
//! On a small machine every microsecond spent here is taken from what is measured. So: keep-alive
//! connections, `content-length` alone, no header is looked at beyond what is asked for.

use std::{io, net::SocketAddr, ops::Range, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const LENGTH: &str = "content-length";
const RETRY_AFTER: &str = "retry-after";
const READ: usize = 4096;

/// The bytes of one connection that were read and not yet used.
#[derive(Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    used: usize,
}

/// A complete message in an [`Inbox`].
pub struct Message {
    head: Range<usize>,
    body: Range<usize>,
}

impl Inbox {
    /// The next complete message, if there is one.
    pub fn next(&mut self) -> io::Result<Option<Message>> {
        let unread = &self.bytes[self.used..];
        let Some(head) = unread.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Ok(None);
        };
        let body = self.used + head + 4;
        let length = match header(&unread[..head], LENGTH) {
            Some(text) => text.parse().map_err(io::Error::other)?,
            None => 0,
        };
        if self.bytes.len() < body + length {
            return Ok(None);
        }
        let message = Message { head: self.used..self.used + head, body: body..body + length };
        self.used = body + length;
        Ok(Some(message))
    }

    /// Request or status line, and headers.
    pub fn head(&self, message: &Message) -> &[u8] {
        &self.bytes[message.head.clone()]
    }

    /// The body.
    pub fn body(&self, message: &Message) -> &[u8] {
        &self.bytes[message.body.clone()]
    }

    /// Reads what has arrived; false at the end of the connection. Messages that were taken before
    /// are gone afterwards.
    pub async fn fill(&mut self, stream: &mut TcpStream) -> io::Result<bool> {
        self.bytes.drain(..self.used);
        self.used = 0;
        self.bytes.reserve(READ);
        Ok(stream.read_buf(&mut self.bytes).await? > 0)
    }
}

/// The value of a header in a head; `name` in lower case.
pub fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let (key, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        let found = key.eq_ignore_ascii_case(name.as_bytes());
        found.then(|| str::from_utf8(value).map(str::trim).ok())?
    })
}

/// A keep-alive connection of a client.
pub struct Connection {
    stream: TcpStream,
    inbox: Inbox,
}

/// What was answered.
pub struct Answer<'a> {
    pub status: u16,
    head: &'a [u8],
    pub body: &'a [u8],
}

impl Answer<'_> {
    /// How long to wait before the request is sent again.
    pub fn retry_after(&self) -> Option<Duration> {
        header(self.head, RETRY_AFTER)?.parse().ok().map(Duration::from_secs)
    }

    /// The body, to be shown.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.body).into_owned()
    }
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, inbox: Inbox::default() })
    }

    /// Sends a complete request and waits for its answer.
    pub async fn send(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        loop {
            if let Some(message) = self.inbox.next()? {
                let status = self.inbox.head(&message).get(9..12);
                let status = status.and_then(|digits| str::from_utf8(digits).ok()?.parse().ok());
                let status = status.ok_or_else(|| io::Error::other("no HTTP answer"))?;
                let (head, body) = (self.inbox.head(&message), self.inbox.body(&message));
                return Ok(Answer { status, head, body });
            }
            if !self.inbox.fill(&mut self.stream).await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// A request as bytes; `headers` are complete lines, each with its line end.
pub fn request(first_line: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("{first_line} HTTP/1.1\r\nhost: 127.0.0.1\r\n{headers}content-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

//! HTTP by hand, for requests that a well-behaved client does not make.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::TestApp;

/// Sends `head` (request line and headers, without the blank line) and then `body`, and reads the
/// answer to the end of the connection. Returns its status and text, head included.
pub async fn exchange(app: &TestApp, head: &str, body: &[u8]) -> (u16, String) {
    let address = app.url().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("{head}\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no HTTP answer: {answer:?}")), answer)
}

/// `body` as one chunk of `transfer-encoding: chunked`.
pub fn chunked(body: &[u8]) -> Vec<u8> {
    let size = format!("{:x}\r\n", body.len());
    [size.as_bytes(), body, b"\r\n0\r\n\r\n"].concat()
}

/// A connection to the app, on which nothing was sent.
pub async fn connect(app: &TestApp) -> TcpStream {
    TcpStream::connect(app.url().trim_start_matches("http://")).await.unwrap()
}

/// What comes until the connection is closed, by whichever side and in whichever way.
pub async fn read_to_close(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

/// Sends a complete request and reads the head of its answer; the connection stays open. Empty
/// where it was closed instead.
pub async fn ask(stream: &mut TcpStream, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n");
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => break,
            Ok(count) => answer.extend_from_slice(&part[..count]),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

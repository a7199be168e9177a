//! A name server that knows some names and swallows questions about others.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::net::UdpSocket;

/// Names below this have the address 127.0.0.1; there is no answer about others.
pub const KNOWN: &str = "known.test";

const HEADER: usize = 12;
const TYPE_A: u16 = 1;

/// Listens on this machine for as long as the test's runtime lives.
pub struct NameServer {
    pub address: SocketAddr,
    swallowed: Arc<AtomicUsize>,
}

impl NameServer {
    pub async fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let swallowed = Arc::new(AtomicUsize::new(0));
        let server = Self { address: socket.local_addr().unwrap(), swallowed: swallowed.clone() };
        tokio::spawn(async move {
            let mut message = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut message).await {
                match answer(&message[..length]) {
                    // The asker may be gone.
                    Some(answer) => drop(socket.send_to(&answer, from).await),
                    None => drop(swallowed.fetch_add(1, Ordering::Relaxed)),
                }
            }
        });
        server
    }

    /// Questions that were not answered.
    pub fn swallowed(&self) -> usize {
        self.swallowed.load(Ordering::Relaxed)
    }
}

/// The answer to a query with one question (RFC 1035 section 4); `None` for an unknown name.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (HEADER, Vec::new());
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_lowercase());
        at += length;
    }
    if !labels.join(".").ends_with(KNOWN) {
        return None;
    }
    let kind = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
    let question = query.get(HEADER..at + 4)?;
    let answers = u8::from(kind == TYPE_A);
    let mut answer = query[..2].to_vec();
    // An answer without an error, recursion available; one question.
    answer.extend([0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, 0]);
    answer.extend(question);
    if kind == TYPE_A {
        // The question's name; type A, class IN, for one second.
        answer.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(Ipv4Addr::LOCALHOST.octets());
    }
    Some(answer)
}

//! What is known, and what is sent again, when a connection does not answer: over HTTP/1 and
//! HTTP/2, with peers that are written by hand.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::{BoxFuture, join_all};
use hyper::{body::Bytes, http};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::{
    super::{lease_guard, progress},
    *,
};

const TIMEOUT: Duration = Duration::from_secs(5);
const BODY: &[u8] = b"{\"id\":1}";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

/// What a peer does with a connection: its number, from 0, and the connection.
type Serve = fn(Peer, usize, TcpStream) -> BoxFuture<'static, ()>;

/// A peer that serves each connection by hand.
#[derive(Clone)]
struct Peer {
    scheme: &'static str,
    address: SocketAddr,
    /// The number of the connection and the method of each request that was read.
    seen: Arc<Mutex<Vec<(usize, String)>>>,
}

impl Peer {
    async fn start(serve: Serve) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let peer = Self { scheme: "http", address, seen: Arc::default() };
        let serving = peer.clone();
        tokio::spawn(async move {
            for number in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(serving.clone(), number, stream));
            }
        });
        peer
    }

    fn url(&self) -> String {
        format!("{}://{}/", self.scheme, self.address)
    }

    fn note(&self, connection: usize, method: &str) {
        self.seen.lock().unwrap().push((connection, method.to_owned()));
    }

    fn seen(&self) -> Vec<(usize, String)> {
        self.seen.lock().unwrap().clone()
    }

    /// The connection of each request that was read.
    fn connections(&self) -> Vec<usize> {
        self.seen().into_iter().map(|(connection, _)| connection).collect()
    }

    /// Reads a request of HTTP/1 whole; `false` at the end of the connection.
    async fn read(&self, number: usize, stream: &mut (impl AsyncRead + Unpin)) -> bool {
        let mut read = Vec::new();
        loop {
            let head = read.windows(4).position(|end| end == b"\r\n\r\n");
            if let Some(head) = head {
                let is_get = read.starts_with(b"GET ");
                if is_get || read.len() >= head + 4 + BODY.len() {
                    let method = read.split(|byte| *byte == b' ').next().unwrap();
                    self.note(number, std::str::from_utf8(method).unwrap());
                    return true;
                }
            }
            if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                return false;
            }
        }
    }
}

/// Ends a connection with a reset.
fn reset(stream: &TcpStream) {
    stream.set_zero_linger().unwrap();
}

/// Answers the first request on each connection, and ends it on the second one, in this way.
async fn answer_once(peer: Peer, number: usize, mut stream: TcpStream, end: fn(&TcpStream)) {
    if peer.read(number, &mut stream).await {
        stream.write_all(OK.as_bytes()).await.unwrap();
    }
    if peer.read(number, &mut stream).await {
        end(&stream);
    }
}

async fn answer_all(peer: Peer, number: usize, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    while peer.read(number, &mut stream).await {
        stream.write_all(OK.as_bytes()).await.unwrap();
    }
}

fn sender(timeout: Duration, configure: fn(ClientBuilder) -> ClientBuilder) -> Sender {
    let trust = Trust::default();
    let configure = move |http: ClientBuilder| configure(http.no_proxy());
    Sender::new(CalledPeer::ThirdParty, timeout, IDLE_TIMEOUT, trust, configure).unwrap()
}

fn http1() -> Sender {
    sender(TIMEOUT, |http| http)
}

fn http2() -> Sender {
    sender(TIMEOUT, |http| http.http2_prior_knowledge())
}

async fn look_up(sender: &Sender, peer: &Peer) -> Result<u16, SendError> {
    let sent = sender.send(|http, progress| http.get(peer.url()).body(progress::no_body(progress)));
    let response = sent.await?;
    let status = response.status().as_u16();
    // The connection is free once the body is read.
    response.bytes().await.unwrap();
    Ok(status)
}

async fn create(sender: &Sender, peer: &Peer) -> Result<u16, SendError> {
    let response = sender
        .send_create(&CallTurn::default(), |http, progress| post(http, peer, progress))
        .await?;
    let status = response.status().as_u16();
    response.bytes().await.unwrap();
    Ok(status)
}

/// A create that may go over a used connection.
async fn create_reusing(sender: &Sender, peer: &Peer) -> Result<u16, SendError> {
    let request = |http: &Client, progress| post(http, peer, progress);
    let response = sender.send_once((&sender.kept, None), None, request, true).await?;
    let status = response.status().as_u16();
    response.bytes().await.unwrap();
    Ok(status)
}

fn post(http: &Client, peer: &Peer, progress: Progress) -> RequestBuilder {
    let body = lease_guard::body(Bytes::from_static(BODY), Arc::new(|| true), progress);
    http.post(peer.url()).body(body)
}

#[tokio::test]
async fn a_lookup_whose_used_connection_ends_is_sent_again_on_a_new_one() {
    let serves: [Serve; 2] = [
        |peer, number, stream| Box::pin(answer_once(peer, number, stream, reset)),
        |peer, number, stream| Box::pin(answer_once(peer, number, stream, |_| {})),
    ];
    for serve in serves {
        let (peer, sender) = (Peer::start(serve).await, http1());
        for _ in 0..3 {
            assert_eq!(look_up(&sender, &peer).await.unwrap(), 200);
        }
        // The second and third request of the first connection's client were answered on others.
        let answered_on: Vec<usize> = peer.connections();
        assert_eq!(answered_on[..2], [0, 0], "{answered_on:?}");
        assert!(answered_on.len() >= 4, "{answered_on:?}");
    }
}

#[tokio::test]
async fn what_breaks_on_a_new_connection_is_sent_once_and_is_an_outage() {
    let peer = Peer::start(|peer, number, mut stream| {
        Box::pin(async move {
            if peer.read(number, &mut stream).await {
                reset(&stream);
            }
        })
    });
    let (peer, sender) = (peer.await, http1());
    let error = look_up(&sender, &peer).await.unwrap_err();
    assert!(error.is_outage() && !error.says_nothing(), "{error:?}");
    let error = create(&sender, &peer).await.unwrap_err();
    assert!(
        matches!(error, SendError::Broken { is_reused: false, is_sent: true, .. }),
        "{error:?}"
    );
    assert!(error.is_outage());
    assert_eq!(peer.seen().len(), 2, "{:?}", peer.seen());
}

#[tokio::test]
async fn creates_get_new_connections_from_a_peer_that_has_kept_none() {
    let serve: Serve = |peer, number, stream| Box::pin(answer_once(peer, number, stream, reset));
    let (peer, sender) = (Peer::start(serve).await, http1());
    for _ in 0..5 {
        assert_eq!(look_up(&sender, &peer).await.unwrap(), 200);
        assert_eq!(create(&sender, &peer).await.unwrap(), 200);
    }
    let mut posts: Vec<usize> = peer
        .seen()
        .into_iter()
        .filter(|(_, method)| method == "POST")
        .map(|(connection, _)| connection)
        .collect();
    posts.dedup();
    assert_eq!(posts.len(), 5, "each on a connection of its own: {posts:?}");
}

#[tokio::test]
async fn creates_share_connections_with_a_peer_that_keeps_them() {
    let serve: Serve = |peer, number, stream| Box::pin(answer_all(peer, number, stream));
    let (peer, sender) = (Peer::start(serve).await, http1());
    for _ in 0..30 {
        assert_eq!(look_up(&sender, &peer).await.unwrap(), 200);
    }
    let before = peer.connections().into_iter().max().unwrap();
    for _ in 0..30 {
        assert_eq!(create(&sender, &peer).await.unwrap(), 200);
    }
    let after = peer.connections().into_iter().max().unwrap();
    assert!(after - before <= 2, "{before} and {after}");
}

#[tokio::test]
async fn a_create_that_a_used_connection_did_not_answer_is_not_sent_again() {
    let serve: Serve = |peer, number, stream| Box::pin(answer_once(peer, number, stream, reset));
    let (peer, sender) = (Peer::start(serve).await, http1());
    assert_eq!(create_reusing(&sender, &peer).await.unwrap(), 200);
    let error = create_reusing(&sender, &peer).await.unwrap_err();
    assert!(matches!(error, SendError::Broken { is_reused: true, is_sent: true, .. }), "{error:?}");
    // It says nothing of the peer, and the next one takes no used connection.
    assert!(error.says_nothing() && !error.is_outage());
    assert!(sender.trust.lease().is_none());
    assert_eq!(peer.connections(), [0, 0]);
}

#[tokio::test]
async fn peers_that_end_their_connections_in_other_ways_are_asked_again_without_failures() {
    let serves: [Serve; 4] = [
        // Announced.
        |peer, number, mut stream| {
            Box::pin(async move {
                peer.read(number, &mut stream).await;
                let answer = OK.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            })
        },
        // HTTP/1.0, whose bodies end with the connection.
        |peer, number, mut stream| {
            Box::pin(async move {
                peer.read(number, &mut stream).await;
                stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n{}").await.unwrap();
            })
        },
        // Right behind the answer, not announced: the next request may be on its way.
        |peer, number, mut stream| {
            Box::pin(async move {
                peer.read(number, &mut stream).await;
                stream.write_all(OK.as_bytes()).await.unwrap();
            })
        },
        // The same, with a reset.
        |peer, number, mut stream| {
            Box::pin(async move {
                peer.read(number, &mut stream).await;
                stream.write_all(OK.as_bytes()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
                reset(&stream);
            })
        },
    ];
    for (index, serve) in serves.into_iter().enumerate() {
        let (peer, sender) = (Peer::start(serve).await, http1());
        for _ in 0..20 {
            assert_eq!(look_up(&sender, &peer).await.unwrap(), 200, "kind {index}");
            assert_eq!(create(&sender, &peer).await.unwrap(), 200, "kind {index}");
        }
        let posts = peer.seen().iter().filter(|(_, method)| method == "POST").count();
        assert_eq!(posts, 20, "kind {index}: each create was sent once");
    }
}

#[tokio::test]
async fn a_peer_that_does_not_answer_is_late_and_an_outage() {
    let serve: Serve = |peer, number, mut stream| {
        Box::pin(async move {
            peer.read(number, &mut stream).await;
            std::future::pending::<()>().await;
        })
    };
    let (peer, sender) =
        (Peer::start(serve).await, sender(Duration::from_millis(200), |http| http));
    for error in [look_up(&sender, &peer).await, create(&sender, &peer).await] {
        let error = error.unwrap_err();
        assert!(matches!(error, SendError::Late), "{error:?}");
        assert!(error.is_outage());
    }
    assert_eq!(peer.seen().len(), 2);
}

#[tokio::test]
async fn a_peer_that_closes_each_new_connection_at_once_is_an_outage() {
    let peer = Peer::start(|_, _, stream| Box::pin(async move { drop(stream) })).await;
    let sender = http1();
    let error = look_up(&sender, &peer).await.unwrap_err();
    assert!(error.is_outage(), "{error:?}");
    let error = create(&sender, &peer).await.unwrap_err();
    assert!(error.is_outage(), "{error:?}");
}

/// Serves HTTP/2: `answer` gets the number of each request on its connection, from 0, and how to
/// answer.
async fn serve_http2(
    peer: Peer,
    number: usize,
    stream: TcpStream,
    most_streams: u32,
    answer: fn(usize, h2::server::SendResponse<Bytes>) -> BoxFuture<'static, ()>,
) {
    let mut builder = h2::server::Builder::new();
    let handshake = builder.max_concurrent_streams(most_streams).handshake(stream);
    let mut connection = handshake.await.unwrap();
    let mut count = 0;
    while let Some(Ok((request, respond))) = connection.accept().await {
        peer.note(number, request.method().as_str());
        tokio::spawn(answer(count, respond));
        count += 1;
    }
}

fn answer_ok(mut respond: h2::server::SendResponse<Bytes>) {
    // The other side may have gone.
    if let Ok(mut body) = respond.send_response(http::Response::new(()), false) {
        let _ = body.send_data(Bytes::from_static(b"{}"), true);
    }
}

#[tokio::test]
async fn refused_streams_are_sent_again_and_no_more_often_than_a_few_times() {
    let serves: [Serve; 2] = [
        |peer, number, stream| {
            Box::pin(serve_http2(peer, number, stream, 100, |count, mut respond| {
                Box::pin(async move {
                    match count % 3 {
                        0 => respond.send_reset(h2::Reason::REFUSED_STREAM),
                        _ => answer_ok(respond),
                    }
                })
            }))
        },
        |peer, number, stream| {
            Box::pin(serve_http2(peer, number, stream, 100, |_, mut respond| {
                Box::pin(async move { respond.send_reset(h2::Reason::REFUSED_STREAM) })
            }))
        },
    ];
    let (peer, sender) = (Peer::start(serves[0]).await, http2());
    for _ in 0..10 {
        assert_eq!(look_up(&sender, &peer).await.unwrap(), 200);
        assert_eq!(create_reusing_until_done(&sender, &peer).await.unwrap(), 200);
    }
    assert!(peer.seen().len() > 20);

    let (peer, sender) = (Peer::start(serves[1]).await, http2());
    for error in [look_up(&sender, &peer).await, create(&sender, &peer).await] {
        let error = error.unwrap_err();
        assert!(matches!(error, SendError::Refused(_)), "{error:?}");
        assert!(!error.is_outage() && !error.says_nothing());
        let reason = error.reason();
        assert!(reason.starts_with("the peer did not process it: "), "{reason}");
    }
    assert_eq!(peer.seen().len() as u32, 2 * MAX_SENDS);
}

fn tls(protocols: &[&str]) -> TlsAcceptor {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// Serves one request of the first connection over HTTP/2, and every other connection over HTTP/1.1
/// alone, which it knows by these names.
async fn leave_http2(peer: Peer, number: usize, stream: TcpStream, http1: &'static [&'static str]) {
    if number > 0 {
        // It fails where HTTP/2 alone is asked for.
        let Ok(stream) = tls(http1).accept(stream).await else { return };
        return answer_all(peer, number, stream).await;
    }
    let stream = tls(&["h2"]).accept(stream).await.unwrap();
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let (request, respond) = connection.accept().await.unwrap().unwrap();
    peer.note(number, request.method().as_str());
    answer_ok(respond);
    connection.graceful_shutdown();
    while connection.accept().await.is_some() {}
}

#[tokio::test]
async fn a_peer_that_speaks_http2_no_more_is_reached_over_http1() {
    let start = async |serve: Serve| {
        let sender = sender(TIMEOUT, |http| http.tls_danger_accept_invalid_certs(true));
        let peer = Peer { scheme: "https", ..Peer::start(serve).await };
        assert_eq!(look_up(&sender, &peer).await.unwrap(), 200);
        assert!(sender.trust.is_http2());
        (peer, sender)
    };
    let serve: Serve = |peer, number, stream| {
        Box::pin(async move { leave_http2(peer, number, stream, &["http/1.1"]).await })
    };
    for is_create in [true, false] {
        let (peer, sender) = start(serve).await;
        let answer = match is_create {
            true => create(&sender, &peer).await,
            false => look_up(&sender, &peer).await,
        };
        assert_eq!(answer.unwrap(), 200);
        assert!(!sender.trust.is_http2());
        assert_eq!(peer.connections(), [0, 2], "none over HTTP/2 alone");
    }

    // Without ALPN the peer does not refuse the connection, but cannot read what is sent over it.
    let serve: Serve = |peer, number, stream| {
        Box::pin(async move { leave_http2(peer, number, stream, &[]).await })
    };
    let (peer, sender) = start(serve).await;
    let _ = look_up(&sender, &peer).await;
    assert!(!sender.trust.is_http2());
    assert_eq!(look_up(&sender, &peer).await.unwrap(), 200);
}

/// A create over the shared connection, as after an answer over HTTP/2.
async fn create_reusing_until_done(sender: &Sender, peer: &Peer) -> Result<u16, SendError> {
    sender.trust.answered(reqwest::Version::HTTP_2, false, false);
    create(sender, peer).await
}

/// Reads frames until the head of stream 1 has come, and its data where it has any; returns whether
/// it has.
async fn read_stream_1(stream: &mut TcpStream) {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    // SETTINGS, empty.
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
        let (kind, ends_stream, id) = (head[3], head[4] & 1 == 1, head[8]);
        if id == 1 && kind <= 1 && ends_stream {
            return;
        }
    }
}

/// `GOAWAY` without an error, with this last stream id.
fn go_away(last_stream: u8) -> [u8; 17] {
    [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last_stream, 0, 0, 0, 0]
}

#[tokio::test]
async fn what_a_goaway_leaves_out_is_sent_again_and_what_it_includes_is_ambiguous() {
    let left_out: Serve = |peer, number, mut stream| {
        Box::pin(async move {
            if number > 0 {
                let answer = |_, respond| -> BoxFuture<'static, ()> {
                    Box::pin(async move { answer_ok(respond) })
                };
                return serve_http2(peer, number, stream, 100, answer).await;
            }
            read_stream_1(&mut stream).await;
            peer.note(number, "read");
            stream.write_all(&go_away(0)).await.unwrap();
            // Until the other side closes.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
    };
    for is_create in [true, false] {
        let (peer, sender) = (Peer::start(left_out).await, http2());
        let answer = match is_create {
            true => create_reusing_until_done(&sender, &peer).await,
            false => look_up(&sender, &peer).await,
        };
        assert_eq!(answer.unwrap(), 200);
        assert_eq!(peer.connections(), [0, 1]);
    }

    let included: Serve = |peer, number, mut stream| {
        Box::pin(async move {
            read_stream_1(&mut stream).await;
            peer.note(number, "read");
            stream.write_all(&go_away(1)).await.unwrap();
            stream.shutdown().await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
    };
    let (peer, sender) = (Peer::start(included).await, http2());
    let error = create_reusing_until_done(&sender, &peer).await.unwrap_err();
    assert!(matches!(error, SendError::Broken { is_sent: true, .. }), "{error:?}");
    assert_eq!(peer.connections(), [0], "it may have been processed: not sent again");
}

#[tokio::test]
async fn waiting_for_a_stream_costs_no_time_of_the_call() {
    // Each answer takes most of the time that a call has, and one stream is open at a time.
    let serve: Serve = |peer, number, stream| {
        Box::pin(serve_http2(peer, number, stream, 1, |_, respond| {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                answer_ok(respond);
            })
        }))
    };
    let timeout = Duration::from_secs(1);
    let sender = sender(timeout, |http| http.http2_prior_knowledge());
    let peer = Peer::start(serve).await;
    // So that the connection is there, with its limit.
    assert_eq!(look_up(&sender, &peer).await.unwrap(), 200);
    let began = tokio::time::Instant::now();
    let creates = join_all((0..5).map(|_| create_reusing_until_done(&sender, &peer))).await;
    for create in creates {
        assert_eq!(create.unwrap(), 200);
    }
    assert!(began.elapsed() > timeout, "they waited for each other");
}

/// Streams that end together let as many requests in, and not all that wait: 20 end at once, and
/// each answer takes more than half of the time that a call has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_stream_is_not_let_in_by_others_that_end_together() {
    let serve: Serve = |peer, number, stream| {
        Box::pin(serve_http2(peer, number, stream, 20, |_, respond| {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(5_500)).await;
                answer_ok(respond);
            })
        }))
    };
    // What is left of it after an answer is for a busy machine.
    let timeout = Duration::from_secs(10);
    let send_60 = async |is_create: bool| {
        let sender = sender(timeout, |http| http.http2_prior_knowledge());
        let peer = Peer::start(serve).await;
        // So that the connection is there, with its limit.
        assert_eq!(look_up(&sender, &peer).await.unwrap(), 200);
        let calls = join_all((0..60).map(async |_| match is_create {
            true => create_reusing_until_done(&sender, &peer).await,
            false => look_up(&sender, &peer).await,
        }));
        let (mut queued, mut late) = (0, 0);
        for call in calls.await {
            match call {
                Ok(200) => {}
                // Some of the last ones, which had waited for the 20 seconds of a turn.
                Err(SendError::Queued) => queued += 1,
                // The system may stop the thread of the connection for so long that it has not
                // opened the stream of a request when the next one asks for one.
                Err(SendError::Late) => late += 1,
                call => panic!("{call:?}"),
            }
        }
        assert!(queued < 20, "{queued} of 60 were not sent");
        assert!(late <= 3, "{late} of 60 were let in while no stream was free");
    };
    tokio::join!(send_60(true), send_60(false));
}

/// A lease that is lost while a create waits for a stream.
#[tokio::test]
async fn a_create_whose_lease_is_lost_while_it_waits_for_a_stream_is_not_sent() {
    let serve: Serve = |peer, number, stream| {
        Box::pin(serve_http2(peer, number, stream, 1, |_, respond| {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                answer_ok(respond);
            })
        }))
    };
    let (peer, sender) = (Peer::start(serve).await, http2());
    assert_eq!(look_up(&sender, &peer).await.unwrap(), 200);
    let is_held = Arc::new(AtomicBool::new(true));
    let first = create_reusing_until_done(&sender, &peer);
    let turn = CallTurn::default();
    let second = sender.send_create(&turn, |http, progress| {
        let is_held = is_held.clone();
        let fence: lease_guard::LeaseGuard = Arc::new(move || is_held.load(Ordering::SeqCst));
        http.post(peer.url()).body(lease_guard::body(Bytes::from_static(BODY), fence, progress))
    });
    let lose = async {
        // The first one is being answered, the second one waits.
        while peer.seen().len() < 2 {
            tokio::task::yield_now().await;
        }
        is_held.store(false, Ordering::SeqCst);
    };
    let (first, second, ()) = tokio::join!(first, second, lose);
    assert_eq!(first.unwrap(), 200);
    assert!(matches!(second.unwrap_err(), SendError::Stale));
}

#[tokio::test]
async fn a_create_that_found_no_stream_in_time_was_not_sent() {
    let serve: Serve = |peer, number, stream| {
        Box::pin(serve_http2(peer, number, stream, 1, |_, respond| {
            Box::pin(async move {
                let _held = respond;
                std::future::pending::<()>().await;
            })
        }))
    };
    let timeout = Duration::from_millis(200);
    let sender = sender(timeout, |http| http.http2_prior_knowledge());
    let peer = Peer::start(serve).await;
    let creates = join_all((0..8).map(|_| create_reusing_until_done(&sender, &peer))).await;
    let (mut late, mut queued) = (0, 0);
    for create in creates {
        match create.unwrap_err() {
            SendError::Late => late += 1,
            error @ SendError::Queued => {
                queued += 1;
                assert!(error.says_nothing() && !error.is_outage());
            }
            error => panic!("{error:?}"),
        }
    }
    // Those that were sent timed out one after the other; the last ones had no turn.
    assert!(late >= 1 && queued >= 1, "{late} late, {queued} queued");
    assert_eq!(peer.seen().len(), late, "what was queued was not sent");
}

//! A third party over HTTP/2 that refuses streams.

use std::{
    collections::{HashMap, HashSet},
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use h2::{Reason, RecvStream, server::SendResponse};
use hyper::{body::Bytes, http};
use quartet::config::Role;
use rcgen::generate_simple_self_signed;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

use super::{BACKOFF, BOUND, assert_undisturbed, wait_all_completed};
use crate::support::{World, process::Process, transaction};

/// How the third party behaves.
#[derive(Clone, Copy)]
struct Behaviour {
    most_streams: u32,
    /// Each of this many creates is refused unprocessed.
    refuse_each: usize,
    /// How long a create takes.
    create_takes: Duration,
}

#[derive(Default)]
struct Books {
    /// The ids in the creates that were not refused.
    created: Vec<String>,
    stored: HashSet<String>,
    refused: usize,
    creates: usize,
    connections: usize,
}

#[derive(Clone)]
struct ThirdParty {
    address: SocketAddr,
    behaviour: Behaviour,
    books: Arc<Mutex<Books>>,
    /// Holds the certificate that callers trust.
    directory: Arc<TempDir>,
}

impl ThirdParty {
    async fn start(behaviour: Behaviour) -> Self {
        let certified = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), certified.cert.pem()).unwrap();
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        rustls::crypto::ring::default_provider().install_default().ok();
        let mut config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let third_party = Self {
            address: listener.local_addr().unwrap(),
            behaviour,
            books: Arc::default(),
            directory: Arc::new(directory),
        };
        let serving = third_party.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (serving, acceptor) = (serving.clone(), acceptor.clone());
                tokio::spawn(async move { serving.serve(acceptor, stream).await });
            }
        });
        third_party
    }

    async fn serve(self, acceptor: TlsAcceptor, stream: TcpStream) {
        let Ok(stream) = acceptor.accept(stream).await else { return };
        let mut builder = h2::server::Builder::new();
        let handshake = builder.max_concurrent_streams(self.behaviour.most_streams);
        let Ok(mut connection) = handshake.handshake::<_, Bytes>(stream).await else { return };
        self.books.lock().unwrap().connections += 1;
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(self.clone().answer(request, respond));
        }
    }

    async fn answer(self, request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let (head, mut body) = request.into_parts();
        if head.method == http::Method::GET {
            let id = head.uri.path().rsplit('/').next().unwrap().to_owned();
            let is_stored = self.books.lock().unwrap().stored.contains(&id);
            let status = if is_stored { 200 } else { 404 };
            return send(respond, status, format!(r#"{{"id":"{id}","status":"completed"}}"#));
        }
        let is_refused = {
            let mut books = self.books.lock().unwrap();
            books.creates += 1;
            books.creates.is_multiple_of(self.behaviour.refuse_each)
        };
        if is_refused {
            self.books.lock().unwrap().refused += 1;
            return respond.send_reset(Reason::REFUSED_STREAM);
        }
        let mut read = Vec::new();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            read.extend_from_slice(&data);
        }
        tokio::time::sleep(self.behaviour.create_takes).await;
        let Ok(read) = serde_json::from_slice::<Value>(&read) else { return };
        let id = read["id"].as_str().unwrap().to_owned();
        self.books.lock().unwrap().created.push(id.clone());
        self.books.lock().unwrap().stored.insert(id.clone());
        send(respond, 201, format!(r#"{{"id":"{id}","status":"pending"}}"#));
    }

    /// A process whose third party this is. One of its own, because it trusts other certificates.
    async fn process(&self, world: &World, role: Role, timeout: &str) -> Process {
        let process = world.process(role);
        process
            .set("SSL_CERT_FILE", self.directory.path().join("ca.pem").display())
            .set("QUARTET_THIRD_PARTY__BASE_URL", format!("https://{}", self.address))
            .set("QUARTET_THIRD_PARTY__CREATE_BACKOFF", BACKOFF)
            .set("QUARTET_THIRD_PARTY__TIMEOUT", timeout)
            .set("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", timeout)
            .set("QUARTET_CIRCUIT__MIN_CALLS", 20)
            .set("QUARTET_POLL__DEADLINE", "10m")
            .set("QUARTET_WORKER__DEAD_AFTER", "10s")
            .spawn()
            .await
    }

    /// How often each id was created, without what was refused.
    fn creates(&self) -> HashMap<String, usize> {
        let mut creates = HashMap::new();
        for id in &self.books.lock().unwrap().created {
            *creates.entry(id.clone()).or_insert(0) += 1;
        }
        creates
    }
}

fn send(mut respond: SendResponse<Bytes>, status: u16, body: String) {
    let head = http::Response::builder().status(status).body(()).unwrap();
    // The other side may have gone.
    if let Ok(mut stream) = respond.send_response(head, false) {
        let _ = stream.send_data(body.into(), true);
    }
}

/// Posts some at a time: the database is shared with other tests.
async fn post(process: &Process, count: usize) -> Vec<Uuid> {
    let ids: Vec<Uuid> = (0..count).map(|_| Uuid::now_v7()).collect();
    let client = process.client();
    for some in ids.chunks(10) {
        join_all(some.iter().map(async |id| {
            client.post_transaction(&transaction(*id)).await.expect(202);
        }))
        .await;
    }
    ids
}

/// Each tenth create is refused with REFUSED_STREAM: it is sent again at once, and none is
/// ambiguous.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_streams_are_no_ambiguous_creates() {
    let behaviour = Behaviour { most_streams: 100, refuse_each: 10, create_takes: Duration::ZERO };
    let third_party = ThirdParty::start(behaviour).await;
    let world = World::new().await;
    let process = third_party.process(&world, Role::All, "10s").await;
    let ids = post(&process, 100).await;
    wait_all_completed(&world.pool, &ids).await;
    world.wait_at_rest(BOUND).await;
    assert_undisturbed(&world.pool).await;
    let creates = third_party.creates();
    assert_eq!(creates.len(), ids.len());
    assert!(creates.values().all(|times| *times == 1), "{creates:?}");
    assert!(third_party.books.lock().unwrap().refused >= 10);
}

/// 200 creates at once for a third party that has 20 streams, answered quickly and answered slowly:
/// each is sent once, when it has a stream, and its time counts from then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creates_that_wait_for_a_stream_are_not_late() {
    // So slowly that one which waits for two others on its own time would be late.
    for (create_takes, timeout) in [(0, "10s"), (1600, "3s")] {
        let create_takes = Duration::from_millis(create_takes);
        let behaviour = Behaviour { most_streams: 20, refuse_each: usize::MAX, create_takes };
        let third_party = ThirdParty::start(behaviour).await;
        let world = World::new().await;
        let api = third_party.process(&world, Role::Api, timeout).await;
        let ids = post(&api, 200).await;
        let _worker = third_party.process(&world, Role::Worker, timeout).await;
        wait_all_completed(&world.pool, &ids).await;
        world.wait_at_rest(BOUND).await;
        assert_undisturbed(&world.pool).await;
        let creates = third_party.creates();
        assert_eq!(creates.len(), ids.len());
        assert!(creates.values().all(|times| *times == 1), "{creates:?}");
    }
}

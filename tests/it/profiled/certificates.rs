//! A third party that asks for a client certificate.

use std::{fs, path::Path, sync::Arc};

use quartet::config::Role;
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

use super::{
    BOUND, Paystack, TOKEN, WEBHOOK_SECRET, assert_without_secrets, peer::Peer, post, wait_final,
};
use crate::support::{World, command::run, wait_until};

fn certificate(name: &str) -> CertifiedKey<KeyPair> {
    generate_simple_self_signed([name.to_owned()]).unwrap()
}

/// Takes these clients alone.
fn acceptor(server: &CertifiedKey<KeyPair>, clients: [&CertifiedKey<KeyPair>; 2]) -> TlsAcceptor {
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut roots = RootCertStore::empty();
    for client in clients {
        roots.add(client.cert.der().clone()).unwrap();
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let key = PrivatePkcs8KeyDer::from(server.signing_key.serialize_der());
    let config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![server.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

fn write(directory: &Path, client: &CertifiedKey<KeyPair>) {
    fs::write(directory.join("key"), client.signing_key.serialize_pem()).unwrap();
    fs::write(directory.join("certificate"), client.cert.pem()).unwrap();
}

#[tokio::test]
async fn a_client_certificate_is_sent_and_read_again_when_it_changes() {
    let world = World::new().await;
    let (server, old, new) = (certificate("127.0.0.1"), certificate("old"), certificate("new"));
    let transfers = Paystack::default();
    let tls = acceptor(&server, [&old, &new]);
    let peer = Peer::start_with(Some(tls), move |asked| transfers.answer(asked)).await;

    let files = tempfile::tempdir().unwrap();
    let printed = run(&["third-party", "show", "paystack"], &[], "").await;
    let tls = "kind = 'bearer'\n\
               tls = { certificate = '{secret:certificate}', key = '{secret:key}' }";
    let text = printed.expect().replace("kind = \"bearer\"", tls);
    assert!(text.contains("secret:certificate"));
    let profile = files.path().join("paystack.toml");
    fs::write(&profile, text).unwrap();
    fs::write(files.path().join("ca.pem"), server.cert.pem()).unwrap();
    fs::write(files.path().join("token"), TOKEN).unwrap();
    write(files.path(), &old);

    let process = world
        .process(Role::All)
        .set("SSL_CERT_FILE", files.path().join("ca.pem").display())
        .set("QUARTET_THIRD_PARTY__PROFILE", profile.display())
        .set("QUARTET_THIRD_PARTY__BASE_URL", peer.url().replace("http:", "https:"))
        .set("QUARTET_THIRD_PARTY__SECRETS_DIRECTORY", files.path().display())
        .set("QUARTET_THIRD_PARTY__SECRETS__WEBHOOK", WEBHOOK_SECRET)
        .spawn()
        .await;
    let id = Uuid::now_v7();
    post(&process.client(), id).await;
    assert_eq!(wait_final(&process.client(), id).await["status"], "completed");
    let sent_with = |client: &CertifiedKey<KeyPair>| {
        let der = client.cert.der().to_vec();
        peer.asked("POST", Paystack::CREATE).iter().any(|a| a.certificate.as_ref() == Some(&der))
    };
    assert!(sent_with(&old) && !sent_with(&new));

    // A pair that does not fit changes nothing.
    fs::write(files.path().join("certificate"), "no certificate").unwrap();
    wait_until("it is refused", BOUND, async || {
        let id = Uuid::now_v7();
        post(&process.client(), id).await;
        wait_final(&process.client(), id).await["status"] == "completed"
            && process.output().contains("the new client certificate cannot be used")
    })
    .await;
    write(files.path(), &new);
    wait_until("the new certificate is used", BOUND, async || {
        let id = Uuid::now_v7();
        post(&process.client(), id).await;
        assert_eq!(wait_final(&process.client(), id).await["status"], "completed");
        sent_with(&new)
    })
    .await;
    assert_without_secrets(&process);
    assert!(!process.output().contains("PRIVATE KEY"));
}

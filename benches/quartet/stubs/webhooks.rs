//! The third party's signed webhooks, sent over a few keep-alive connections.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use chrono::Utc;
use quartet::signature::{self, Secret};
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
};
use uuid::Uuid;

use super::Ledger;
use crate::http::{self, Connection};

const CONNECTIONS: usize = 64;
/// How often a webhook is sent that is answered 503 each time, and the pause before the next time.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(100);

/// What the sender is to do.
#[derive(Debug)]
pub enum Order {
    /// Send to this address from now on.
    To(SocketAddr),
    /// Report that this transaction is completed.
    Completed(Uuid),
}

/// Carries orders out until nobody can give any.
pub async fn send(mut orders: mpsc::UnboundedReceiver<Order>, secret: Secret, ledger: Ledger) {
    let Some(Order::To(mut address)) = orders.recv().await else { return };
    loop {
        let (ids, inbox) = mpsc::unbounded_channel();
        let inbox = Arc::new(Mutex::new(inbox));
        let mut senders = JoinSet::new();
        for _ in 0..CONNECTIONS {
            senders.spawn(send_each(address, inbox.clone(), secret.clone(), ledger.clone()));
        }
        loop {
            match orders.recv().await {
                // The senders end only with the channel.
                Some(Order::Completed(id)) => drop(ids.send(id)),
                Some(Order::To(next)) => {
                    address = next;
                    break;
                }
                None => return,
            }
        }
        drop(ids);
        senders.join_all().await;
    }
}

async fn send_each(
    address: SocketAddr,
    ids: Arc<Mutex<mpsc::UnboundedReceiver<Uuid>>>,
    secret: Secret,
    ledger: Ledger,
) {
    let mut connection = None;
    loop {
        // The others wait for the lock meanwhile, and one of them gets the next id.
        let next = ids.lock().await.recv().await;
        let Some(id) = next else { return };
        let webhook = webhook(id, &secret);
        let mut tries = 0;
        let answered = loop {
            let opened = match connection.take() {
                Some(open) => Ok(open),
                None => Connection::open(address).await,
            };
            let answered = match opened {
                Ok(mut open) => {
                    let status = open.send(&webhook).await.map(|answer| answer.status);
                    connection = status.is_ok().then_some(open);
                    status
                }
                Err(error) => Err(error),
            };
            tries += 1;
            // As any third party does, and as the answer asks for.
            if tries == TRIES || !matches!(answered, Ok(503)) {
                break answered;
            }
            tokio::time::sleep(PAUSE).await;
        };
        match answered {
            Ok(200) => ledger.completed(id),
            Ok(status) => ledger.violated(format!("the webhook of {id} was answered {status}")),
            Err(error) => ledger.violated(format!("the webhook of {id} failed: {error}")),
        }
    }
}

fn webhook(id: Uuid, secret: &Secret) -> Vec<u8> {
    let body = format!(r#"{{"id":"{id}","status":"completed"}}"#);
    let message = format!("msg_{}", id.simple());
    let now = Utc::now().timestamp();
    let signature = signature::sign(secret, &message, now, body.as_bytes());
    let headers = format!(
        "content-type: application/json\r\n{}: {message}\r\n{}: {now}\r\n{}: {signature}\r\n",
        signature::ID_HEADER,
        signature::TIMESTAMP_HEADER,
        signature::SIGNATURE_HEADER,
    );
    http::request("POST /v1/webhooks/third-party", &headers, &body)
}

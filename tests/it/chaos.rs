//! What the fault harness (`tests/chaos`) relies on: its schedule, its spoilable network, and its
//! witnesses in the database.

// Here only parts of them are used.
#[allow(dead_code)]
#[path = "../chaos/link.rs"]
mod link;
#[allow(dead_code)]
#[path = "../chaos/plan.rs"]
mod plan;
#[allow(dead_code)]
#[path = "../chaos/witness.rs"]
mod witness;

use std::{
    collections::HashSet,
    io::ErrorKind,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use self::{
    link::Link,
    plan::{Action, DEAD_AFTER, Plan, Trouble},
};
use crate::support::{TestApp, World};

const BOUND: Duration = Duration::from_secs(10);
/// How long something that must not come is waited for.
const SILENCE: Duration = Duration::from_millis(200);

#[test]
fn a_schedule_depends_on_seed_and_length_alone() {
    let minute = Duration::from_secs(60);
    let plan = Plan::draw(7, minute);
    assert_eq!((&plan, plan.digest()), (&Plan::draw(7, minute), plan.digest()));
    let digests: HashSet<String> = (0..100).map(|seed| Plan::draw(seed, minute).digest()).collect();
    assert_eq!(digests.len(), 100);
}

#[test]
fn a_schedule_is_healed_before_its_end_and_has_one_fault_on_a_target_at_a_time() {
    for (seed, seconds) in (0..100).flat_map(|seed| [(seed, 15), (seed, 120)]) {
        let plan = Plan::draw(seed, Duration::from_secs(seconds));
        assert!(plan.faults.is_sorted_by_key(|fault| fault.at), "{plan}");
        assert!(plan.faults.iter().all(|fault| fault.end() <= plan.length), "{plan}");
        for (nth, fault) in plan.faults.iter().enumerate() {
            assert!(!plan.faults[..nth].iter().any(|other| other.collides(fault)), "{plan}");
            if matches!(fault.action, Action::Freeze(_)) {
                assert!(fault.lasts > DEAD_AFTER, "{plan}");
            }
        }
    }
}

#[test]
fn every_kind_of_fault_comes_within_75_seconds() {
    for seed in 0..100 {
        let plan = Plan::draw(seed, Duration::from_secs(75));
        let kinds: HashSet<&str> =
            plan.faults.iter().map(|fault| fault.action.counted_as()).collect();
        assert_eq!(kinds.len(), 14, "{plan}");
        assert!(plan.faults.len() > 40, "{plan}");
    }
}

/// A server that answers each thing it reads with the same, and tells of it.
async fn echo() -> (Link, mpsc::UnboundedReceiver<Vec<u8>>) {
    let (sender, received) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let link = Link::to(listener.local_addr().unwrap()).await;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 64];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    sender.send(buffer[..read].to_vec()).ok();
                    stream.write_all(&buffer[..read]).await.ok();
                }
            });
        }
    });
    (link, received)
}

async fn say(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(text).await?;
    hear(stream).await
}

async fn hear(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut buffer = [0; 64];
    let read = tokio::time::timeout(BOUND, stream.read(&mut buffer)).await.unwrap()?;
    Ok(buffer[..read].to_vec())
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 1];
    tokio::time::timeout(SILENCE, stream.read(&mut buffer)).await.is_err()
}

#[tokio::test]
async fn a_link_carries_what_it_is_given_slower_or_later() {
    let (link, _received) = echo().await;
    let mut stream = TcpStream::connect(link.address()).await.unwrap();
    assert_eq!(say(&mut stream, b"one").await.unwrap(), b"one");
    link.spoil(Trouble::Slow(SILENCE));
    let began = Instant::now();
    assert_eq!(say(&mut stream, b"two").await.unwrap(), b"two");
    assert!(began.elapsed() >= 2 * SILENCE, "both ways are slower");
    link.spoil(Trouble::Hold);
    stream.write_all(b"three").await.unwrap();
    assert!(is_silent(&mut stream).await);
    link.heal();
    assert_eq!(hear(&mut stream).await.unwrap(), b"three");
}

#[tokio::test]
async fn a_link_that_is_cut_breaks_connections_and_refuses_new_ones() {
    let (link, _received) = echo().await;
    let mut stream = TcpStream::connect(link.address()).await.unwrap();
    assert_eq!(say(&mut stream, b"one").await.unwrap(), b"one");
    link.spoil(Trouble::Cut);
    assert_eq!(hear(&mut stream).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let mut refused = TcpStream::connect(link.address()).await.unwrap();
    assert!(say(&mut refused, b"two").await.is_err());
    link.heal();
    let mut stream = TcpStream::connect(link.address()).await.unwrap();
    assert_eq!(say(&mut stream, b"three").await.unwrap(), b"three");
}

#[tokio::test]
async fn a_link_that_loses_things_breaks_when_it_is_healed() {
    for (trouble, arrives) in [(Trouble::Lose, false), (Trouble::Mute, true)] {
        let (link, mut received) = echo().await;
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        link.spoil(trouble);
        stream.write_all(b"one").await.unwrap();
        assert!(is_silent(&mut stream).await, "{trouble:?}");
        assert_eq!(received.try_recv().is_ok(), arrives, "{trouble:?}");
        link.heal();
        assert_eq!(hear(&mut stream).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

/// Runs statements as another process would, and returns what the witnesses saw.
async fn witnessed(app: &TestApp, statements: &str) -> Vec<String> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned())).execute(&app.pool).await.unwrap();
    let seen = witness::violations(&app.pool).await;
    sqlx::raw_sql("DELETE FROM chaos.seen").execute(&app.pool).await.unwrap();
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn witnesses_see_what_is_wrong_only_for_a_moment() {
    let world = World::new().await;
    // Before any worker is there: whom one belongs to is noted when it registers.
    witness::install(&world.pool).await;
    let mut app = world.app().spawn().await;
    let id = app.client().accept().await;
    app.wait_told(id, BOUND).await;
    app.wait_at_rest(BOUND).await;
    app.stop().await;
    assert_eq!(witness::violations(&app.pool).await, Vec::<String>::new());

    // A job that runs in another process, whose role is 'other' from then on.
    let leased = "INSERT INTO apalis.workers (id, worker_type, storage_name, layers, last_seen)
        VALUES ('other', 'notify_client', 'quartet', '', now());
        UPDATE apalis.jobs SET status = 'Running', lock_by = 'other', lock_at = now()
        WHERE job_type = 'notify_client';
        UPDATE chaos.workers SET role = 'other' WHERE id = 'other'";
    assert_eq!(witnessed(&app, leased).await, Vec::<String>::new());
    let end = "UPDATE apalis.jobs SET status = 'Done', lock_by = NULL, lock_at = NULL
        WHERE job_type = 'notify_client'";
    let seen = witnessed(&app, end).await;
    let sentence = format!("7: notify_client {id}, leased to other, was made Done by postgres");
    assert_eq!(seen, [sentence]);
    let lease = "UPDATE apalis.jobs SET status = 'Running', lock_by = 'other', lock_at = now()
        WHERE job_type = 'notify_client'";
    let sentence = format!("7: notify_client {id} was leased to other by postgres");
    assert_eq!(witnessed(&app, lease).await, [sentence]);
    // What a worker that is dead holds is taken by anybody: a rescue.
    let rescue = "UPDATE apalis.workers SET last_seen = now() - interval '1 h';
        UPDATE apalis.jobs SET status = 'Pending', lock_by = NULL, lock_at = NULL
        WHERE job_type = 'notify_client'";
    assert_eq!(witnessed(&app, rescue).await, Vec::<String>::new());
    let cases = [
        ("UPDATE apalis.jobs SET status = 'Done' WHERE job_type = 'notify_client'", "7: notify"),
        ("UPDATE transactions SET notified_version = 1", "3: notified_version of"),
        ("UPDATE transactions SET version = 3", "2: "),
        ("UPDATE transactions SET status = 'declined', version = 4", "2: "),
        ("DELETE FROM apalis.jobs; DELETE FROM transactions", "6: "),
    ];
    for (statement, sentence) in cases {
        let seen = witnessed(&app, statement).await;
        assert!(seen.len() == 1 && seen[0].starts_with(sentence), "{statement}: {seen:#?}");
    }
}

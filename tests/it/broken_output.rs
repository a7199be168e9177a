//! What commands do when what they print cannot be written.

use std::{
    fs::OpenOptions,
    io::pipe,
    process::{Child, Stdio},
    time::Duration,
};

use crate::support::{
    command::{Ended, QUARTET, command},
    postgres::TestDatabase,
    wait_until,
};

const BOUND: Duration = Duration::from_secs(20);

/// A device on which nothing can be written.
fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

/// A pipe whose reader has gone away.
fn closed() -> Stdio {
    let (_, writer) = pipe().unwrap();
    writer.into()
}

fn start(args: &[&str], settings: &[(String, String)], [stdout, stderr]: [Stdio; 2]) -> Child {
    let mut command = command(QUARTET.as_ref(), args, settings);
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().unwrap()
}

/// Waits until it has ended by itself.
async fn ended(mut child: Child) -> (Option<i32>, Ended) {
    wait_until("the command ends", BOUND, async || child.try_wait().unwrap().is_some()).await;
    let output = child.wait_with_output().unwrap();
    (output.status.code(), output.into())
}

const NOT_WRITTEN: &str = "the output could not be written: No space left on device";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_an_error_and_a_reader_that_went_away_is_none() {
    for args in [&["openapi"][..], &["third-party", "list"], &["secrets", "generate-key"]] {
        let (code, said) = ended(start(args, &[], [full(), Stdio::piped()])).await;
        assert_eq!((code, said.stderr), (Some(1), format!("error: {NOT_WRITTEN}\n")), "{args:?}");
        let (code, said) = ended(start(args, &[], [closed(), Stdio::piped()])).await;
        assert_eq!((code, said.stderr.as_str()), (Some(0), ""), "{args:?}");
    }
    // An error of the command is reported, whatever became of what it printed.
    let (code, said) = ended(start(&["doctor"], &[], [closed(), Stdio::piped()])).await;
    assert_eq!(code, Some(1));
    assert!(said.stderr.contains("failed") && !said.stderr.contains("output"), "{said:?}");
    let (code, _) = ended(start(&["doctor"], &[], [closed(), closed()])).await;
    assert_eq!(code, Some(1));
}

/// Nobody learns where it listens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_that_cannot_print_its_settings_ends() {
    let (code, said) = ended(start(&["sandbox"], &[], [full(), Stdio::piped()])).await;
    assert_eq!(code, Some(1), "{said:?}");
    assert!(said.stderr.contains(NOT_WRITTEN), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_not_printed_is_reported_with_how_to_get_another() {
    let database = TestDatabase::create().await;
    let settings = [("DATABASE_URL".to_owned(), database.url().to_owned())];
    let add = ["clients", "add", "shop", "--callback-url", "https://shop.example/callback"];
    for (args, done) in [
        (&add[..], "client shop is registered, but "),
        (&["clients", "rotate-key", "shop"], "the API key of shop is replaced, but "),
        (
            &["clients", "rotate-secret", "shop", "--json"],
            "the signing secret of shop is replaced, but ",
        ),
    ] {
        let (code, said) = ended(start(args, &settings, [full(), Stdio::piped()])).await;
        assert_eq!(code, Some(1), "{said:?}");
        let error =
            format!("error: {done}{NOT_WRITTEN}\n  what to do: run `quartet clients rotate-");
        assert!(said.stderr.contains(&error), "{said:?}");
    }
    let registered = "SELECT count(*) FROM clients WHERE name = 'shop'";
    let registered: i64 = sqlx::query_scalar(registered).fetch_one(&database.pool()).await.unwrap();
    assert_eq!(registered, 1);
    // Nor is it left unsaid where the reader went away.
    let args = ["clients", "rotate-key", "shop"];
    let (code, said) = ended(start(&args, &settings, [closed(), Stdio::piped()])).await;
    assert_eq!(code, Some(1), "{said:?}");
    assert!(said.stderr.contains("replaced, but the output could not be written"), "{said:?}");
    // Without a master key it warns; that the warning cannot be written stops nothing.
    let add = ["clients", "add", "other", "--callback-url", "https://shop.example/callback"];
    let (code, said) = ended(start(&add, &settings, [Stdio::piped(), closed()])).await;
    assert_eq!(code, Some(0), "{said:?}");
    assert!(said.stdout.contains("API key:"), "{said:?}");
}

//! `quartet third-party`: the profiles in the program, and checks of one's own.

use std::{fs, path::PathBuf};

use tempfile::TempDir;

use crate::support::command::{Ended, run};

async fn third_party(args: &[&str]) -> Ended {
    let args: Vec<&str> = ["third-party"].iter().chain(args).copied().collect();
    // A secret in the environment is not looked at.
    let settings = [("QUARTET_THIRD_PARTY__SECRETS__TOKEN".to_owned(), "hush".to_owned())];
    let ended = run(&args, &settings, "").await;
    assert!(!ended.stdout.contains("hush") && !ended.stderr.contains("hush"), "{ended:?}");
    ended
}

/// A folder with the profile `pawapay` and its file of cases, to be changed.
struct Own(TempDir);

impl Own {
    async fn new() -> Self {
        let own = Self(TempDir::new().unwrap());
        let shown = third_party(&["show", "pawapay"]).await;
        fs::write(own.profile(), shown.expect()).unwrap();
        own
    }

    fn profile(&self) -> PathBuf {
        self.0.path().join("own.toml")
    }

    fn change(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.profile()).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        fs::write(self.profile(), text.replace(from, to)).unwrap();
    }

    fn add_cases(&self, text: &str) {
        fs::write(self.0.path().join("own.cases.toml"), text).unwrap();
    }

    async fn check(&self) -> Ended {
        third_party(&["check", self.profile().to_str().unwrap()]).await
    }
}

#[tokio::test]
async fn each_profile_in_the_program_is_listed_shown_and_as_recorded() {
    let listed = third_party(&["list"]).await;
    let names: Vec<&str> = listed.expect().lines().collect();
    for name in ["quartet", "stripe-payouts", "mtn-momo", "pawapay"] {
        assert!(names.contains(&name), "{names:?}");
    }
    for name in names {
        let shown = third_party(&["show", name]).await;
        assert!(shown.expect().contains(&format!("name = \"{name}\"")), "{shown:?}");
        let checked = third_party(&["check", name]).await;
        let text = checked.expect();
        assert!(text.contains("## Create") && text.contains("## Lookup"), "{text}");
        assert!(text.contains("recorded cases: all as recorded."), "{text}");
    }
}

#[tokio::test]
async fn requests_are_printed_with_their_secrets_masked() {
    let checked = third_party(&["check", "mtn-momo"]).await;
    let text = checked.expect();
    for line in [
        "POST /disbursement/token/",
        "Authorization: Basic base64(<secret client_id>:<secret client_secret>)",
        "POST /disbursement/v1_0/transfer",
        "Authorization: Bearer <token>",
        "Ocp-Apim-Subscription-Key: <secret subscription_key>",
        "X-Target-Environment: <var target_environment>",
        "Secrets that it needs: client_id, client_secret, subscription_key",
        "Metadata that it reads: msisdn",
    ] {
        assert!(text.lines().any(|printed| printed == line), "{line} is not in {text}");
    }
}

#[tokio::test]
async fn a_name_that_is_not_there_is_answered_with_those_that_are() {
    for args in [["show", "stripe"], ["check", "stripe"]] {
        let ended = third_party(&args).await;
        let text = ended.expect_failure();
        assert!(text.contains("'stripe'") && text.contains("stripe-payouts"), "{text}");
    }
    let ended = third_party(&["check", "/nowhere/own.toml"]).await;
    assert!(ended.expect_failure().contains("there is no /nowhere/own.toml"), "{ended:?}");
}

#[tokio::test]
async fn a_profile_of_ones_own_is_checked_with_the_cases_beside_it() {
    let own = Own::new().await;
    assert!(own.check().await.expect().contains("There are no recorded cases."));

    own.add_cases(
        "[[test]]\ncall = \"lookup\"\ncode = 200\nbody = '{\"status\":\"NOT_FOUND\"}'\n\
         means = \"absent\"\n",
    );
    assert!(own.check().await.expect().contains("1 recorded cases: all as recorded."));

    own.change("is = \"NOT_FOUND\"", "is = \"UNKNOWN\"");
    let ended = own.check().await;
    assert!(ended.expect_failure().contains("1 of 1 recorded cases differ"), "{ended:?}");
    let difference = "test 1: a lookup answered 200 must be absent, and is no answer, by pawapay: \
                      no rule of lookup.answers (code 200)";
    assert!(ended.stdout.contains(difference), "{ended:?}");

    own.add_cases("[[test]]\ncall = \"delete\"\n");
    let ended = own.check().await;
    let text = ended.expect_failure();
    let why = "own.cases.toml: test[1].call (line 2): 'delete' is not allowed: create or lookup";
    assert!(text.contains(why), "{text}");
}

#[tokio::test]
async fn an_unsafe_profile_is_refused_by_file_key_and_line() {
    let own = Own::new().await;
    own.change("repeat = \"refused\"", "repeat = \"sometimes\"");
    let ended = own.check().await;
    let text = ended.expect_failure();
    let why = "own.toml: create.repeat (line 10): 'sometimes' is not allowed: refused, same-answer \
               or new-transaction";
    assert!(text.contains(why), "{text}");

    own.change("repeat = \"sometimes\"", "repeat = \"refused\"");
    own.change("at = \"/status\", is = \"NOT_FOUND\", ", "");
    own.change("completed = [\"COMPLETED\"]", "completed = [\"COMPLETED\", \"Failed\"]");
    let ended = own.check().await;
    let text = ended.expect_failure();
    for part in ["lookup.answers[1] (line", "a second payment would follow", "status.declined[1]"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

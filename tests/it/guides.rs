//! The pages for developers: what a problem's `type` leads to, and that their links lead somewhere.

use std::path::Path;

use quartet::{
    domain::DeadLetterKind,
    http::{api::guides, problem::ProblemType},
};
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::support::{TestApp, spawn_api, transaction};

/// As a browser asks for a page.
async fn browse(app: &TestApp, path: &str) -> String {
    let accept = [("accept", "text/html,application/xhtml+xml")];
    let page = app.anonymous().send(Method::GET, path, &accept, "").await;
    page.expect(200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8", "{path}");
    assert_eq!(page.header("vary"), "Accept", "{path}");
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    page.text
}

fn anchors(name: &str) -> Vec<String> {
    let guide = guides::ALL.iter().find(|guide| guide.name == name);
    guide.unwrap_or_else(|| panic!("there is no page {name}")).anchors()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_problem_and_each_dead_letter_has_its_heading() {
    let app = spawn_api().await;
    let page = browse(&app, "/docs/errors").await;
    let problems = ProblemType::ALL.map(ProblemType::anchor);
    let kinds = DeadLetterKind::ALL.iter().map(|kind| kind.as_str());
    for anchor in problems.into_iter().chain(kinds) {
        assert!(page.contains(&format!("id=\"{anchor}\"")), "{anchor}");
        assert_eq!(
            anchors("errors").iter().filter(|known| *known == anchor).count(),
            1,
            "{anchor}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_are_markdown_for_programs_and_html_for_browsers() {
    let app = spawn_api().await;
    for guide in guides::ALL {
        let path = format!("/docs/{}", guide.name);
        let text = app.anonymous().get(&path).await;
        text.expect(200);
        assert_eq!(text.header("content-type"), "text/markdown; charset=utf-8", "{path}");
        assert_eq!(text.text, guide.markdown, "{path}");
        let page = browse(&app, &path).await;
        assert!(page.contains("<h1 id=") && page.contains("<table>"), "{path}: {page}");
    }
    let swagger = app.anonymous().get("/docs").await.text;
    for guide in guides::ALL {
        assert!(swagger.contains(&format!("(/docs/{})", guide.name)), "{}", guide.name);
    }
}

#[test]
fn every_link_of_the_pages_leads_somewhere() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut checked = 0;
    for guide in guides::ALL {
        for link in guide.markdown.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.starts_with("https://") {
                continue;
            }
            let (page, anchor) = link.split_once('#').unwrap_or((link, ""));
            let page = if page.is_empty() { format!("{}.md", guide.name) } else { page.to_owned() };
            assert!(docs.join(&page).exists(), "{}: {link}", guide.name);
            let name = page.strip_suffix(".md").unwrap();
            if !anchor.is_empty() {
                assert!(
                    anchors(name).iter().any(|known| known == anchor),
                    "{}: {link}",
                    guide.name
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 20, "{checked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_problem_says_which_of_those_with_its_status_it_is() {
    let app = spawn_api().await;
    let id = Uuid::now_v7();
    app.client().post_transaction(&transaction(id)).await.expect(202);
    let mut changed = transaction(id);
    changed["amount"] = 1251.into();
    let body = json!({ "id": id, "status": "completed" });
    let lonely = json!({ "id": Uuid::now_v7(), "amount": 1250 });
    for (status, kind, answer) in [
        (409, "id-conflict", app.client().post_transaction(&changed).await),
        (404, "not-found", app.client().get_transaction(Uuid::now_v7()).await),
        (404, "unknown-path", app.client().get("/v1/nothing").await),
        (401, "unauthorized", app.anonymous().get_transaction(id).await),
        (401, "invalid-signature", app.anonymous().post("/v1/webhooks/third-party", &body).await),
        (403, "forbidden", app.client().list_dead_letters("limit=1").await),
        (
            405,
            "method-not-allowed",
            app.client().send(Method::PUT, "/v1/transactions", &[], "").await,
        ),
        (400, "bad-request", app.client().post_raw("/v1/transactions", "{").await),
        (
            415,
            "unsupported-media-type",
            app.client().send(Method::POST, "/v1/transactions", &[], "{}").await,
        ),
        (
            413,
            "body-too-large",
            app.client().post_raw("/v1/transactions", " ".repeat(70_000)).await,
        ),
        (422, "invalid-fields", app.client().post_transaction(&lonely).await),
    ] {
        let problem = answer.expect_problem(status);
        assert_eq!(problem["type"], format!("/docs/errors#{kind}"), "{problem}");
    }
}

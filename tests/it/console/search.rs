//! What an operator finds, and what a page says of what must be decided.

use serde_json::json;
use uuid::Uuid;

use super::{data, visitor::Visitor};
use crate::support::spawn_api;

/// The transactions that a page lists.
fn listed(html: &str) -> Vec<&str> {
    let rows = html.split("<tr data-key=\"").skip(1);
    rows.filter_map(|row| row.split('"').next()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_found_by_whatever_an_operator_has_of_it() {
    let app = spawn_api().await;
    let client = app.client();
    let ids = [0xA1_u128, 0xA2, 0xB1].map(|next| Uuid::from_u128(0x0195_f3a2 << 96 | next << 88));
    for (nth, id) in ids.iter().enumerate() {
        let posted = json!({ "id": id, "reference": format!("Invoice_{nth}00%") });
        client.post_transaction(&posted).await.expect(202);
    }
    let theirs = "UPDATE transactions SET provider_id = 'ch_3P/ä?' WHERE id = $1";
    sqlx::query(theirs).bind(ids[1]).execute(&app.pool).await.unwrap();
    let [a, b, c] = ids.map(|id| id.to_string());
    let visitor = Visitor::signed_in(&app).await;
    let search = async |query: &[(&str, &str)]| {
        let mut text = url::form_urlencoded::Serializer::new(String::new());
        let query = text.extend_pairs(query).finish();
        visitor.get(&format!("/console/transactions?{query}")).await
    };
    for whole in [a.clone(), a.to_uppercase(), a.replace('-', ""), format!(" {a}\t")] {
        assert_eq!(search(&[("q", &whole)]).await.location(), format!("/console/transactions/{a}"));
    }
    for (query, mut expected) in [
        (vec![("q", "0195f3a2")], vec![&c, &b, &a]),
        (vec![("q", "0195F3A2-a")], vec![&b, &a]),
        (vec![("q", "0195f3a2b")], vec![&c]),
        (vec![("q", "ch_3P/ä?")], vec![&b]),
        (vec![("q", "ch_3P")], vec![]),
        (vec![("q", "Invoice_100%")], vec![&b]),
        (vec![("q", "invoice")], vec![&c, &b, &a]),
        // Neither is a pattern.
        (vec![("q", "%")], vec![]),
        (vec![("q", "InvoiceX")], vec![]),
        (vec![("q", "' OR true --")], vec![]),
        (vec![("q", "\0")], vec![]),
        (vec![("q", "0195f3a2"), ("status", "pending")], vec![&c, &b, &a]),
        (vec![("q", "0195f3a2"), ("status", "failed")], vec![]),
        (vec![("q", "invoice"), ("status", "failed")], vec![]),
        (vec![("q", "0195f3a2"), ("third_party", "other")], vec![]),
        (vec![("q", "0195f3a2"), ("client", &a)], vec![]),
    ] {
        let page = search(&query).await;
        let mut found = listed(page.expect(200));
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{query:?}: {}", page.html);
        assert_eq!(page.html.contains("Nothing found for"), found.is_empty(), "{query:?}");
        // The page goes on from there.
        let field = format!(r#"value="{}""#, query[0].1.replace('\0', ""));
        assert!(query[0].1.contains(['\'', '\0']) || page.html.contains(&field), "{}", page.html);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_a_page_is_said_to_be_more() {
    let app = spawn_api().await;
    data::fill(&app.pool, 200).await;
    let visitor = Visitor::signed_in(&app).await;
    let page = visitor.get("/console/transactions?q=Invoice").await;
    assert_eq!(listed(page.expect(200)).len(), 50);
    assert!(page.html.contains("Only the first 50 are listed"), "{}", page.html);
    assert!(!page.html.contains("rel=\"next\""), "{}", page.html);
    let letters = "INSERT INTO failed_jobs (kind, cause, reason, detail, attempts)
        SELECT 'unknown_transaction', 'more:' || i, 'r', '{}', '[]' FROM generate_series(1, 60) AS i";
    sqlx::query(letters).execute(&app.pool).await.unwrap();
    let open = "SELECT count(*) FROM failed_jobs WHERE state = 'open'";
    let open: i64 = sqlx::query_scalar(open).fetch_one(&app.pool).await.unwrap();
    let page = visitor.get("/console/dead-letters").await;
    assert!(page.expect(200).contains(&format!("{open} open ones match")), "{}", page.html);
    let page = visitor.get("/console/dead-letters?kind=poison").await;
    assert!(!page.expect(200).contains("open ones match"), "{}", page.html);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contradiction_shows_both_sides_and_what_can_be_done() {
    let app = spawn_api().await;
    let (id, letter) = data::conflict(&app).await;
    let visitor = Visitor::signed_in(&app).await;
    let page = visitor.get(&format!("/console/dead-letters/{letter}")).await;
    let html = page.expect(200);
    let of = |name: &str| {
        let (_, rest) = html.split_once(&format!("<dt>{name}</dt><dd>")).expect(name);
        rest.split("</dd>").next().unwrap()
    };
    assert!(of("Here").contains("completed") && of("Here").contains("by webhook"), "{html}");
    assert!(of("Reported").starts_with("declined by webhook"), "{html}");
    assert!(html.contains("ask the third party which one is right"), "{html}");
    assert!(!html.contains("Preview replay") && html.contains("Resolve…"), "{html}");
    let list = visitor.get("/console/dead-letters").await;
    assert!(list.expect(200).contains("12.50 EUR"), "{id}: {}", list.html);
}

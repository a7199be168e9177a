//! Sessions of the console end: by signing out, for every copy of the cookie, and with their token.

use quartet::config::Role;

use crate::{
    console::visitor::Visitor,
    support::{World, spawn_api},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_out_ends_every_copy_of_the_cookie_in_every_process() {
    let app = spawn_api().await;
    let sibling = app.sibling().role(Role::Api).spawn().await;
    let visitor = Visitor::signed_in(&app).await;
    let other = Visitor::signed_in(&app).await;
    let cookie = visitor.cookie.clone().unwrap();
    let copies = [&app, &sibling].map(|app| Visitor::new(app).with_cookie(&cookie));
    for copy in &copies {
        copy.get("/console").await.expect(200);
    }
    let csrf = copies[0].get("/console/audit").await.csrf();

    visitor.post("/console/sign-out", &[]).await.location();
    for copy in &copies {
        for path in ["/console", "/console/audit", "/console/transactions"] {
            assert!(copy.get(path).await.location().starts_with("/console/sign-in?"));
        }
        // Nor does a form work that was open.
        copy.post_plain("/console/queues/update_status/pause", &[("csrf", &csrf)])
            .await
            .expect(401);
    }
    let paused: i64 =
        sqlx::query_scalar("SELECT count(*) FROM queue_pauses").fetch_one(&app.pool).await.unwrap();
    assert_eq!(paused, 0);
    other.get("/console").await.expect(200);
    // What is kept of it is no cookie, and goes when it would have expired.
    let kept = "SELECT encode(session, 'hex') FROM console_sign_outs";
    let kept: Vec<String> = sqlx::query_scalar(kept).fetch_all(&app.pool).await.unwrap();
    assert!(kept.len() == 1 && !cookie.contains(&kept[0]), "{kept:?}");
    let expire = "UPDATE console_sign_outs SET expires_at = now() - interval '1 s'";
    sqlx::query(expire).execute(&app.pool).await.unwrap();
    other.post("/console/sign-out", &[]).await.location();
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT encode(session, 'hex') FROM console_sign_outs")
            .fetch_all(&app.pool)
            .await
            .unwrap();
    assert!(rows.len() == 1 && rows != kept, "{rows:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_end_with_the_token_that_they_began_with() {
    let world = World::new().await;
    let [old, new] = ["operator_token_old_1", "operator_token_new_2"];
    let spawn = async |tokens: &str| {
        world.app().role(Role::Api).set("QUARTET_OPERATOR_TOKEN", tokens).spawn().await
    };
    let both = spawn(&format!("{old}, {new}")).await;
    let after = spawn(new).await;
    for (token, lasts) in [(old, false), (new, true)] {
        let mut visitor = Visitor::new(&both);
        visitor.sign_in(&[("token", token)]).await.location();
        visitor.get("/console").await.expect(200);
        let copy = Visitor::new(&after).with_cookie(visitor.cookie.unwrap());
        assert_eq!(copy.get("/console").await.status == 200, lasts, "{token}");
    }
}

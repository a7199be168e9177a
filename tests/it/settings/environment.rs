//! libpq's variables in the environment, beside `DATABASE_URL`.

use url::Url;

use super::{Scratch, name_of};
use crate::support::{
    World,
    command::{self, Ended},
    postgres::TestDatabase,
    world::set,
};

/// All that Quartet reads and an empty value takes nothing from.
const EMPTY: [(&str, &str); 9] = [
    ("PGHOST", ""),
    ("PGHOSTADDR", ""),
    ("PGPORT", ""),
    ("PGUSER", ""),
    ("PGPASSWORD", ""),
    ("PGDATABASE", ""),
    ("PGSSLMODE", ""),
    ("PGSSLROOTCERT", ""),
    ("PGOPTIONS", ""),
];

/// A command that reads the database at `url`, with these variables.
async fn read(url: &str, variables: &[(&str, &str)]) -> Ended {
    let mut settings = World::new().await.settings();
    set(&mut settings, "DATABASE_URL", url);
    for (name, value) in variables {
        set(&mut settings, name, value);
    }
    command::run(&["clients", "list"], &settings, "").await
}

/// The same database with its port in the query.
fn with_port_in_query(url: &str) -> String {
    let mut url: Url = url.parse().unwrap();
    let port = url.port().unwrap();
    url.set_port(None).unwrap();
    url.query_pairs_mut().append_pair("port", &port.to_string());
    url.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_variable_counts_as_unset() {
    let database = TestDatabase::create().await;
    let in_query = with_port_in_query(database.url());
    for url in [database.url(), &in_query] {
        read(url, &EMPTY).await.expect();
    }

    // Without a host in the URL.
    let whole: Url = database.url().parse().unwrap();
    let mut url: Url = "postgres:///".parse().unwrap();
    url.set_path(whole.path());
    url.query_pairs_mut()
        .append_pair("user", whole.username())
        .append_pair("password", whole.password().unwrap_or_default())
        .append_pair("port", &whole.port().unwrap().to_string());
    let host = [("PGHOST", whole.host_str().unwrap()), ("PGHOSTADDR", "")];
    read(url.as_str(), &host).await.expect();

    let certificate = [("PGSSLCERT", ""), ("PGSSLKEY", "")];
    let refused = read(database.url(), &certificate).await;
    let said = refused.expect_failure();
    assert!(said.contains("PGSSLCERT or PGSSLKEY is empty"), "{said}");
    let without_tls = [certificate[0], certificate[1], ("PGSSLMODE", "disable")];
    read(database.url(), &without_tls).await.expect();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_the_url_has_wins_over_a_wrong_variable() {
    let database = TestDatabase::create().await;
    let wrong = [("PGPORT", "five")];
    let in_query = with_port_in_query(database.url());
    for url in [database.url(), &in_query] {
        read(url, &wrong).await.expect();
    }
    let mut url: Url = database.url().parse().unwrap();
    url.set_port(None).unwrap();
    let refused = read(url.as_str(), &wrong).await;
    let said = refused.expect_failure();
    assert!(said.contains("PGPORT must be a number up to 65535"), "{said}");
}

/// As `deploy/compose.yaml` hands the password over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_of_any_characters_is_taken_from_its_variable() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/compose.yaml");
    let compose = std::fs::read_to_string(path).unwrap();
    let line = |name: &str| {
        let found = compose.lines().find_map(|line| line.trim().strip_prefix(name));
        found.unwrap_or_else(|| panic!("{name} is not in {path}")).trim()
    };
    let url: Url = line("DATABASE_URL:").parse().unwrap();
    assert_eq!(url.password(), None, "{url}");
    assert_eq!(line("PGPASSWORD:"), "${POSTGRES_PASSWORD:?is not set}");

    const PASSWORD: &str = "a/b#c?d%e@f:g";
    let mut scratch = Scratch::migrated().await;
    scratch.admin.run(format!("ALTER ROLE {} PASSWORD '{PASSWORD}'", scratch.role)).await;
    let own: Url = scratch.url.parse().unwrap();
    let mut url = url;
    url.set_host(own.host_str()).unwrap();
    url.set_port(own.port()).unwrap();
    url.set_username(&scratch.role).unwrap();
    url.set_path(&name_of(&scratch.url));
    read(url.as_str(), &[("PGPASSWORD", PASSWORD)]).await.expect();
    scratch.drop().await;
}

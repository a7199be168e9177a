//! What is delivered beside the binary names only metrics that exist: the dashboard, the alert
//! rules, the autoscaler, and the documentation.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    metrics::{scrape, worked},
    support::exposition::Exposition,
};

/// What Prometheus itself adds when it scrapes, and what metrics have where there are several third
/// parties.
const ADDED: [&str; 3] = ["instance", "job", "third_party"];

fn file(path: &str) -> String {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The queries of the dashboard's panels.
fn dashboard_queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&file("deploy/grafana/quartet.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

/// The conditions of the alert rules.
fn alert_queries() -> Vec<String> {
    let rules = file("deploy/prometheus/alerts.yml");
    let lines = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    lines.map(str::to_owned).collect()
}

/// What the autoscaler goes by, with what Prometheus Adapter fills in.
fn autoscaler_queries() -> Vec<String> {
    let rules = file("deploy/kubernetes/monitoring/prometheus-adapter.yaml");
    let lines = rules.lines().filter_map(|line| line.trim().strip_prefix("metricsQuery: "));
    let fill_in =
        |query: &str| query.replace("<<.GroupBy>>", "instance").replace("{<<.LabelMatchers>>}", "");
    lines.map(fill_in).collect()
}

/// A metric as a query names it: its name, and the labels that it selects by with what is asked
/// for, empty unless it is one value.
type Selector = (String, Vec<(String, String)>);

fn selectors(query: &str) -> Vec<Selector> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for prefix in ["quartet_", "process_"] {
        for (at, _) in query.match_indices(prefix) {
            let rest = &query[at..];
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            let (name, rest) = rest.split_at(end);
            let inside = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
            let matchers = inside.map_or("", |(inside, _)| inside).split(',');
            let labels = matchers.filter(|matcher| !matcher.is_empty()).map(|matcher| {
                let end = matcher.find(|c| !is_part(c)).unwrap();
                let (label, test) = matcher.split_at(end);
                let exact = test.strip_prefix("=\"").or(test.strip_prefix("!=\""));
                (label.to_owned(), exact.unwrap_or_default().trim_end_matches('"').to_owned())
            });
            found.push((name.to_owned(), labels.collect()));
        }
    }
    found
}

/// The labels that a query groups or joins by.
fn grouped(query: &str) -> BTreeSet<String> {
    let mut labels = BTreeSet::new();
    for word in ["by (", "on (", "group_left ("] {
        for (at, _) in query.match_indices(word) {
            let inside = query[at + word.len()..].split_once(')').unwrap().0;
            labels.extend(inside.split(',').map(|label| label.trim().to_owned()));
        }
    }
    labels
}

fn check(query: &str, metrics: &Exposition) -> usize {
    let names = metrics.names();
    let selectors = selectors(query);
    assert!(!selectors.is_empty(), "{query} names no metric");
    let mut known: BTreeSet<&str> = ADDED.into();
    for (name, labels) in &selectors {
        let own = names.get(name).unwrap_or_else(|| panic!("{name} does not exist: {query}"));
        known.extend(own.iter().map(String::as_str));
        for (label, value) in labels {
            assert!(own.contains(label), "{name} has no label {label}: {query}");
            let exists = value.is_empty() || metrics.value(name, &[(label, value)]).is_some();
            assert!(exists, "{name} is never {label}={value}: {query}");
        }
    }
    for label in grouped(query) {
        assert!(known.contains(&*label), "{label} is a label of nothing here: {query}");
    }
    selectors.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dashboard_and_the_alerts_name_metrics_that_exist() {
    let (app, _) = worked().await;
    app.anonymous().get("/health/ready").await.expect(200);
    let metrics = scrape(&app).await;
    let all = [(dashboard_queries(), 30), (alert_queries(), 12), (autoscaler_queries(), 1)];
    for (queries, least) in all {
        assert!(queries.len() >= least, "{queries:#?}");
        for query in queries {
            check(&query, &metrics);
        }
    }
}

#[test]
fn a_wrong_query_would_be_found() {
    let metrics = Exposition::read(
        "# HELP quartet_x_total Something.\n# TYPE quartet_x_total counter\n\
         quartet_x_total{result=\"good\"} 1\n",
    );
    for good in ["sum by (result) (quartet_x_total{result=~\"g.*\"})", "quartet_x_total"] {
        assert_eq!(check(good, &metrics), 1);
    }
    for bad in [
        "quartet_y_total",
        "quartet_x_total{outcome=\"good\"}",
        "quartet_x_total{result=\"bad\"}",
        "sum by (outcome) (quartet_x_total)",
        "1 > 0",
    ] {
        let checked = std::panic::catch_unwind(|| check(bad, &metrics));
        assert!(checked.is_err(), "{bad}");
    }
}

/// Rows of the table in the documentation: name, type and labels.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = file("docs/observability.md");
    let rows = text.lines().filter(|line| line.starts_with("| `quartet_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let labels = cells[3].split(',').map(|label| label.trim().trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty() && label != "–").collect();
        (cells[1].trim_matches('`').to_owned(), (cells[2].to_owned(), labels))
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documentation_lists_every_metric() {
    let (app, _) = worked().await;
    let metrics = scrape(&app).await;
    let served: BTreeMap<_, _> = metrics
        .0
        .iter()
        .filter(|(name, _)| name.starts_with("quartet_"))
        .map(|(name, family)| {
            let labels = family.samples.iter().flat_map(|sample| sample.labels.keys().cloned());
            let labels = labels.filter(|label| label != "le").collect();
            (name.clone(), (family.kind.clone(), labels))
        })
        .collect();
    assert_eq!(documented(), served);
}

/// The paths that a rule of the ingress hands on, `Prefix` each.
fn handed_on() -> Vec<String> {
    let manifest = file("deploy/kubernetes/base/ingress.yaml");
    let lines = manifest.lines().map(str::trim);
    let paths: Vec<_> = lines.clone().filter_map(|line| line.strip_prefix("- path: ")).collect();
    let prefixes = lines.filter(|line| *line == "pathType: Prefix").count();
    assert_eq!(prefixes, paths.len(), "each is a prefix: {manifest}");
    assert!(!manifest.contains("defaultBackend"), "{manifest}");
    paths.into_iter().map(str::to_owned).collect()
}

/// What is the clients' and the third party's, and nothing of the operators'. The policies are read
/// by `.ci/manifests.py`.
#[test]
fn the_ingress_hands_on_the_paths_of_clients_and_the_third_party_alone() {
    let handed_on = handed_on();
    let is_handed_on = |path: &str| {
        let below = |prefix: &String| path.strip_prefix(prefix.as_str());
        handed_on.iter().filter_map(below).any(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let api: Value = serde_json::from_str(&file("openapi/quartet.json")).unwrap();
    let api = api["paths"].as_object().unwrap().keys();
    let (mut outside, mut inside) = (0, 0);
    for path in api {
        let is_theirs = path.starts_with("/v1/transactions") || path.starts_with("/v1/webhooks/");
        assert_eq!(is_handed_on(path), is_theirs, "{path}");
        *if is_theirs { &mut outside } else { &mut inside } += 1;
    }
    assert!(outside >= 4 && inside >= 10, "{outside} {inside}");
    for path in ["/", "/console", "/console/sign-in", "/metrics", "/health/ready", "/docs", "/v1"] {
        assert!(!is_handed_on(path), "{path}");
    }
}

/// Every process of a machine can read the arguments of the others.
#[test]
fn compose_hands_no_secret_over_as_an_argument() {
    let compose = file("deploy/compose.yaml");
    let is_secret = |line: &str| {
        ["SECRET", "TOKEN", "PASSWORD", "_KEY", "DATABASE_URL"]
            .iter()
            .any(|word| line.contains(word))
    };
    let mut taken = 0;
    for line in compose.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let trimmed = line.trim_start();
        let is_argument = trimmed.starts_with("- ") || trimmed.contains('[');
        assert!(!(is_argument && is_secret(trimmed)), "{line}");
        taken += usize::from(is_secret(trimmed) && trimmed.contains(": ${"));
    }
    assert!(taken >= 6, "secrets come by the environment: {taken}");
}

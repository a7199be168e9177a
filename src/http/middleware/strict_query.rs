//! Refuses unknown or repeated query parameters (422, named) and unsupported methods (405 with
//! `Allow`).
//!
//! poem-openapi ignores a parameter that it does not know, so that a mistyped filter would list
//! everything. What each operation takes is read from the OpenAPI document itself.

use std::collections::BTreeSet;

use poem::{
    Endpoint, IntoResponse, Middleware, Request, Response, Result,
    http::{Method, StatusCode, header},
};
use serde_json::Value;

use super::path_template::PathTemplate;
use crate::http::problem::{FieldProblem, MAX_ERRORS, Problem};

/// Most characters of an unknown parameter that an answer repeats.
const MAX_NAME_CHARS: usize = 100;

/// The middleware, made from an OpenAPI document.
pub struct StrictQuery {
    paths: Vec<PathRules>,
}

#[derive(Debug, Clone)]
struct PathRules {
    path: PathTemplate,
    /// Method in capitals, and the query parameters that it takes.
    operations: Vec<(String, BTreeSet<String>)>,
}

impl StrictQuery {
    /// Reads the rules from `openapi`; a document without paths refuses nothing.
    pub fn new(openapi: &str) -> Self {
        let document: Value = serde_json::from_str(openapi).unwrap_or_default();
        let paths = document["paths"].as_object().into_iter().flatten();
        Self { paths: paths.map(|(path, item)| PathRules::new(path, item)).collect() }
    }
}

impl PathRules {
    fn new(path: &str, item: &Value) -> Self {
        let operations = item.as_object().into_iter().flatten().map(|(method, operation)| {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let names = parameters
                .filter(|parameter| parameter["in"] == "query")
                .filter_map(|parameter| parameter["name"].as_str().map(str::to_owned))
                .collect();
            (method.to_uppercase(), names)
        });
        Self { path: PathTemplate::new(path), operations: operations.collect() }
    }

    fn check(&self, request: &Request) -> Option<Response> {
        let method = match request.method() {
            &Method::HEAD => Method::GET.as_str(),
            method => method.as_str(),
        };
        let Some((_, known)) = self.operations.iter().find(|(name, _)| name == method) else {
            let allow: Vec<&str> = self.operations.iter().map(|(name, _)| name.as_str()).collect();
            let allow = allow.join(", ");
            let detail = format!("this path takes {allow}");
            let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail);
            return Some(problem.with_header(header::ALLOW, allow).into_response());
        };
        let query = request.uri().query().unwrap_or_default();
        let (mut seen, mut errors) = (BTreeSet::new(), Vec::new());
        for (name, _) in url::form_urlencoded::parse(query.as_bytes()) {
            if errors.len() == MAX_ERRORS {
                break;
            }
            if !known.contains(name.as_ref()) {
                let allowed: Vec<&str> = known.iter().map(String::as_str).collect();
                let detail = match allowed.as_slice() {
                    [] => "unknown parameter; none is allowed".to_owned(),
                    allowed => format!("unknown parameter; allowed are {}", allowed.join(", ")),
                };
                errors.push(FieldProblem::parameter(cut(&name), detail));
            } else if !seen.insert(name.clone()) {
                errors.push(FieldProblem::parameter(name.as_ref(), "is given more than once"));
            }
        }
        (!errors.is_empty()).then(|| Problem::invalid(errors).into_response())
    }
}

/// A name as an answer repeats it.
fn cut(name: &str) -> String {
    name.chars().take(MAX_NAME_CHARS).collect()
}

impl<E: Endpoint> Middleware<E> for StrictQuery {
    type Output = StrictQueryEndpoint<E>;

    fn transform(&self, inner: E) -> Self::Output {
        StrictQueryEndpoint { paths: self.paths.clone(), inner }
    }
}

/// An endpoint behind [`StrictQuery`].
pub struct StrictQueryEndpoint<E> {
    paths: Vec<PathRules>,
    inner: E,
}

impl<E: Endpoint> Endpoint for StrictQueryEndpoint<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        let rules = self.paths.iter().find(|rules| rules.path.matches(request.uri().path()));
        match rules.and_then(|rules| rules.check(&request)) {
            Some(refused) => Ok(refused),
            None => self.inner.call(request).await.map(IntoResponse::into_response),
        }
    }
}

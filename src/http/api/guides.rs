//! The pages for developers, below `/docs`: where `type` of a problem leads.
//!
//! They are the pages of `docs/` in the repository: Markdown for programs such as curl, and a page
//! for browsers, whose headings have the anchors that they have there.

use hyper::body::Bytes;
use poem::{Endpoint, Request, Response, endpoint::make_sync, get, http::header};
use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, html};

use super::{inline_hashes::hashes, pace::Pace};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;\
    padding:0 1rem;color:#1b1f24}code,pre{font:14px/1.45 ui-monospace,monospace;background:#f3f4f6}\
    pre{padding:.8rem;overflow-x:auto}code{padding:.1em .2em}pre code{padding:0}\
    table{border-collapse:collapse}td,th{border:1px solid #d0d7de;padding:.3rem .6rem;\
    text-align:left;vertical-align:top}h2,h3{margin-top:2rem}:target{background:#fff3b0}";

/// A page for developers.
#[derive(Debug, Clone, Copy)]
pub struct Guide {
    /// Its name: `/docs/{name}` here, `docs/{name}.md` in the repository.
    pub name: &'static str,
    pub markdown: &'static str,
}

macro_rules! guide {
    ($name:literal) => {
        Guide { name: $name, markdown: include_str!(concat!("../../../docs/", $name, ".md")) }
    };
}

/// All of them.
pub const ALL: [Guide; 3] = [guide!("clients"), guide!("third-party"), guide!("errors")];

impl Guide {
    /// Serves the page.
    pub fn route(self, pace: Pace) -> impl Endpoint + use<> {
        let page = self.page();
        let policy = format!(
            "default-src 'none'; style-src{}; form-action 'none'; base-uri 'none'; \
             frame-ancestors 'none'",
            hashes(&page, "style")
        );
        let (page, markdown) = (Bytes::from(page), Bytes::from_static(self.markdown.as_bytes()));
        get(make_sync(move |request: Request| {
            let accepted = request.header(header::ACCEPT).unwrap_or_default();
            let is_browser = accepted.contains("text/html");
            pace.send(|| {
                let response = Response::builder().header(header::VARY, "Accept");
                if is_browser {
                    response
                        .content_type("text/html; charset=utf-8")
                        .header(header::CONTENT_SECURITY_POLICY, &policy)
                        .body(page.clone())
                } else {
                    response.content_type("text/markdown; charset=utf-8").body(markdown.clone())
                }
            })
        }))
    }

    fn page(self) -> String {
        let mut body = String::new();
        html::push_html(&mut body, events(self.markdown).into_iter());
        let name = self.name;
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\">\
             <title>Quartet: {name}</title><style>{STYLE}</style></head><body>{body}</body></html>"
        )
    }

    /// The anchors of its headings.
    pub fn anchors(self) -> Vec<String> {
        let anchor = |event| match event {
            Event::Start(Tag::Heading { id, .. }) => id.map(|id| id.to_string()),
            _ => None,
        };
        events(self.markdown).into_iter().filter_map(anchor).collect()
    }
}

/// What Markdown says, with anchors for its headings, and links to the pages as they are served.
fn events(markdown: &str) -> Vec<Event<'_>> {
    let mut events: Vec<Event<'_>> = Parser::new_ext(markdown, Options::ENABLE_TABLES).collect();
    let mut heading = None;
    for index in 0..events.len() {
        match &mut events[index] {
            Event::Start(Tag::Heading { .. }) => heading = Some((index, String::new())),
            Event::Text(text) | Event::Code(text) => {
                if let Some((_, heading)) = &mut heading {
                    heading.push_str(text);
                }
            }
            Event::Start(Tag::Link { dest_url, .. }) => *dest_url = as_served(dest_url),
            Event::End(TagEnd::Heading(_)) => {
                let Some((start, heading)) = heading.take() else { continue };
                if let Event::Start(Tag::Heading { id, .. }) = &mut events[start] {
                    *id = Some(anchor(&heading).into());
                }
            }
            _ => {}
        }
    }
    events
}

/// The anchor of a heading, as repositories' pages make them.
fn anchor(heading: &str) -> String {
    let kept = |character: &char| character.is_alphanumeric() || " -_".contains(*character);
    heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
}

/// `errors.md#conflict` is `errors#conflict` here; other links stay.
fn as_served(link: &str) -> CowStr<'static> {
    let (page, anchor) = link.split_once('#').map_or((link, None), |(page, at)| (page, Some(at)));
    let served = page.strip_suffix(".md").filter(|name| ALL.iter().any(|page| page.name == *name));
    match (served, anchor) {
        (Some(page), Some(anchor)) => format!("{page}#{anchor}").into(),
        (Some(page), None) => page.to_owned().into(),
        (None, _) => link.to_owned().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_have_anchors_and_links_lead_to_served_pages() {
        let markdown = "## `status_conflict`: an operator's\n\n[a](errors.md#x) [b](limits.md)";
        let mut page = String::new();
        html::push_html(&mut page, events(markdown).into_iter());
        assert!(page.contains(r#"<h2 id="status_conflict-an-operators">"#), "{page}");
        assert!(page.contains(r#"href="errors#x""#) && page.contains(r#"href="limits.md""#));
    }
}

//! Cursors and paths.

use std::fmt::Debug;

use quartet::{
    http::{
        middleware::path_template::PathTemplate,
        page::{self, Page, PageCursor},
    },
    store::{jobs::job_list::JobCursor, postgres::columns::Time, transactions::Cursor},
};
use uuid::Uuid;

/// A cursor that is taken is one of ours, and means the same again; one of ours is taken; a refused
/// one is named.
pub fn cursor(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    taken_again::<Cursor>(&text);
    taken_again::<JobCursor>(&text);
    taken_again::<i64>(&text);

    let Some(bytes) = input.first_chunk::<24>() else { return };
    let (micros, id) = bytes.split_first_chunk::<8>().unwrap();
    let id = Uuid::from_slice(id).unwrap();
    let micros = i64::from_le_bytes(*micros).to_string();
    let Some(at) = Time::from_cursor(&micros) else { return };
    let cursor = Cursor { at, id };
    assert_eq!(page::after(Some(&next_cursor(cursor))).ok(), Some(Some(cursor)));
}

fn taken_again<C: PageCursor + Clone + PartialEq + Debug>(text: &str) {
    match page::after::<C>(Some(text)) {
        Ok(cursor) => {
            let next = next_cursor(cursor.clone().expect("one was given"));
            assert_eq!(page::after(Some(&next)).ok(), Some(cursor));
        }
        Err(problem) => named(&problem),
    }
}

/// The cursor after a page that ends there.
fn next_cursor(cursor: impl PageCursor) -> String {
    Page::new(vec![(), ()], 1, |()| cursor).next_cursor.expect("there is another page")
}

fn named(problem: &quartet::http::problem::Problem) {
    assert_eq!(problem.status, 422);
    let errors = problem.errors.as_deref().unwrap_or_default();
    assert!(matches!(errors, [error] if error.parameter.as_deref() == Some("cursor")));
}

/// A template (first line) matches what is made of it, and not what has a segment more or less.
pub fn path_template(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (template, path) = text.split_once('\n').unwrap_or((&text, "/"));
    let rules = PathTemplate::new(template);
    assert!(!rules.matches(path) || rules.begins(path));

    let made: Vec<&str> = template
        .split('/')
        .map(|segment| if segment.starts_with('{') { "7" } else { segment })
        .collect();
    let made = made.join("/");
    assert!(rules.matches(&made) && rules.begins(&made), "{template:?} {made:?}");
    let longer = format!("{made}/more");
    assert!(!rules.matches(&longer) && rules.begins(&longer), "{template:?} {longer:?}");
    if let Some((shorter, _)) = made.rsplit_once('/') {
        assert!(!rules.matches(shorter) && !rules.begins(shorter), "{template:?} {shorter:?}");
    }
}

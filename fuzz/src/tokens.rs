//! Cursors and paths.

use quartet::{
    http::{page, path_template::PathTemplate},
    store::{columns::Time, job_list::JobCursor, transactions::Cursor},
};
use uuid::Uuid;

/// A cursor that is taken is one of ours, and means the same again; one of ours is taken; a refused
/// one is named.
pub fn cursor(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match page::decode(&text) {
        Ok(cursor) => assert_eq!(page::decode(&page::encode(cursor)).ok(), Some(cursor)),
        Err(problem) => named(&problem),
    }
    match page::decode_job(&text) {
        Ok(JobCursor { at, id }) => {
            let again = page::decode_job(&next_job_cursor(JobCursor { at, id: id.clone() }));
            let again = again.expect("our own cursor");
            assert_eq!((again.at, again.id), (at, id));
        }
        Err(problem) => named(&problem),
    }

    let Some(bytes) = input.first_chunk::<24>() else { return };
    let (micros, id) = bytes.split_first_chunk::<8>().unwrap();
    let id = Uuid::from_slice(id).unwrap();
    let micros = i64::from_le_bytes(*micros).to_string();
    let Some(at) = Time::from_cursor(&micros) else { return };
    let cursor = Cursor { at, id };
    assert_eq!(page::decode(&page::encode(cursor)).ok(), Some(cursor));
}

/// The cursor after a page that ends with this job.
fn next_job_cursor(cursor: JobCursor) -> String {
    let mut rows = vec![(), ()];
    page::cut_jobs(&mut rows, 1, |()| cursor).expect("there is another page")
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

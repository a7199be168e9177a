//! An error and what caused it.

use std::error::Error;

/// The error, then its causes from the outermost to the innermost.
pub fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

/// The error with its causes, on one line.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let texts: Vec<String> = causes(error).map(ToString::to_string).collect();
    texts.join(": ")
}

/// What the error is due to in the end; itself, where nothing caused it.
pub fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    causes(error).last().unwrap_or(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Failed {
        text: &'static str,
        source: Option<Box<Failed>>,
    }

    #[test]
    fn causes_follow_one_another() {
        let cause = |text, source: Option<Failed>| Failed { text, source: source.map(Box::new) };
        let failed = cause("not sent", Some(cause("no connection", Some(cause("refused", None)))));
        assert_eq!(with_causes(&failed), "not sent: no connection: refused");
        assert_eq!(innermost(&failed).to_string(), "refused");
        let alone = cause("refused", None);
        assert_eq!(
            (with_causes(&alone), innermost(&alone).to_string()),
            ("refused".into(), "refused".into())
        );
    }
}

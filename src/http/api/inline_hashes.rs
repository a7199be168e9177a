//! Hashes by which a page's policy names its inline elements.

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

/// ` 'sha256-…'` for each inline element of this name.
pub(super) fn hashes(html: &str, element: &str) -> String {
    let (open, close) = (format!("<{element}"), format!("</{element}>"));
    let mut rest = html;
    // From each end to the next begin: a script's own text may speak of scripts.
    std::iter::from_fn(|| {
        let (_, from_open) = rest.split_once(&open)?;
        let (_, from_text) = from_open.split_once('>')?;
        let (text, after) = from_text.split_once(&close)?;
        rest = after;
        Some(format!(" 'sha256-{}'", STANDARD.encode(Sha256::digest(text))))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_inline_script_is_named_by_its_hash() {
        let html = r#"<style>a{}</style><script charset="UTF-8">alert('Hello, world.');</script>
            <p>text</p><script></script><script>"<script"</script>"#;
        // The first is the example of Content Security Policy Level 3.
        let hashes = hashes(html, "script");
        let hashes: Vec<&str> = hashes.split_whitespace().collect();
        let empty = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='";
        assert_eq!(hashes[..2], ["'sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng='", empty]);
        assert_eq!(hashes.len(), 3);
    }
}

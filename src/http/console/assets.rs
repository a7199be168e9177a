//! The console's own style sheet, script and icon, embedded in the binary.
//!
//! Each URL holds the hash of the content, so that a browser may keep it for a year. During a
//! rolling upgrade a page of the other version may ask for another hash: it gets what is here, and
//! is instructed not to keep it.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use poem::{Response, handler, http::header, web::Path};
use sha2::{Digest, Sha256};

use super::page_error::PageError;

struct Asset {
    name: &'static str,
    media_type: &'static str,
    content: &'static str,
    hash: LazyLock<String>,
}

impl Asset {
    fn url(&self) -> String {
        format!("/console/assets/{}/{}", self.hash.as_str(), self.name)
    }
}

macro_rules! asset {
    ($name:literal, $media_type:literal) => {
        Asset {
            name: $name,
            media_type: $media_type,
            content: include_str!(concat!("assets/", $name)),
            hash: LazyLock::new(|| {
                let digest = Sha256::digest(include_str!(concat!("assets/", $name)));
                URL_SAFE_NO_PAD.encode(&digest[..12])
            }),
        }
    };
}

static STYLE: Asset = asset!("console.css", "text/css; charset=utf-8");
static SCRIPT: Asset = asset!("console.js", "text/javascript; charset=utf-8");
static ICON: Asset = asset!("icon.svg", "image/svg+xml");

/// Where the style sheet is.
pub fn style_url() -> String {
    STYLE.url()
}

/// Where the script is.
pub fn script_url() -> String {
    SCRIPT.url()
}

/// Where the icon is.
pub fn icon_url() -> String {
    ICON.url()
}

/// One of them.
#[handler]
pub fn show_asset(Path((hash, name)): Path<(String, String)>) -> poem::Result<Response> {
    let asset = [&STYLE, &SCRIPT, &ICON].into_iter().find(|asset| asset.name == name);
    let asset = asset.ok_or_else(|| PageError::not_found("there is no such file"))?;
    let keep = if *asset.hash == hash { "public, max-age=31536000, immutable" } else { "no-store" };
    Ok(Response::builder()
        .content_type(asset.media_type)
        .header(header::CACHE_CONTROL, keep)
        .body(asset.content))
}

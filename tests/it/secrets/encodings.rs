//! Looking for a secret in a text, in every form in which whoever finds it could use it.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};

/// A secret with the forms it may have.
pub struct Hunted {
    name: String,
    forms: Vec<(&'static str, String)>,
}

impl Hunted {
    /// A secret that is used as this text. Where the text, or what follows its prefix, is base64 of
    /// something, that is looked for too.
    pub fn text(name: impl Into<String>, text: &str) -> Self {
        assert!(text.len() >= 10, "too short to be told from other text");
        let mut forms = vec![("plain", text.to_owned())];
        forms.push((
            "percent-encoded",
            url::form_urlencoded::byte_serialize(text.as_bytes()).collect(),
        ));
        forms.extend(forms_of(text.as_bytes()));
        let prefix = ["whsec_", "qk_"].iter().find_map(|prefix| text.strip_prefix(prefix));
        let bare = prefix.unwrap_or(text);
        forms.push(("plain without its prefix", bare.to_owned()));
        let decoded = [STANDARD, URL_SAFE, STANDARD_NO_PAD, URL_SAFE_NO_PAD];
        let decoded = decoded.iter().find_map(|engine| engine.decode(bare).ok());
        if let Some(bytes) = decoded.filter(|bytes| bytes.len() >= 16) {
            forms.extend(forms_of(&bytes));
        }
        Self { name: name.into(), forms }
    }

    /// A secret that is used as these bytes.
    pub fn bytes(name: impl Into<String>, bytes: &[u8]) -> Self {
        Self { name: name.into(), forms: forms_of(bytes) }
    }
}

fn forms_of(bytes: &[u8]) -> Vec<(&'static str, String)> {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let list: Vec<String> = bytes.iter().map(ToString::to_string).collect();
    let mut forms = vec![
        ("hex, upper case", hex.to_uppercase()),
        ("hex", hex),
        ("a list of bytes", list.join(", ")),
        ("a compact list of bytes", list.join(",")),
    ];
    // Base64 of something longer that contains it: one form for each offset, without the characters
    // that its neighbours have a part in.
    for offset in 0..3 {
        let shifted = [&vec![0; offset], bytes].concat();
        let (from, to) = ((offset * 8).div_ceil(6), shifted.len() * 8 / 6);
        forms.push(("base64", STANDARD.encode(&shifted)[from..to].to_owned()));
        forms.push(("base64url", URL_SAFE.encode(&shifted)[from..to].to_owned()));
    }
    forms
}

/// Which of the secrets the text holds, and how.
pub fn found(text: &str, hunted: &[Hunted]) -> Vec<String> {
    let mut found = Vec::new();
    for Hunted { name, forms } in hunted {
        for (form, shape) in forms {
            if let Some(at) = text.find(shape.as_str()) {
                let line = text[..at].lines().count();
                found.push(format!("{name}, {form}, in line {line}"));
            }
        }
    }
    found
}

#[test]
fn every_form_is_found_inside_other_text() {
    let secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let bytes = STANDARD.decode(&secret[6..]).unwrap();
    let hunted = [Hunted::text("secret", secret)];
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let inside = |bytes: &[u8]| [b"{\"a\":\"", bytes, b"\"}"].concat();
    let mut texts = vec![
        secret.to_owned(),
        secret[6..].to_owned(),
        format!("{:?}", bytes),
        format!("\\x{}", hex(secret.as_bytes())),
        hex(&bytes).to_uppercase(),
        URL_SAFE_NO_PAD.encode(&bytes),
        "token=whsec_C2FVsBQIhrscChlQIMV%2Bb5sSYspob7oD&x=1".to_owned(),
    ];
    for before in ["", "x", "xy"] {
        texts.push(STANDARD.encode(inside(&[before.as_bytes(), secret.as_bytes()].concat())));
        texts.push(URL_SAFE_NO_PAD.encode(inside(&[before.as_bytes(), &bytes].concat())));
    }
    for text in texts {
        assert_ne!(found(&format!("a\nb {text} c"), &hunted), [""; 0], "{text}");
    }
    let others = ["", "whsec_", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oX", &"00".repeat(99)];
    for text in others {
        assert_eq!(found(text, &hunted), [""; 0], "{text}");
    }
}

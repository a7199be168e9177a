//! What the third party wants to be answered, as data for the HTTP layer.

/// The answers that a profile asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answers {
    /// The answer to a webhook that is taken.
    pub ok: OkAnswer,
    /// The status code for a request whose sender is not proved: [`super::Rejection::code`].
    pub refused_code: u16,
    /// Whether `HEAD` is answered: 200 without a body, and nothing is read.
    pub head: bool,
}

/// The answer to a webhook that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OkAnswer {
    pub code: u16,
    /// `None`: the third party does not look at it.
    pub body: Option<String>,
}

impl OkAnswer {
    /// The type of the body.
    pub fn content_type(&self) -> Option<&'static str> {
        self.body.as_ref().map(|body| match serde_json::from_str::<serde_json::Value>(body) {
            Ok(_) => "application/json",
            Err(_) => "text/plain; charset=utf-8",
        })
    }
}

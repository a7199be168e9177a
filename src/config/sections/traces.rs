//! Where traces are sent.

use super::super::{
    settings::Settings,
    value::{BaseUrl, ratio},
};
use crate::telemetry::TraceSettings;

/// `QUARTET_TRACES__…`: where traces are sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Traces {
    /// An OTLP collector that accepts HTTP, or none for no traces.
    pub endpoint: Option<BaseUrl>,
    /// Share of the traces begun here that is sampled.
    pub sample_ratio: f64,
}

impl Traces {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            endpoint: settings.optional(
                "QUARTET_TRACES__ENDPOINT",
                BaseUrl::parse,
                "OTLP collector that accepts HTTP, such as `http://127.0.0.1:4318`; `/v1/traces` \
                 is appended unless present. Unset, no traces are sent",
            ),
            sample_ratio: settings.read(
                "QUARTET_TRACES__SAMPLE_RATIO",
                "1",
                ratio,
                "Share of the traces begun here that is sampled, 0 to 1. For a trace that a caller \
                 began, the caller's decision holds",
            ),
        }
    }

    /// How traces are exported; none without an endpoint.
    pub fn settings(&self) -> Option<TraceSettings> {
        const PATH: &str = "/v1/traces";
        let endpoint = self.endpoint.as_ref()?;
        let whole = endpoint.as_str().ends_with(PATH);
        let endpoint = if whole { endpoint.to_string() } else { endpoint.join(PATH) };
        Some(TraceSettings { endpoint, sample_ratio: self.sample_ratio })
    }
}

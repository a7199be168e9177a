//! Paths as the OpenAPI document writes them, with `{parameters}`.

/// A path whose segments are fixed or stand for a parameter.
#[derive(Debug, Clone)]
pub struct PathTemplate {
    /// `None` stands for a parameter.
    segments: Vec<Option<String>>,
}

impl PathTemplate {
    /// Reads a path such as `/v1/transactions/{id}`.
    pub fn new(path: &str) -> Self {
        let segments =
            path.split('/').map(|segment| (!segment.starts_with('{')).then(|| segment.to_owned()));
        Self { segments: segments.collect() }
    }

    /// Whether `path` is one of these.
    pub fn matches(&self, path: &str) -> bool {
        self.rest_of(path).is_some_and(|mut rest| rest.next().is_none())
    }

    /// Whether `path` is one of these, or below one.
    pub fn begins(&self, path: &str) -> bool {
        self.rest_of(path).is_some()
    }

    /// The segments of `path` after those of the template.
    fn rest_of<'a>(&self, path: &'a str) -> Option<std::str::Split<'a, char>> {
        let mut given = path.split('/');
        let begins = self.segments.iter().all(|segment| match (segment, given.next()) {
            (Some(fixed), Some(given)) => fixed == given,
            (None, Some(given)) => !given.is_empty(),
            (_, None) => false,
        });
        begins.then_some(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_take_one_segment_each() {
        let template = PathTemplate::new("/v1/transactions/{id}/events");
        assert!(template.matches("/v1/transactions/7/events"));
        for other in
            ["/v1/transactions//events", "/v1/transactions/7", "/v1/transactions/7/events/"]
        {
            assert!(!template.matches(other), "{other}");
        }
        assert!(template.begins("/v1/transactions/7/events/8"));
        assert!(!PathTemplate::new("/docs").begins("/documents"));
    }
}

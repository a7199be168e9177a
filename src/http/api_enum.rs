//! The domain's fixed words as parameters and fields of the API, documented as enums.

use std::borrow::Cow;

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef},
    types::{ParseError, ParseFromJSON, ParseFromParameter, ParseResult, ToJSON, Type},
};
use serde_json::Value;

use crate::domain::StringEnum;

/// One of the words of `T`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiEnum<T>(pub T);

impl<T: StringEnum> Type for ApiEnum<T> {
    const IS_REQUIRED: bool = true;

    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "word".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        let enum_items = T::ALL.iter().map(|word| Value::from(word.as_str())).collect();
        // `openapi::exact` makes it a schema of its own, by this title.
        let title = Some(T::NAME.to_owned());
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            enum_items,
            title,
            ..MetaSchema::new("string")
        }))
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(self.as_raw_value().into_iter())
    }
}

impl<T: StringEnum> ParseFromParameter for ApiEnum<T> {
    fn parse_from_parameter(value: &str) -> ParseResult<Self> {
        value.parse().map(Self).map_err(ParseError::custom)
    }
}

impl<T: StringEnum> ParseFromJSON for ApiEnum<T> {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        let text = value.as_ref().and_then(Value::as_str).unwrap_or_default();
        text.parse().map(Self).map_err(ParseError::custom)
    }
}

impl<T: StringEnum> ToJSON for ApiEnum<T> {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.as_str().into())
    }
}

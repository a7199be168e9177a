//! Webhooks of every kind, from the profile to the events.

use super::*;

mod support;
mod vectors;

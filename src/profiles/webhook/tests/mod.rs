//! Webhooks of every kind, from the profile to the events.

use super::*;

mod docs;
mod events;
mod faults;
mod keys;
mod message_signatures;
mod problems;
mod standard;
mod support;
mod tampering;
mod vectors;

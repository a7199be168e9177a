//! Third parties as data: what a profile says about one, and the pure code that goes by it.

pub mod webhook;

//! The operators' console: over HTTP without a browser, and in a real one.

mod accessibility;
mod browser;
pub mod data;
mod forms;
mod pages;
mod search;
mod sessions;
pub mod visitor;

//! `POST /v1/webhooks/third-party`, black-box.

mod duplicates;
mod outcomes;
mod rejections;
mod settling;
mod signatures;
mod wrong_bodies;

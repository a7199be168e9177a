//! Secrets: how they are kept, how each of them is replaced without a gap, and that none of them is
//! where it should not be.

mod encodings;
mod leaks;
mod rotation;
mod sealing;
mod sessions;

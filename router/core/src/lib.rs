//! What a router does with a message, without any I/O.
#![forbid(unsafe_code)]

pub mod append;

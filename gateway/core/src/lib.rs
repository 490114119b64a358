//! The rules of one gateway shard, without any I/O.
#![forbid(unsafe_code)]

pub mod event;

//! Placement: who gives out timestamps and tells clients where keys are. Either the real PD, which the store joins
//! ([`join`]), or, without one, the store itself ([`serve`]).

pub(crate) mod join;
pub(crate) mod serve;
mod tso;

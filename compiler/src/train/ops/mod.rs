//! The operations of networks in training.

pub(super) mod plain;

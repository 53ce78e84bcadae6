//! Tests that cross a crate live in `tests/tests`.

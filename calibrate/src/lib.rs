//! Data sets, observers, ranges and long-tail metrics.

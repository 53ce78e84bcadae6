//! Heap-free int8 runtime.

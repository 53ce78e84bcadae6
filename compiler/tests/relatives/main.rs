//! RIDE's relatives as their projects save them, with the descriptions in `examples/descriptions`: the float network against
//! PyTorch, then int8 end to end through the command line.
//!
//! `tests/data/relatives/make.py` computed the golden logits and says how the parameters are made up.

mod float;
mod int8;
mod material;
mod misfits;
#[path = "../npz/mod.rs"]
mod npz;
#[path = "../seeded/mod.rs"]
mod seeded;

const CLASSES: usize = 10;

//! Gradients, losses and whole networks.

mod net;

//! Choosing the thresholds of routers: what accuracy costs in experts, and which point of that curve to ship.
//!
//! Every image is run through all experts once. After that an operating point (one threshold a router) is a matter of
//! counting: the image stops behind the first router whose score does not ask for more, and is right if the mean of the
//! experts up to there is. [`front()`] finds the points that no other point beats in both accuracy and mean number of
//! experts, [`Limits::choose`] picks one, and [`patch()`] puts its thresholds into a finished artifact.
//!
//! Thresholds fit the images that they are chosen on, so these should be neither the training images, on which experts are
//! surer than they will ever be again, nor the test images. [`held_out()`] says how well a choice carries over.

mod axis;
mod collect;
mod front;
mod limits;
mod observations;
mod order;
mod patch;
mod scale;
#[cfg(test)]
mod tests;

pub use collect::{of_artifact, of_network};
pub use front::{EXACT_ROUTERS, Objective, front};
pub use limits::{HeldOut, Limits, held_out};
pub use observations::{Observation, Observations, Point};
pub use order::{Ordered, orders};
pub use patch::{patch, thresholds_of};
pub use scale::{Measure, Scale};

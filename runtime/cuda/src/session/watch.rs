//! Who looks on while operations run one by one: nobody, a probe, a clock.

use ride_runtime::exec::{Output, Probe};
use ride_runtime::model::PartId;
use ride_runtime::op::{Op, Step};

use super::Session;
use crate::Error;
use crate::driver::Event;

/// Watches operations that run one by one. `step` is `None` for combiner and router.
pub(super) trait Watch {
    fn before(&mut self, part: PartId, index: usize, step: Option<&Step>, router: bool);
    fn after(&mut self, session: &Session<'_>, part: PartId, index: usize, step: Option<&Step>) -> Result<(), Error>;
    fn routed(&mut self, router: usize, score: f32, proceed: bool);
}

impl Watch for () {
    fn before(&mut self, _: PartId, _: usize, _: Option<&Step>, _: bool) {}

    fn after(&mut self, _: &Session<'_>, _: PartId, _: usize, _: Option<&Step>) -> Result<(), Error> {
        Ok(())
    }

    fn routed(&mut self, _: usize, _: f32, _: bool) {}
}

/// A probe that gets every output.
pub(super) struct Watched<'p, P> {
    pub(super) probe: &'p mut P,
}

impl<P: Probe> Watch for Watched<'_, P> {
    fn before(&mut self, part: PartId, index: usize, step: Option<&Step>, router: bool) {
        match (step, part) {
            (Some(step), _) => self.probe.before(part, index, step),
            (None, PartId::Expert(i)) if router => self.probe.before_router(usize::from(i)),
            _ => {}
        }
    }

    fn after(&mut self, session: &Session<'_>, part: PartId, index: usize, step: Option<&Step>) -> Result<(), Error> {
        let Some(step) = step else { return Ok(()) };
        let copy = |plane: Option<(usize, usize)>| {
            let Some((at, len)) = plane else { return Ok(None) };
            let mut bytes = vec![0; len];
            session.arena.read(at, &mut bytes, &session.stream).map(|()| Some(bytes))
        };
        let [hi, lo] = step.op.writes();
        let (hi, lo) = (copy(hi)?.unwrap_or_default(), copy(lo)?);
        // Activations lie there as they are, whatever the artifact's layout is.
        self.probe.after(part, index, step, Output { hi: &hi, lo: lo.as_deref(), flip: 0 });
        debug_assert!(!matches!(step.op, Op::Head(_)) || lo.is_none());
        Ok(())
    }

    fn routed(&mut self, router: usize, score: f32, proceed: bool) {
        self.probe.routed(router, score, proceed);
    }
}

/// An event behind every operation.
pub(super) struct Times {
    pub(super) events: Vec<(PartId, usize, Event)>,
}

impl Watch for Times {
    fn before(&mut self, _: PartId, _: usize, _: Option<&Step>, _: bool) {}

    fn after(&mut self, session: &Session<'_>, part: PartId, index: usize, _: Option<&Step>) -> Result<(), Error> {
        let event = Event::new(&session.device)?;
        event.record(&session.stream)?;
        self.events.push((part, index, event));
        Ok(())
    }

    fn routed(&mut self, _: usize, _: f32, _: bool) {}
}

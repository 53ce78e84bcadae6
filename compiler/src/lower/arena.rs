//! Places buffers with known lifetimes in one arena.

/// A buffer: its size and the first and last step (inclusive) at which it is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Buffer {
    /// Bytes.
    pub(crate) len: usize,
    /// First step.
    pub(crate) from: usize,
    /// Last step.
    pub(crate) to: usize,
}

/// Where every buffer lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Offset of each buffer.
    pub(crate) offsets: Vec<usize>,
    /// Bytes of the arena.
    pub(crate) len: usize,
}

const ALIGN: usize = ride_runtime::format::ARENA_ALIGN;

/// Largest sum of sizes that are alive at the same step: no plan can do with less.
pub(crate) fn lower_bound(buffers: &[Buffer]) -> usize {
    let alive_at = |t: usize| buffers.iter().filter(|b| b.from <= t && t <= b.to).map(|b| b.len).sum();
    buffers.iter().map(|b| alive_at(b.from)).max().unwrap_or(0)
}

/// Places the buffers one after the other at the lowest offset where they meet no buffer of overlapping lifetime, in
/// several orders, and keeps the smallest result.
pub(crate) fn plan(buffers: &[Buffer]) -> Plan {
    let lifetime = |b: &Buffer| b.to - b.from;
    let mut best: Option<Plan> = None;
    type Key<'k> = &'k dyn Fn(&Buffer) -> (usize, usize);
    let by_size: Key<'_> = &|b| (b.len, lifetime(b));
    let by_lifetime: Key<'_> = &|b| (lifetime(b), b.len);
    let by_both: Key<'_> = &|b| (b.len * (lifetime(b) + 1), b.len);
    for key in [by_size, by_lifetime, by_both] {
        let mut order: Vec<usize> = (0..buffers.len()).collect();
        order.sort_by_key(|&i| (std::cmp::Reverse(key(&buffers[i])), i));
        let plan = place(buffers, &order);
        if best.as_ref().is_none_or(|b| plan.len < b.len) {
            best = Some(plan);
        }
    }
    best.unwrap_or(Plan { offsets: Vec::new(), len: 0 })
}

fn place(buffers: &[Buffer], order: &[usize]) -> Plan {
    let mut offsets = vec![0; buffers.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut len = 0;
    for &i in order {
        let b = buffers[i];
        let mut blocked: Vec<(usize, usize)> = placed
            .iter()
            .filter(|&&j| buffers[j].from <= b.to && b.from <= buffers[j].to)
            .map(|&j| (offsets[j], offsets[j] + buffers[j].len))
            .collect();
        blocked.sort_unstable();
        let mut at = 0;
        for (start, end) in blocked {
            if at + b.len <= start {
                break;
            }
            at = at.max(end.next_multiple_of(ALIGN));
        }
        offsets[i] = at;
        len = len.max(at + b.len);
        placed.push(i);
    }
    Plan { offsets, len: len.next_multiple_of(ALIGN) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(buffers: &[Buffer]) -> Plan {
        let plan = plan(buffers);
        for (i, a) in buffers.iter().enumerate() {
            assert!(plan.offsets[i] + a.len <= plan.len && plan.offsets[i].is_multiple_of(ALIGN));
            for (j, b) in buffers.iter().enumerate().skip(i + 1) {
                let together = a.from <= b.to && b.from <= a.to;
                let apart = plan.offsets[i] + a.len <= plan.offsets[j] || plan.offsets[j] + b.len <= plan.offsets[i];
                assert!(!together || apart, "{i} and {j} overlap");
            }
        }
        plan
    }

    #[test]
    fn buffers_alive_together_do_not_overlap() {
        let mut state = 7u32;
        let mut next = |n: u32| {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 8) % n
        };
        for _ in 0..50 {
            let buffers: Vec<Buffer> = (0..20)
                .map(|_| {
                    let from = next(30) as usize;
                    Buffer { len: 1 + next(5000) as usize, from, to: from + next(10) as usize }
                })
                .collect();
            let plan = check(&buffers);
            assert!(plan.len >= lower_bound(&buffers));
        }
    }

    #[test]
    fn ping_pong_needs_two_buffers() {
        let chain: Vec<Buffer> = (0..10).map(|i| Buffer { len: 1024, from: i, to: i + 1 }).collect();
        assert_eq!(check(&chain).len, 2048);
        assert_eq!(lower_bound(&chain), 2048);
    }
}

//! One instruction for the running lanes of a warp.

mod arithmetic;
mod memory;

use crate::decode::{Do, Instr};
use crate::fragment;
use crate::machine::Shared;
use crate::warp::{State, Warp};
use arithmetic::{
    bfe, bin16, bin32, bin64, cvt, dp4a, f, mul_wide, mul_wide16, predicates, prmt, selp32, selp64, setp, shift64,
    ternary, unary,
};
use memory::{atom_add, load, store, wmma_load, wmma_store};

/// What went wrong in which lane.
pub(crate) type Fault = (Option<usize>, String);

/// Runs an instruction; the caller has moved nothing yet.
pub(crate) fn step(w: &mut Warp, instr: &Instr, shared: &mut Shared<'_>) -> Result<(), Fault> {
    let all = w.mask;
    let guard = instr.guard.map_or(!0, |(p, negated)| if negated { !w.pred(p) } else { w.pred(p) });
    let active = all & guard;
    if let Do::Branch(target) = instr.action {
        if active == all {
            w.pc = target;
        } else if active == 0 {
            w.pc += 1;
        } else {
            w.diverge(active, target, w.pc + 1);
        }
        return Ok(());
    }
    if let Do::Exit = instr.action {
        w.exit(active);
        return Ok(());
    }
    if collective(&instr.action) {
        if active != all {
            return Err((None, "a guard before a warp-wide instruction".to_owned()));
        }
        match w.together() {
            None => return Err((None, "lanes of a warp wait at different warp-wide instructions".to_owned())),
            Some(false) => return Ok(()),
            Some(true) => {}
        }
        if w.live != !0 && !matches!(instr.action, Do::Barrier) {
            return Err((None, "a warp-wide instruction without all lanes".to_owned()));
        }
    }
    w.mask = active;
    let done = action(w, &instr.action, shared);
    w.mask = all;
    done?;
    w.pc += 1;
    Ok(())
}

fn collective(action: &Do) -> bool {
    matches!(
        action,
        Do::Shfl(..)
            | Do::Mma(..)
            | Do::WmmaLoad { .. }
            | Do::WmmaMma(..)
            | Do::WmmaStore { .. }
            | Do::Barrier
            | Do::WarpBarrier
    )
}

fn action(w: &mut Warp, action: &Do, shared: &mut Shared<'_>) -> Result<(), Fault> {
    match *action {
        Do::Mov32(d, a) => unary(w, d, a, |x| x),
        Do::Mov64(d, a) => {
            let x = w.get64(a);
            w.put64(d, |l| x[l]);
        }
        Do::Bin32(op, d, a, b) => bin32(op, w, d, a, b),
        Do::Bin16(op, signed, d, a, b) => bin16(op, signed, w, [d, a, b])?,
        Do::Bin64(op, d, a, b) => bin64(op, w, d, a, b)?,
        Do::Shift64(op, d, a, b) => shift64(op, w, d, a, b),
        Do::MulWide(signed, d, a, b) => mul_wide(signed, w, d, a, b),
        Do::MulWide16(signed, d, a, b) => mul_wide16(signed, w, d, a, b),
        Do::Mad(d, a, b, c) => ternary(w, [d, a, b, c], |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        Do::Fma(d, a, b, c) => ternary(w, [d, a, b, c], |a, b, c| f(a).mul_add(f(b), f(c)).to_bits()),
        Do::Dp4a(d, a, b, c) => ternary(w, [d, a, b, c], dp4a),
        Do::Prmt(d, a, b, c) => ternary(w, [d, a, b, c], prmt),
        Do::Bfe(signed, d, a, b, c) => ternary(w, [d, a, b, c], |a, b, c| bfe(signed, a, b, c)),
        Do::ShfR(d, a, b, c) => {
            ternary(w, [d, a, b, c], |a, b, c| ((u64::from(b) << 32 | u64::from(a)) >> (c & 31)) as u32);
        }
        Do::Clz64(d, a) => {
            let x = w.get64(a);
            w.put32(d, |l| x[l].leading_zeros());
        }
        Do::Rcp(d, a) => unary(w, d, a, |x| (1.0 / f(x)).to_bits()),
        Do::Setp(cmp, unordered, ty, p, a, b) => setp(w, (cmp, unordered, ty), p, a, b),
        Do::SetpPred(differ, p, a, b) => {
            let bits = w.pred(a) ^ w.pred(b);
            w.put_pred(p, if differ { bits } else { !bits });
        }
        Do::Selp32(d, a, b, p) => selp32(w, d, [a, b], p),
        Do::Selp64(d, a, b, p) => selp64(w, d, [a, b], p),
        Do::PredBin(op, d, a, b) => predicates(op, w, d, a, b)?,
        Do::PredNot(d, a) => w.put_pred(d, !w.pred(a)),
        Do::PredMov(d, a) => w.put_pred(d, w.pred(a)),
        Do::Cvt(to, from, d, a) => cvt(w, to, from, d, a),
        Do::Load(cell, wide, d, address) => load(w, shared, cell, (wide, d), address)?,
        Do::Store(cell, wide, a, address) => store(w, shared, cell, (wide, a), address)?,
        Do::AtomAdd(space, d, address, b) => atom_add(w, shared, space, (d, b), address)?,
        Do::Shfl(d, a, b) => {
            let (x, mask) = (w.get32(a), w.get32(b));
            w.put32(d, |l| x[l ^ mask[l] as usize & 31]);
        }
        Do::Mma(d, a, b, c) => {
            let sums = fragment::mma(a.map(|r| w.get32(r)), b.map(|r| w.get32(r)), c.map(|r| w.get32(r)));
            d.iter().zip(sums).for_each(|(d, sum)| w.r32[usize::from(*d)] = sum);
        }
        Do::WmmaMma(d, a, b, c) => {
            let sums = fragment::wmma(a.map(|r| w.get32(r)), b.map(|r| w.get32(r)), c.map(|r| w.get32(r)));
            d.iter().zip(sums).for_each(|(d, sum)| w.r32[usize::from(*d)] = sum);
        }
        Do::WmmaLoad { space, d, address, stride } => wmma_load(w, shared, space, d, (address, stride))?,
        Do::WmmaStore { a, address, stride } => wmma_store(w, shared, a, (address, stride))?,
        Do::Fence => shared.fence(),
        Do::Barrier => w.state = State::Waiting,
        Do::WarpBarrier => w.epoch += 1,
        Do::Branch(_) | Do::Exit => {}
    }
    Ok(())
}

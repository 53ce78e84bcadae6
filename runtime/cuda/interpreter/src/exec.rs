//! One instruction for the running lanes of a warp.

use crate::decode::{Address, Bin, Cell, Cmp, Do, Instr, Reg, Space, Ty};
use crate::fragment;
use crate::machine::Shared;
use crate::warp::{Lanes32, State, Warp, lanes};

/// What went wrong in which lane.
pub(crate) type Fault = (Option<usize>, String);

#[inline(always)]
fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

fn bin32(op: Bin, w: &mut Warp, d: Reg, a: Reg, b: Reg) {
    let (x, y) = (w.get32(a), w.get32(b));
    macro_rules! each {
        (|$a:ident, $b:ident| $e:expr) => {
            w.put32(d, |l| {
                let ($a, $b) = (x[l], y[l]);
                $e
            })
        };
    }
    match op {
        Bin::Add => each!(|a, b| a.wrapping_add(b)),
        Bin::Sub => each!(|a, b| a.wrapping_sub(b)),
        Bin::Mul => each!(|a, b| a.wrapping_mul(b)),
        Bin::And => each!(|a, b| a & b),
        Bin::Or => each!(|a, b| a | b),
        Bin::Xor => each!(|a, b| a ^ b),
        Bin::Shl => each!(|a, b| a.checked_shl(b).unwrap_or(0)),
        Bin::ShrU => each!(|a, b| a.checked_shr(b).unwrap_or(0)),
        Bin::ShrS => each!(|a, b| (a as i32 >> b.min(31)) as u32),
        Bin::MinS => each!(|a, b| (a as i32).min(b as i32) as u32),
        Bin::MaxS => each!(|a, b| (a as i32).max(b as i32) as u32),
        Bin::MinU => each!(|a, b| a.min(b)),
        Bin::MaxU => each!(|a, b| a.max(b)),
        Bin::DivU => each!(|a, b| a.checked_div(b).unwrap_or(!0)),
        Bin::RemU => each!(|a, b| a.checked_rem(b).unwrap_or(a)),
        Bin::FAdd => each!(|a, b| (f(a) + f(b)).to_bits()),
        Bin::FSub => each!(|a, b| (f(a) - f(b)).to_bits()),
        Bin::FMul => each!(|a, b| (f(a) * f(b)).to_bits()),
        Bin::FDiv => each!(|a, b| (f(a) / f(b)).to_bits()),
        Bin::FMax => each!(|a, b| maximum(f(a), f(b)).to_bits()),
        Bin::FMin => each!(|a, b| (-maximum(-f(a), -f(b))).to_bits()),
    }
}

/// The larger number; +0 is larger than -0, and a number than none.
fn maximum(a: f32, b: f32) -> f32 {
    if a.is_nan() || b > a || (a == b && a.is_sign_negative()) { b } else { a }
}

fn bin64(op: Bin, w: &mut Warp, d: Reg, a: Reg, b: Reg) -> Result<(), Fault> {
    let (x, y) = (w.get64(a), w.get64(b));
    macro_rules! each {
        (|$a:ident, $b:ident| $e:expr) => {
            w.put64(d, |l| {
                let ($a, $b) = (x[l], y[l]);
                $e
            })
        };
    }
    match op {
        Bin::Add => each!(|a, b| a.wrapping_add(b)),
        Bin::Sub => each!(|a, b| a.wrapping_sub(b)),
        Bin::Mul => each!(|a, b| a.wrapping_mul(b)),
        Bin::And => each!(|a, b| a & b),
        Bin::Or => each!(|a, b| a | b),
        Bin::Xor => each!(|a, b| a ^ b),
        Bin::MinS => each!(|a, b| (a as i64).min(b as i64) as u64),
        Bin::MaxS => each!(|a, b| (a as i64).max(b as i64) as u64),
        Bin::MinU => each!(|a, b| a.min(b)),
        Bin::MaxU => each!(|a, b| a.max(b)),
        other => return Err((None, format!("{other:?} of 64 bits is not known"))),
    }
    Ok(())
}

fn bin16(op: Bin, signed: bool, w: &mut Warp, regs: [Reg; 3]) -> Result<(), Fault> {
    let [d, a, b] = regs;
    let (x, y) = (w.get32(a), w.get32(b));
    let extend = |v: u32| if signed { v as u16 as i16 as i32 } else { i32::from(v as u16) };
    let g = |a: i32, b: i32, amount: u32| match op {
        Bin::Add => Some(a.wrapping_add(b)),
        Bin::Sub => Some(a.wrapping_sub(b)),
        Bin::Mul => Some(a.wrapping_mul(b)),
        Bin::And => Some(a & b),
        Bin::Or => Some(a | b),
        Bin::Xor => Some(a ^ b),
        Bin::Shl => Some(a.checked_shl(amount).unwrap_or(0)),
        Bin::ShrU | Bin::ShrS => Some(a >> amount.min(31)),
        Bin::MinS | Bin::MinU => Some(a.min(b)),
        Bin::MaxS | Bin::MaxU => Some(a.max(b)),
        _ => None,
    };
    if g(0, 0, 0).is_none() {
        return Err((None, format!("{op:?} of 16 bits is not known")));
    }
    w.put32(d, |l| g(extend(x[l]), extend(y[l]), y[l]).unwrap_or(0) as u16 as u32);
    Ok(())
}

fn ordering(cmp: Cmp, unordered: bool, order: Option<std::cmp::Ordering>) -> bool {
    let Some(order) = order else { return unordered };
    match cmp {
        Cmp::Eq => order.is_eq(),
        Cmp::Ne => order.is_ne(),
        Cmp::Lt => order.is_lt(),
        Cmp::Le => order.is_le(),
        Cmp::Gt => order.is_gt(),
        Cmp::Ge => order.is_ge(),
    }
}

fn setp(w: &mut Warp, (cmp, unordered, ty): (Cmp, bool, Ty), p: Reg, a: Reg, b: Reg) {
    let mut bits = 0;
    macro_rules! compare {
        ($get:ident, $t:ty, $convert:expr) => {{
            let (x, y) = (w.$get(a), w.$get(b));
            let convert: fn($t) -> _ = $convert;
            for l in 0..32 {
                bits |= u32::from(ordering(cmp, unordered, convert(x[l]).partial_cmp(&convert(y[l])))) << l;
            }
        }};
    }
    match ty {
        Ty::U16 => compare!(get32, u32, |v| v as u16),
        Ty::S16 => compare!(get32, u32, |v| v as i16),
        Ty::U32 => compare!(get32, u32, |v| v),
        Ty::S32 => compare!(get32, u32, |v| v as i32),
        Ty::F32 => compare!(get32, u32, f32::from_bits),
        Ty::U64 => compare!(get64, u64, |v| v),
        Ty::S64 => compare!(get64, u64, |v| v as i64),
    }
    w.put_pred(p, bits);
}

fn cvt(w: &mut Warp, to: Ty, from: Ty, d: Reg, a: Reg) {
    let wide: [u64; 32] = match from {
        Ty::U64 | Ty::S64 => w.get64(a),
        _ => w.get32(a).map(|v| match from {
            Ty::U16 => u64::from(v as u16),
            Ty::S16 => v as i16 as i64 as u64,
            Ty::S32 => v as i32 as i64 as u64,
            // Towards zero, saturating, 0 for no number: what Rust's cast does, too.
            Ty::F32 if to == Ty::U32 => u64::from(f(v) as u32),
            Ty::F32 if to == Ty::S32 => f(v) as i32 as i64 as u64,
            Ty::F32 if to == Ty::S64 => f(v) as i64 as u64,
            Ty::F32 => f(v) as u64,
            _ => u64::from(v),
        }),
    };
    match to {
        Ty::U64 | Ty::S64 => w.put64(d, |l| wide[l]),
        Ty::F32 if matches!(from, Ty::U16 | Ty::U32 | Ty::U64) => w.put32(d, |l| (wide[l] as f32).to_bits()),
        Ty::F32 => w.put32(d, |l| (wide[l] as i64 as f32).to_bits()),
        Ty::U16 | Ty::S16 => w.put32(d, |l| u32::from(wide[l] as u16)),
        Ty::U32 | Ty::S32 => w.put32(d, |l| wide[l] as u32),
    }
}

fn dp4a(x: u32, y: u32, acc: u32) -> u32 {
    let pairs = x.to_le_bytes().into_iter().zip(y.to_le_bytes());
    pairs.fold(acc, |acc, (x, y)| acc.wrapping_add((i32::from(x as i8) * i32::from(y as i8)) as u32))
}

fn prmt(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let pick = |i: u32| {
        let s = selector >> (4 * i) & 15;
        let byte = bytes[(s & 7) as usize];
        if s & 8 == 0 { byte } else { (byte as i8 >> 7) as u8 }
    };
    u32::from_le_bytes([pick(0), pick(1), pick(2), pick(3)])
}

fn bfe(signed: bool, value: u32, from: u32, len: u32) -> u32 {
    let (from, len) = (from & 255, len & 255);
    if len == 0 {
        return 0;
    }
    let wide = if signed { value as i32 as i64 } else { i64::from(value) };
    let moved = wide >> from.min(63);
    if len >= 32 {
        return moved as u32;
    }
    let kept = (moved as u64 & ((1 << len) - 1)) as u32;
    if signed { ((kept << (32 - len)) as i32 >> (32 - len)) as u32 } else { kept }
}

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
        Do::Mov32(d, a) => {
            let x = w.get32(a);
            w.put32(d, |l| x[l]);
        }
        Do::Mov64(d, a) => {
            let x = w.get64(a);
            w.put64(d, |l| x[l]);
        }
        Do::Bin32(op, d, a, b) => bin32(op, w, d, a, b),
        Do::Bin16(op, signed, d, a, b) => bin16(op, signed, w, [d, a, b])?,
        Do::Bin64(op, d, a, b) => bin64(op, w, d, a, b)?,
        Do::Shift64(op, d, a, b) => {
            let (x, y) = (w.get64(a), w.get32(b));
            w.put64(d, |l| match op {
                Bin::Shl => x[l].checked_shl(y[l]).unwrap_or(0),
                Bin::ShrU => x[l].checked_shr(y[l]).unwrap_or(0),
                _ => (x[l] as i64 >> y[l].min(63)) as u64,
            });
        }
        Do::MulWide(signed, d, a, b) => {
            let (x, y) = (w.get32(a), w.get32(b));
            if signed {
                w.put64(d, |l| (i64::from(x[l] as i32) * i64::from(y[l] as i32)) as u64);
            } else {
                w.put64(d, |l| u64::from(x[l]) * u64::from(y[l]));
            }
        }
        Do::MulWide16(signed, d, a, b) => {
            let (x, y) = (w.get32(a), w.get32(b));
            if signed {
                w.put32(d, |l| (i32::from(x[l] as i16) * i32::from(y[l] as i16)) as u32);
            } else {
                w.put32(d, |l| u32::from(x[l] as u16) * u32::from(y[l] as u16));
            }
        }
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
        Do::Rcp(d, a) => {
            let x = w.get32(a);
            w.put32(d, |l| (1.0 / f(x[l])).to_bits());
        }
        Do::Setp(cmp, unordered, ty, p, a, b) => setp(w, (cmp, unordered, ty), p, a, b),
        Do::SetpPred(differ, p, a, b) => {
            let bits = w.pred(a) ^ w.pred(b);
            w.put_pred(p, if differ { bits } else { !bits });
        }
        Do::Selp32(d, a, b, p) => {
            let (x, y, p) = (w.get32(a), w.get32(b), w.pred(p));
            w.put32(d, |l| if p >> l & 1 == 1 { x[l] } else { y[l] });
        }
        Do::Selp64(d, a, b, p) => {
            let (x, y, p) = (w.get64(a), w.get64(b), w.pred(p));
            w.put64(d, |l| if p >> l & 1 == 1 { x[l] } else { y[l] });
        }
        Do::PredBin(op, d, a, b) => {
            let (x, y) = (w.pred(a), w.pred(b));
            let bits = match op {
                Bin::And => x & y,
                Bin::Or => x | y,
                Bin::Xor => x ^ y,
                other => return Err((None, format!("{other:?} of predicates is not known"))),
            };
            w.put_pred(d, bits);
        }
        Do::PredNot(d, a) => w.put_pred(d, !w.pred(a)),
        Do::PredMov(d, a) => w.put_pred(d, w.pred(a)),
        Do::Cvt(to, from, d, a) => cvt(w, to, from, d, a),
        Do::Load(cell, wide, d, address) => load(w, shared, cell, (wide, d), address)?,
        Do::Store(cell, wide, a, address) => store(w, shared, cell, (wide, a), address)?,
        Do::AtomAdd(space, d, address, b) => {
            let add = w.get32(b);
            let cell = Cell { bytes: 4, signed: false, space, volatile: true };
            for lane in lanes(w.mask) {
                shared.reach(w, cell, address, (lane, false))?;
                let at = shared.reach(w, cell, address, (lane, true))?;
                let before = at.read(4) as u32;
                at.write(u64::from(before.wrapping_add(add[lane])), 4);
                w.r32[usize::from(d)][lane] = before;
            }
        }
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

fn ternary(w: &mut Warp, [d, a, b, c]: [Reg; 4], g: impl Fn(u32, u32, u32) -> u32) {
    let (x, y, z) = (w.get32(a), w.get32(b), w.get32(c));
    w.put32(d, |l| g(x[l], y[l], z[l]));
}

fn load(
    w: &mut Warp,
    shared: &mut Shared<'_>,
    cell: Cell,
    (wide, d): (bool, Reg),
    address: Address,
) -> Result<(), Fault> {
    for lane in lanes(w.mask) {
        let bits = shared.reach(w, cell, address, (lane, false))?.read(cell.bytes);
        let value = match (cell.signed, cell.bytes) {
            (true, 1) => bits as i8 as i64 as u64,
            (true, 2) => bits as i16 as i64 as u64,
            _ => bits,
        };
        if wide {
            w.r64[usize::from(d)][lane] = value;
        } else {
            w.r32[usize::from(d)][lane] = value as u32;
        }
    }
    Ok(())
}

fn store(
    w: &mut Warp,
    shared: &mut Shared<'_>,
    cell: Cell,
    (wide, a): (bool, Reg),
    address: Address,
) -> Result<(), Fault> {
    for lane in lanes(w.mask) {
        let value = if wide { w.r64[usize::from(a)][lane] } else { u64::from(w.r32[usize::from(a)][lane]) };
        shared.reach(w, cell, address, (lane, true))?.write(value, cell.bytes);
    }
    Ok(())
}

/// All lanes name the same tile of 16 rows.
fn tile(w: &Warp, address: Address, stride: Reg) -> Result<(u64, u64), Fault> {
    let base: [u64; 32] = if address.wide { w.get64(address.base) } else { w.get32(address.base).map(u64::from) };
    let stride: Lanes32 = w.get32(stride);
    if base.iter().any(|b| *b != base[0]) || stride.iter().any(|s| *s != stride[0]) {
        return Err((None, "lanes name different matrices".to_owned()));
    }
    Ok((base[0].wrapping_add_signed(address.offset), u64::from(stride[0])))
}

fn wmma_load(
    w: &mut Warp,
    shared: &mut Shared<'_>,
    space: Space,
    d: [Reg; 2],
    (address, stride): (Address, Reg),
) -> Result<(), Fault> {
    let (base, stride) = tile(w, address, stride)?;
    if !base.is_multiple_of(32) || !stride.is_multiple_of(16) {
        return Err((None, "a matrix is not aligned to 32 bytes or its rows not to 16".to_owned()));
    }
    for lane in 0..32 {
        for (i, d) in d.iter().enumerate() {
            let at = fragment::wmma_part(lane) as u64 * 8 + 4 * i as u64;
            let place = shared.reach_warp(w, space, base + at / 16 * stride + at % 16, false)?;
            w.r32[usize::from(*d)][lane] = place.read(4) as u32;
        }
    }
    Ok(())
}

fn wmma_store(
    w: &mut Warp,
    shared: &mut Shared<'_>,
    a: [Reg; 8],
    (address, stride): (Address, Reg),
) -> Result<(), Fault> {
    let (base, stride) = tile(w, address, stride)?;
    if !base.is_multiple_of(32) || !stride.is_multiple_of(4) {
        return Err((None, "a matrix is not aligned to 32 bytes or its rows not to 16".to_owned()));
    }
    for lane in 0..32 {
        for (i, a) in a.iter().enumerate() {
            let at = fragment::wmma_part(lane) as u64 * 8 + i as u64;
            let place = shared.reach_warp(w, Space::Shared, base + 4 * (at / 16 * stride + at % 16), true)?;
            place.write(u64::from(w.r32[usize::from(*a)][lane]), 4);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both operands signed, sums that wrap: PTX ISA, "dp4a" with `.s32.s32`.
    #[test]
    fn dot_products_are_signed_and_wrap() {
        assert_eq!(dp4a(0x8080_8080, 0x7F7F_7F7F, 0) as i32, 4 * -128 * 127);
        assert_eq!(dp4a(0x8080_8080, 0x8080_8080, 5), 4 * 128 * 128 + 5);
        assert_eq!(dp4a(0x0102_03FF, 0x0506_0701, 100) as i32, 5 + 12 + 21 - 1 + 100);
        assert_eq!(dp4a(0x0000_0001, 0x0000_0001, i32::MAX as u32) as i32, i32::MIN);
    }

    /// PTX ISA, "prmt": four selectors of a byte each, whose highest bit asks for copies of the byte's sign.
    #[test]
    fn bytes_are_picked_by_selectors() {
        assert_eq!(prmt(0x3322_1100, 0x7766_5544, 0x7440), 0x7744_4400);
        assert_eq!(prmt(0x0000_0080, 0x0000_007F, 0x840C), 0x0000_8000 | 0xFF << 24 | 0x7F << 16);
    }

    #[test]
    fn bit_fields_are_extended_by_their_own_sign() {
        assert_eq!(bfe(false, 0xF0, 4, 4), 15);
        assert_eq!(bfe(true, 0xF0, 4, 4), u32::MAX);
        assert_eq!(bfe(true, 0x70, 4, 4), 7);
        assert_eq!((bfe(false, 9, 0, 0), bfe(false, 0x8000_0000, 31, 8)), (0, 1));
    }
}

//! What instructions compute of registers.

use super::Fault;
use crate::decode::{Bin, Cmp, Reg, Ty};
use crate::warp::Warp;

#[inline(always)]
pub(super) fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

pub(super) fn bin32(op: Bin, w: &mut Warp, d: Reg, a: Reg, b: Reg) {
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

pub(super) fn bin64(op: Bin, w: &mut Warp, d: Reg, a: Reg, b: Reg) -> Result<(), Fault> {
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

pub(super) fn bin16(op: Bin, signed: bool, w: &mut Warp, regs: [Reg; 3]) -> Result<(), Fault> {
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

pub(super) fn setp(w: &mut Warp, (cmp, unordered, ty): (Cmp, bool, Ty), p: Reg, a: Reg, b: Reg) {
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

pub(super) fn cvt(w: &mut Warp, to: Ty, from: Ty, d: Reg, a: Reg) {
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

pub(super) fn dp4a(x: u32, y: u32, acc: u32) -> u32 {
    let pairs = x.to_le_bytes().into_iter().zip(y.to_le_bytes());
    pairs.fold(acc, |acc, (x, y)| acc.wrapping_add((i32::from(x as i8) * i32::from(y as i8)) as u32))
}

pub(super) fn prmt(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let pick = |i: u32| {
        let s = selector >> (4 * i) & 15;
        let byte = bytes[(s & 7) as usize];
        if s & 8 == 0 { byte } else { (byte as i8 >> 7) as u8 }
    };
    u32::from_le_bytes([pick(0), pick(1), pick(2), pick(3)])
}

pub(super) fn bfe(signed: bool, value: u32, from: u32, len: u32) -> u32 {
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

pub(super) fn unary(w: &mut Warp, d: Reg, a: Reg, g: impl Fn(u32) -> u32) {
    let x = w.get32(a);
    w.put32(d, |l| g(x[l]));
}

pub(super) fn ternary(w: &mut Warp, [d, a, b, c]: [Reg; 4], g: impl Fn(u32, u32, u32) -> u32) {
    let (x, y, z) = (w.get32(a), w.get32(b), w.get32(c));
    w.put32(d, |l| g(x[l], y[l], z[l]));
}

pub(super) fn shift64(op: Bin, w: &mut Warp, d: Reg, a: Reg, b: Reg) {
    let (x, y) = (w.get64(a), w.get32(b));
    w.put64(d, |l| match op {
        Bin::Shl => x[l].checked_shl(y[l]).unwrap_or(0),
        Bin::ShrU => x[l].checked_shr(y[l]).unwrap_or(0),
        _ => (x[l] as i64 >> y[l].min(63)) as u64,
    });
}

/// Products of 32 bits in 64.
pub(super) fn mul_wide(signed: bool, w: &mut Warp, d: Reg, a: Reg, b: Reg) {
    let (x, y) = (w.get32(a), w.get32(b));
    if signed {
        w.put64(d, |l| (i64::from(x[l] as i32) * i64::from(y[l] as i32)) as u64);
    } else {
        w.put64(d, |l| u64::from(x[l]) * u64::from(y[l]));
    }
}

/// Products of 16 bits in 32.
pub(super) fn mul_wide16(signed: bool, w: &mut Warp, d: Reg, a: Reg, b: Reg) {
    let (x, y) = (w.get32(a), w.get32(b));
    if signed {
        w.put32(d, |l| (i32::from(x[l] as i16) * i32::from(y[l] as i16)) as u32);
    } else {
        w.put32(d, |l| u32::from(x[l] as u16) * u32::from(y[l] as u16));
    }
}

pub(super) fn selp32(w: &mut Warp, d: Reg, [a, b]: [Reg; 2], p: Reg) {
    let (x, y, p) = (w.get32(a), w.get32(b), w.pred(p));
    w.put32(d, |l| if p >> l & 1 == 1 { x[l] } else { y[l] });
}

pub(super) fn selp64(w: &mut Warp, d: Reg, [a, b]: [Reg; 2], p: Reg) {
    let (x, y, p) = (w.get64(a), w.get64(b), w.pred(p));
    w.put64(d, |l| if p >> l & 1 == 1 { x[l] } else { y[l] });
}

pub(super) fn predicates(op: Bin, w: &mut Warp, d: Reg, a: Reg, b: Reg) -> Result<(), Fault> {
    let (x, y) = (w.pred(a), w.pred(b));
    let bits = match op {
        Bin::And => x & y,
        Bin::Or => x | y,
        Bin::Xor => x ^ y,
        other => return Err((None, format!("{other:?} of predicates is not known"))),
    };
    w.put_pred(d, bits);
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

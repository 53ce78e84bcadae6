//! Instructions that reach into memory.

use super::Fault;
use crate::decode::{Address, Cell, Reg, Space};
use crate::fragment;
use crate::machine::Shared;
use crate::warp::{Lanes32, Warp, lanes};

pub(super) fn load(
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

pub(super) fn store(
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

pub(super) fn atom_add(
    w: &mut Warp,
    shared: &mut Shared<'_>,
    space: Space,
    (d, b): (Reg, Reg),
    address: Address,
) -> Result<(), Fault> {
    let add = w.get32(b);
    let cell = Cell { bytes: 4, signed: false, space, volatile: true };
    for lane in lanes(w.mask) {
        shared.reach(w, cell, address, (lane, false))?;
        let at = shared.reach(w, cell, address, (lane, true))?;
        let before = at.read(4) as u32;
        at.write(u64::from(before.wrapping_add(add[lane])), 4);
        w.r32[usize::from(d)][lane] = before;
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

pub(super) fn wmma_load(
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

pub(super) fn wmma_store(
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

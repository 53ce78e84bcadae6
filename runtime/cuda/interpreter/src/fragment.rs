//! Fragments of tensor-core instructions: which lane holds what.

/// Row-major int8 A (16 x 32), column-major B (as 8 rows of 32) and the sums (16 x 8) of `mma.m16n8k32`, taken out of and put
/// into registers as the PTX ISA documents them ("Matrix Fragments for mma.m16n8k32").
pub(crate) fn mma(a: [[u32; 32]; 4], b: [[u32; 32]; 2], c: [[u32; 32]; 4]) -> [[u32; 32]; 4] {
    let (mut left, mut right) = ([[0i32; 32]; 16], [[0i32; 32]; 8]);
    for lane in 0..32 {
        let (group, member) = (lane / 4, lane % 4);
        for i in 0..16 {
            let row = if i % 8 < 4 { group } else { group + 8 };
            let column = member * 4 + i % 4 + if i < 8 { 0 } else { 16 };
            left[row][column] = i32::from(a[i / 4][lane].to_le_bytes()[i % 4] as i8);
        }
        for i in 0..8 {
            let k = member * 4 + i % 4 + if i < 4 { 0 } else { 16 };
            right[group][k] = i32::from(b[i / 4][lane].to_le_bytes()[i % 4] as i8);
        }
    }
    let mut d = c;
    for lane in 0..32 {
        let (group, member) = (lane / 4, lane % 4);
        for (i, d) in d.iter_mut().enumerate() {
            let (row, column) = (group + if i < 2 { 0 } else { 8 }, member * 2 + i % 2);
            let dot: i32 = left[row].iter().zip(&right[column]).map(|(x, w)| x * w).sum();
            d[lane] = d[lane].wrapping_add(dot as u32);
        }
    }
    d
}

/// Which eighth of a `wmma` tile a lane holds. Hardware does not tell; this is no order that anything could rely on.
pub(crate) fn wmma_part(lane: usize) -> usize {
    (lane * 11 + 5) % 32
}

/// Sums of `wmma.m16n16k16` on fragments in the order of [`wmma_part`]: A row-major, B column-major.
pub(crate) fn wmma(a: [[u32; 32]; 2], b: [[u32; 32]; 2], c: [[u32; 32]; 8]) -> [[u32; 32]; 8] {
    let (mut left, mut right) = ([0i32; 256], [0i32; 256]);
    for lane in 0..32 {
        for i in 0..8 {
            let at = wmma_part(lane) * 8 + i;
            left[at] = i32::from(a[i / 4][lane].to_le_bytes()[i % 4] as i8);
            right[at] = i32::from(b[i / 4][lane].to_le_bytes()[i % 4] as i8);
        }
    }
    let mut d = c;
    for lane in 0..32 {
        for (i, d) in d.iter_mut().enumerate() {
            let at = wmma_part(lane) * 8 + i;
            let (row, column) = (at / 16, at % 16);
            let dot: i32 = (0..16).map(|k| left[row * 16 + k] * right[column * 16 + k]).sum();
            d[lane] = d[lane].wrapping_add(dot as u32);
        }
    }
    d
}

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

#[cfg(test)]
mod tests {
    use super::*;

    /// One step of a small generator.
    fn random(state: &mut u32) -> u8 {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*state >> 24) as u8
    }

    /// Coordinates of the `i`-th element that a lane holds, written down a second time from the PTX ISA, section "Matrix
    /// Fragments for mma.m16n8k32", for `.s8`: (row, column) of A, (row, column) of B, (row, column) of C and D.
    mod isa {
        pub(super) fn a(lane: usize, i: usize) -> (usize, usize) {
            let (group_id, thread_id_in_group) = (lane >> 2, lane % 4);
            let row = if i < 4 || (8..12).contains(&i) { group_id } else { group_id + 8 };
            let column = thread_id_in_group * 4 + (i & 3);
            (row, if i < 8 { column } else { column + 16 })
        }

        pub(super) fn b(lane: usize, i: usize) -> (usize, usize) {
            let row = lane % 4 * 4 + (i & 3);
            (if i < 4 { row } else { row + 16 }, lane >> 2)
        }

        pub(super) fn c(lane: usize, i: usize) -> (usize, usize) {
            let row = lane >> 2;
            (if i < 2 { row } else { row + 8 }, lane % 4 * 2 + (i & 1))
        }
    }

    /// The same as strides of the lane's and the element's digits, first digit first, into a matrix whose first coordinate
    /// (m of A and C, n of B) is the fastest: how CUTLASS describes this instruction (its `SM80_16x8x32_S32S8S8S32_TN`).
    fn strided(lane: usize, i: usize, lanes: [usize; 2], elements: &[(usize, usize)]) -> usize {
        let mut rest = i;
        let digits = elements.iter().map(|&(size, stride)| {
            let digit = rest % size;
            rest /= size;
            digit * stride
        });
        lane % 4 * lanes[0] + lane / 4 * lanes[1] + digits.sum::<usize>()
    }

    #[test]
    fn two_descriptions_of_the_fragments_agree() {
        for lane in 0..32 {
            for i in 0..16 {
                let (row, column) = isa::a(lane, i);
                assert_eq!(row + 16 * column, strided(lane, i, [64, 1], &[(4, 16), (2, 8), (2, 256)]), "A {lane} {i}");
            }
            for i in 0..8 {
                let (k, n) = isa::b(lane, i);
                assert_eq!(n + 8 * k, strided(lane, i, [32, 1], &[(4, 8), (2, 128)]), "B {lane} {i}");
            }
            for i in 0..4 {
                let (row, column) = isa::c(lane, i);
                assert_eq!(row + 16 * column, strided(lane, i, [32, 1], &[(2, 16), (2, 8)]), "C {lane} {i}");
            }
        }
    }

    /// Products of signed bytes, the extreme ones among them, summed up to accumulators that wrap.
    #[test]
    fn lanes_hold_what_the_manual_says() {
        let mut state = 7;
        for round in 0..20 {
            let mut byte = || match round {
                0 => 0x80,
                1 => 0x7F,
                _ => random(&mut state),
            };
            let left: [[i8; 32]; 16] = std::array::from_fn(|_| std::array::from_fn(|_| byte() as i8));
            let right: [[i8; 8]; 32] = std::array::from_fn(|_| std::array::from_fn(|_| byte() as i8));
            let before = if round % 3 == 0 { i32::MAX } else { -round };
            let pack = |at: &dyn Fn(usize) -> i8| u32::from_le_bytes(std::array::from_fn(|i| at(i) as u8));
            let a = std::array::from_fn(|r| {
                std::array::from_fn(|lane| {
                    pack(&|i| {
                        let (row, column) = isa::a(lane, 4 * r + i);
                        left[row][column]
                    })
                })
            });
            let b = std::array::from_fn(|r| {
                std::array::from_fn(|lane| {
                    pack(&|i| {
                        let (k, n) = isa::b(lane, 4 * r + i);
                        right[k][n]
                    })
                })
            });
            let d = mma(a, b, [[before as u32; 32]; 4]);
            for lane in 0..32 {
                for (i, d) in d.iter().enumerate() {
                    let (row, column) = isa::c(lane, i);
                    let dot: i32 = (0..32).map(|k| i32::from(left[row][k]) * i32::from(right[k][column])).sum();
                    assert_eq!(d[lane] as i32, before.wrapping_add(dot), "round {round}, lane {lane}, register {i}");
                }
            }
        }
    }

    /// Nobody may rely on where `wmma` puts elements, but every element has one place.
    #[test]
    fn parts_of_opaque_fragments_are_a_permutation() {
        let mut parts: Vec<usize> = (0..32).map(wmma_part).collect();
        parts.sort_unstable();
        assert!(parts.into_iter().eq(0..32));
    }
}

// The arithmetic law: the same functions as the CPU runtime's `arith`.
#pragma once
#include "op.h"

INLINE i32 sat16(i32 v) { return clamp(v, -32768, 32767); }

INLINE i32 requantize(i32 acc, i32 multiplier, u32 right_shift)
{
    i64 sum = (i64)acc * multiplier + (1ll << (right_shift - 1)) >> right_shift;
    return sum < -32768 ? -32768 : sum > 32767 ? 32767 : (i32)sum;
}

INLINE i32 add_narrow(i32 base, i32 value) { return sat16(base + value); }
INLINE i32 add_wide(i32 base, i32 value) { return sat16(sat16(base + value) + value); }
INLINE i32 add_raw(i32 zero, i32 raw, i32 value) { return add_wide(zero, sat16(raw + value)); }
INLINE i32 join(u8 hi, u8 lo) { return (i32)(i8)hi * 256 + lo; }

// The value at `at` of an activation.
INLINE i32 value_at(const u8 *arena, u32 hi, u32 lo, bool wide, u32 at)
{
    u8 high = arena[hi + at];
    return wide ? join(high, arena[lo + at]) : (i32)(i8)high;
}

INLINE void put_value(u8 *arena, const Op &op, u32 at, i32 value)
{
    if (op.flags & WIDE) {
        arena[op.out_hi + at] = (u8)(value >> 8);
        arena[op.out_lo + at] = (u8)value;
    } else {
        arena[op.out_hi + at] = (u8)value;
    }
}

// The residual's bytes, which lie where an output goes. A thread waits for every load that stands behind a store or a branch of
// its own, so that those of all its outputs belong before, without branches.
struct Before {
    i32 hi;
    u32 lo;
};

// Of an output that exists; bytes that mean nothing otherwise, and where nothing is added.
INLINE Before before_of(const Program &p, const Op &op, u32 at, bool exists)
{
    bool read = exists & (op.flags & ACCUMULATE) != 0;
    const u8 *hi = read ? p.arena + op.out_hi + at : p.constants;
    const u8 *lo = read & (op.flags & WIDE) != 0 ? p.arena + op.out_lo + at : p.constants;
    Before before = {(i8)*hi, *lo};
    return before;
}

// Requantizes an accumulator without its bias, adds it to the zero point or the residual and stores it.
INLINE void finish(const Op &op, const Param &param, u8 *arena, u32 at, i32 acc, const Before &before)
{
    i32 value = requantize((i32)((u32)acc + (u32)param.bias), param.multiplier, (u32)param.right_shift);
    bool wide = op.flags & WIDE, residual = op.flags & ACCUMULATE;
    i32 base = !residual ? op.zero : wide ? before.hi * 256 + (i32)before.lo : before.hi;
    i32 sum;
    if (op.flags & RAW)
        sum = residual ? add_raw(op.zero, base, value) : value;
    else
        sum = wide ? add_wide(base, value) : add_narrow(base, value);
    put_value(arena, op, at, clamp(sum, op.min, op.max));
}

// The largest integer whose square is not above `n`.
INLINE u64 integer_root(u64 n)
{
    u64 rest = n, root = 0, bit = 1ull << 62;
#pragma unroll 1
    while (bit) {
        u64 next = root >> 1;
        if (rest >= root + bit) {
            rest -= root + bit;
            root = next + bit;
        } else {
            root = next;
        }
        bit >>= 2;
    }
    return root;
}

INLINE float inverse_norm(u64 squares)
{
    if (!squares)
        return 0.0f;
    u32 up = (u32)__builtin_clzll(squares) & ~1u;
    float root = (float)integer_root(squares << up);
    return (float)(1ull << (up / 2)) / root;
}

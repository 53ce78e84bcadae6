// Everything between convolutions and routers.
#pragma once
#include "law.h"

INLINE void load_image(const Program &p, const Op &op)
{
    u32 length = op.in_h * op.in_w * op.in_c;
    for (u32 i = grid_thread(); i < length; i += grid_threads())
        p.arena[op.out_hi + i] = p.image[i] ^ 0x80;
}

// Option-A shortcut: every `stride`-th pixel, rescaled, between channels of zeros.
INLINE void shortcut(const Program &p, const Op &op)
{
    bool wide = op.flags & WIDE;
    u32 length = op.out_h * op.out_w * op.out_c;
#pragma unroll 1
    for (u32 i = grid_thread(); i < length; i += grid_threads()) {
        u32 pixel = i / op.out_c, channel = i - pixel * op.out_c - op.before;
        u32 y = pixel / op.out_w, x = pixel - y * op.out_w;
        i32 sum = op.zero;
        // Channels before the input's wrap around to large numbers.
        if (channel < op.in_c) {
            u32 from = (y * op.stride * op.in_w + x * op.stride) * op.in_c + channel;
            i32 v = value_at(p.arena, op.source_hi, op.source_lo, wide, from);
            i32 value = requantize(v - op.in_zero, op.multiplier, op.right_shift);
            sum = wide ? add_wide(op.zero, value) : add_narrow(op.zero, value);
        }
        put_value(p.arena, op, i, clamp(sum, op.min, op.max));
    }
}

INLINE void max_pool(const Program &p, const Op &op)
{
    bool wide = op.flags & WIDE;
    u32 length = op.out_h * op.out_w * op.out_c;
#pragma unroll 1
    for (u32 i = grid_thread(); i < length; i += grid_threads()) {
        u32 pixel = i / op.out_c, channel = i - pixel * op.out_c;
        u32 row = pixel / op.out_w, column = pixel - row * op.out_w;
        i32 top = (i32)(row * op.stride) - (i32)op.padding, left = (i32)(column * op.stride) - (i32)op.padding;
        i32 best = -32768;
        // Four places at a time, so that their loads are under way together. Behind the last place it counts once more, and beyond
        // the border the next one inside does: both are in the window, so no maximum changes.
        u32 last = op.kernel * op.kernel - 1;
#pragma unroll 1
        for (u32 first = 0; first <= last; first += 4) {
            i32 v[4];
#pragma unroll
            for (u32 j = 0; j < 4; ++j) {
                u32 tap = min_u32(first + j, last), dy = tap / op.kernel, dx = tap - dy * op.kernel;
                u32 y = (u32)clamp(top + (i32)dy, 0, (i32)op.in_h - 1), x = (u32)clamp(left + (i32)dx, 0, (i32)op.in_w - 1);
                v[j] = value_at(p.arena, op.source_hi, op.source_lo, wide, (y * op.in_w + x) * op.in_c + channel);
            }
#pragma unroll
            for (u32 j = 0; j < 4; ++j)
                best = v[j] > best ? v[j] : best;
        }
        put_value(p.arena, op, i, best);
    }
}

// Sum over the block of squares of all features; the value counts in thread 0.
INLINE u64 sum_of_squares(const i16 *feature, u32 channels)
{
    __shared__ u64 partial[WARPS];
    u64 squares = 0;
    for (u32 c = thread(); c < channels; c += BLOCK)
        squares += (u64)((i64)feature[c] * feature[c]);
    squares = warp_sum64(squares);
    if (lane() == 0)
        partial[warp()] = squares;
    block_barrier();
    u64 sum = 0;
    if (thread() == 0)
        for (u32 w = 0; w < WARPS; ++w)
            sum += partial[w];
    return sum;
}

// Whether this block is the last of the grid to come here. What all blocks wrote before is visible to it.
INLINE bool last_block(u32 *arrived)
{
    __shared__ u32 last;
    block_barrier();
    if (thread() == 0) {
        fence();
        last = atomic_add(arrived, 1) == blocks() - 1;
        fence();
        if (last)
            store_volatile(arrived, 0);
    }
    block_barrier();
    return last;
}

// Global average pooling; the block that is done last computes the norm.
INLINE void pool(const Program &p, const Op &op)
{
    bool wide = op.flags & WIDE;
    u32 pixels = op.in_h;
    i16 *feature = (i16 *)(p.arena + op.out_hi);
#pragma unroll 1
    for (u32 c = grid_thread(); c < op.in_c; c += grid_threads()) {
        i32 sum = 0;
#pragma unroll 8
        for (u32 i = 0; i < pixels; ++i)
            sum += value_at(p.arena, op.source_hi, op.source_lo, wide, i * op.in_c + c) - op.zero;
        i64 rounding = op.right_shift ? 1ll << (op.right_shift - 1) : 0;
        i64 mean = (i64)sum + rounding >> op.right_shift;
        feature[c] = (i16)(mean < -32768 ? -32768 : mean > 32767 ? 32767 : mean);
    }
    if (!last_block(p.control + POOLED))
        return;
    u64 squares = sum_of_squares(feature, op.in_c);
    if (thread() == 0) {
        u32 even = op.in_c + (op.in_c & 1);
        if (even != op.in_c)
            feature[op.in_c] = 0;
        *(float *)(feature + even) = inverse_norm(squares);
    }
}

// A dense layer, as heads and routers have it.
struct Dense {
    const i16 *feature;
    const i8 *weights;
    const float *params;
    u32 features, outputs;
    bool normalize;
};

INLINE Dense dense_of(const Program &p, const Op &op, u32 feature)
{
    Dense d;
    d.feature = (const i16 *)(p.arena + feature);
    d.weights = constants<i8>(p, op.weights);
    d.params = constants<float>(p, op.params);
    d.features = op.features;
    d.outputs = op.outputs;
    d.normalize = op.flags & NORMALIZE;
    return d;
}

INLINE float norm_of(const Dense &d) { return *(const float *)(d.feature + (d.features + (d.features & 1))); }

// Sum of the products of four weights with four features.
INLINE i32 products(u32 weights, u32 first, u32 second)
{
    i32 sum = bits_of(weights, 0, 8) * bits_of(first, 0, 16) + bits_of(weights, 8, 8) * bits_of(first, 16, 16);
    return sum + bits_of(weights, 16, 8) * bits_of(second, 0, 16) + bits_of(weights, 24, 8) * bits_of(second, 16, 16);
}

// Output `j`, computed by a warp; the value counts in lane 0. Four binary32 operations, in the law's order. Rows of weights are
// padded to fours with zeros, which meet whatever lies behind the features.
INLINE float dense_output(const Dense &d, u32 j)
{
    u32 fours = d.features + 3 >> 2;
    const u32 *weights = (const u32 *)d.weights + j * fours, *feature = (const u32 *)d.feature;
    i32 dot = 0;
    // Four loads of each at a time. Those behind the row's end count nothing.
#pragma unroll 1
    for (u32 first = lane(); first < fours; first += 128) {
        u32 w[4], f[4][2];
#pragma unroll
        for (u32 n = 0; n < 4; ++n) {
            u32 k = min_u32(first + 32 * n, fours - 1);
            w[n] = weights[k];
            f[n][0] = feature[2 * k];
            f[n][1] = feature[2 * k + 1];
        }
#pragma unroll
        for (u32 n = 0; n < 4; ++n)
            dot += products(first + 32 * n < fours ? w[n] : 0, f[n][0], f[n][1]);
    }
    dot = warp_sum(dot);
    float norm = d.normalize ? norm_of(d) : 1.0f;
    return ((float)dot * d.params[j]) * norm + d.params[d.outputs + j];
}

INLINE void head(const Program &p, const Op &op)
{
    Dense d = dense_of(p, op, op.source_hi);
    float *out = (float *)(p.arena + op.out_hi);
    bool fine = op.flags & FINE;
    u32 classes = fine ? d.outputs / 2 : d.outputs;
#pragma unroll 1
    for (u32 j = grid_warp(); j < classes; j += grid_warps()) {
        float value = dense_output(d, j);
        if (fine)
            value = value + dense_output(d, classes + j);
        if (lane() == 0)
            out[j] = value;
    }
}

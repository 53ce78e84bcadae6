// Convolutions on tensor cores with `mma.sync.m16n8k32`: a warp computes 16 PIXELS x 8 CHANNELS outputs, straight from
// memory to fragments. Words of the window are the K dimension; weights lie in the order of the fragments.
#pragma once
#include "window.h"

struct Four {
    i32 v[4];
};

INLINE void mma(Four &d, const u32 (&a)[4], u64 b)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d.v[0]), "+r"(d.v[1]), "+r"(d.v[2]), "+r"(d.v[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"((u32)b), "r"((u32)(b >> 32)));
}

// Stores a fragment of sums: rows lane / 4 and 8 more, columns 2 (lane % 4) and one more.
INLINE void store_fragment(const Program &p, const Op &op, const Four &d, u32 pixel, u32 group, u32 column)
{
    const Param *params = constants<Param>(p, op.params) + group * op.columns;
#pragma unroll
    for (u32 j = 0; j < 2; ++j) {
        u32 c = column + lane() % 4 * 2 + j;
        if (c >= op.group_out)
            continue;
        Param param = params[c];
#pragma unroll
        for (u32 i = 0; i < 2; ++i) {
            u32 at = pixel + lane() / 4 + 8 * i;
            if (at < op.out_h * op.out_w)
                finish(op, param, p.arena, at * op.out_c + group * op.group_out + c, d.v[2 * i + j]);
        }
    }
}

// What a warp multiplies at once: 32 inputs of 16 PIXELS pixels and 8 CHANNELS channels.
template <u32 PIXELS, u32 CHANNELS> struct Fragments {
    u32 a[PIXELS][4];
    u64 b[CHANNELS];
};

// Where a warp's fragments come from.
template <u32 PIXELS, u32 CHANNELS> struct Source {
    Input in;
    Window window[PIXELS][2];
    const Tap *taps;
    const u64 *weights;
    u32 start[CHANNELS];
};

template <u32 PIXELS, u32 CHANNELS, bool WORD>
INLINE Fragments<PIXELS, CHANNELS> fetch(const Source<PIXELS, CHANNELS> &from, u32 k)
{
    Tap near = tap_at(from.taps, k * 8 + lane() % 4), far = tap_at(from.taps, k * 8 + 4 + lane() % 4);
    Fragments<PIXELS, CHANNELS> f;
#pragma unroll
    for (u32 j = 0; j < CHANNELS; ++j)
        f.b[j] = from.weights[from.start[j] + k * 32];
#pragma unroll
    for (u32 i = 0; i < PIXELS; ++i) {
        f.a[i][0] = word_at<WORD>(from.in, from.window[i][0], near);
        f.a[i][1] = word_at<WORD>(from.in, from.window[i][1], near);
        f.a[i][2] = word_at<WORD>(from.in, from.window[i][0], far);
        f.a[i][3] = word_at<WORD>(from.in, from.window[i][1], far);
    }
    return f;
}

// Makes inputs signed, which waits for them.
template <u32 PIXELS, u32 CHANNELS> INLINE void flip(Fragments<PIXELS, CHANNELS> &f, u32 bits)
{
#pragma unroll
    for (u32 i = 0; i < PIXELS; ++i)
#pragma unroll
        for (u32 r = 0; r < 4; ++r)
            f.a[i][r] ^= bits;
}

template <u32 PIXELS, u32 CHANNELS>
INLINE void multiply(Four (&sum)[PIXELS][CHANNELS], const Fragments<PIXELS, CHANNELS> &f)
{
#pragma unroll
    for (u32 i = 0; i < PIXELS; ++i)
#pragma unroll
        for (u32 j = 0; j < CHANNELS; ++j)
            mma(sum[i][j], f.a[i], f.b[j]);
}

template <u32 PIXELS, u32 CHANNELS, bool WORD> INLINE void convolve_tiles(const Program &p, const Op &op)
{
    u32 pixels = op.out_h * op.out_w, eights = op.columns / 8, steps = op.words / 8;
    u32 across = div_up(eights, CHANNELS), count = div_up(pixels, 16 * PIXELS) * across * op.groups;
#pragma unroll 1
    for (u32 item = grid_warp(); item < count; item += grid_warps()) {
        u32 down = item / (across * op.groups), rest = item - down * across * op.groups;
        u32 group = rest / across, first = (rest - group * across) * CHANNELS;
        Source<PIXELS, CHANNELS> from;
        from.in = input_of(p, op, group);
        from.taps = constants<Tap>(p, op.taps);
        from.weights = constants<u64>(p, op.weights);
        Four sum[PIXELS][CHANNELS];
#pragma unroll
        for (u32 i = 0; i < PIXELS; ++i) {
            u32 pixel = (down * PIXELS + i) * 16 + lane() / 4;
            from.window[i][0] = window_of(op, min_u32(pixel, pixels - 1));
            from.window[i][1] = window_of(op, min_u32(pixel + 8, pixels - 1));
#pragma unroll
            for (u32 j = 0; j < CHANNELS; ++j)
                sum[i][j] = Four();
        }
#pragma unroll
        for (u32 j = 0; j < CHANNELS; ++j)
            from.start[j] = (group * eights + min_u32(first + j, eights - 1)) * steps * 32 + lane();
        // Loads of the next step are under way while this one's fragments are multiplied.
        Fragments<PIXELS, CHANNELS> now = fetch<PIXELS, CHANNELS, WORD>(from, 0);
        flip(now, from.in.flip);
#pragma unroll 1
        for (u32 k = 1; k < steps; ++k) {
            Fragments<PIXELS, CHANNELS> next = fetch<PIXELS, CHANNELS, WORD>(from, k);
            multiply(sum, now);
            now = next;
            flip(now, from.in.flip);
        }
        multiply(sum, now);
        // A copy, because stores might change the original for all that the compiler knows.
        const Op out = op;
#pragma unroll
        for (u32 i = 0; i < PIXELS; ++i)
#pragma unroll
            for (u32 j = 0; j < CHANNELS; ++j)
                if (first + j < eights)
                    store_fragment(p, out, sum[i][j], (down * PIXELS + i) * 16, group, (first + j) * 8);
    }
}

// `tile`: 0 for layers with few outputs, 1 where there are enough for every warp.
INLINE void convolve(const Program &p, const Op &op)
{
    bool words = op.flags & WORDS;
    if (op.tile)
        return words ? convolve_tiles<2, 4, true>(p, op) : convolve_tiles<2, 4, false>(p, op);
    return words ? convolve_tiles<1, 1, true>(p, op) : convolve_tiles<1, 1, false>(p, op);
}

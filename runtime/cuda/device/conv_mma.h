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

// Where a lane's share of a fragment of sums goes: pixels lane / 4 and 8 more, channels 2 (lane % 4) and one more of a group.
struct Corner {
    u32 pixel, channel, group;
};

// What the sums of a fragment are finished with.
struct Ends {
    Param param[2];
    Before before[4];
};

// An output of the four: its place, and whether it exists.
struct Output {
    u32 at;
    bool exists;
};

INLINE Output output_of(const Op &op, const Corner &corner, u32 n)
{
    u32 pixel = corner.pixel + 8 * (n / 2), channel = corner.channel + n % 2;
    Output output = {pixel * op.out_c + corner.group * op.group_out + channel,
                     pixel < op.out_h * op.out_w && channel < op.group_out};
    return output;
}

INLINE Ends load_ends(const Program &p, const Op &op, const Corner &corner)
{
    const Param *params = constants<Param>(p, op.params) + corner.group * op.columns + corner.channel;
    Ends ends;
#pragma unroll
    for (u32 j = 0; j < 2; ++j)
        ends.param[j] = params[j];
#pragma unroll
    for (u32 n = 0; n < 4; ++n) {
        Output output = output_of(op, corner, n);
        ends.before[n] = before_of(p, op, output.at, output.exists);
    }
    return ends;
}

INLINE void store_fragment(const Program &p, const Op &op, const Corner &corner, const Ends &ends, const Four &d)
{
#pragma unroll
    for (u32 n = 0; n < 4; ++n) {
        Output output = output_of(op, corner, n);
        if (output.exists)
            finish(op, ends.param[n % 2], p.arena, output.at, d.v[n], ends.before[n]);
    }
}

// What a warp multiplies at once: 32 inputs of 16 PIXELS pixels and 8 CHANNELS channels.
template <u32 PIXELS, u32 CHANNELS> struct Fragments {
    u32 a[PIXELS][4];
    u64 b[CHANNELS];
};

// Where a lane's words of a step lie in a window.
struct Places {
    u64 near, far;
};

INLINE Places places_at(const u64 *taps, u32 k)
{
    Places places = {taps[k * 8 + lane() % 4], taps[k * 8 + 4 + lane() % 4]};
    return places;
}

// Where a warp's fragments come from.
template <u32 PIXELS, u32 CHANNELS> struct Source {
    Input in;
    Window window[PIXELS][2];
    const u64 *weights;
    u32 start[CHANNELS];
};

template <u32 PIXELS, u32 CHANNELS, bool WORD>
INLINE Fragments<PIXELS, CHANNELS> fetch(const Source<PIXELS, CHANNELS> &from, const Places &places, u32 k)
{
    Tap near = tap_of(places.near), far = tap_of(places.far);
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

// Adds the products of a step, whose inputs are made signed first: that waits for them.
template <u32 PIXELS, u32 CHANNELS>
INLINE void multiply(Four (&sum)[PIXELS][CHANNELS], Fragments<PIXELS, CHANNELS> &f, u32 flip)
{
#pragma unroll
    for (u32 i = 0; i < PIXELS; ++i) {
#pragma unroll
        for (u32 r = 0; r < 4; ++r)
            f.a[i][r] ^= flip;
#pragma unroll
        for (u32 j = 0; j < CHANNELS; ++j)
            mma(sum[i][j], f.a[i], f.b[j]);
    }
}

// All steps of a tile. Between operations the first-level cache is empty and a multiprocessor has few warps, so that what
// counts is how many loads are under way: those of AHEAD steps, and the places of the step behind them, on which its loads
// depend.
template <u32 PIXELS, u32 CHANNELS, bool WORD, u32 AHEAD>
INLINE void multiply_steps(const Source<PIXELS, CHANNELS> &from, const u64 *taps, u32 steps,
                           Four (&sum)[PIXELS][CHANNELS])
{
    Fragments<PIXELS, CHANNELS> ahead[AHEAD];
#pragma unroll
    for (u32 s = 0; s < AHEAD; ++s) {
        u32 k = min_u32(s, steps - 1);
        ahead[s] = fetch<PIXELS, CHANNELS, WORD>(from, places_at(taps, k), k);
    }
    Places places = places_at(taps, min_u32(AHEAD, steps - 1));
#pragma unroll 1
    for (u32 k = 0; k < steps; k += AHEAD)
#pragma unroll
        for (u32 s = 0; s < AHEAD; ++s) {
            if (k + s < steps) {
                Fragments<PIXELS, CHANNELS> now = ahead[s];
                if (k + s + AHEAD < steps) {
                    ahead[s] = fetch<PIXELS, CHANNELS, WORD>(from, places, k + s + AHEAD);
                    places = places_at(taps, min_u32(k + s + AHEAD + 1, steps - 1));
                }
                multiply(sum, now, from.in.flip);
            }
        }
}

template <u32 PIXELS, u32 CHANNELS, u32 AHEAD, bool WORD> INLINE void convolve_tiles(const Program &p, const Op &op)
{
    u32 pixels = op.out_h * op.out_w, eights = op.columns / 8, steps = op.words / 8;
    u32 across = div_up(eights, CHANNELS), count = div_up(pixels, 16 * PIXELS) * across * op.groups;
#pragma unroll 1
    for (u32 item = grid_warp(); item < count; item += grid_warps()) {
        u32 down = item / (across * op.groups), rest = item - down * across * op.groups;
        u32 group = rest / across, first = (rest - group * across) * CHANNELS;
        Source<PIXELS, CHANNELS> from;
        from.in = input_of(p, op, group);
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
        // A copy, because stores might change the original for all that the compiler knows.
        const Op out = op;
        u32 top = down * PIXELS * 16 + lane() / 4, left = lane() % 4 * 2;
        // Those of a single fragment are few enough to be loaded beside the inputs.
        enum { SINGLE = PIXELS * CHANNELS == 1 };
        Ends ends[CHANNELS];
        if (SINGLE) {
            Corner corner = {top, first * 8 + left, group};
            ends[0] = load_ends(p, out, corner);
        }
        multiply_steps<PIXELS, CHANNELS, WORD, AHEAD>(from, taps_of(p, op), steps, sum);
#pragma unroll
        for (u32 i = 0; i < PIXELS; ++i) {
            Corner corner[CHANNELS];
#pragma unroll
            for (u32 j = 0; j < CHANNELS; ++j) {
                // Fragments behind the last one have their pixels beyond the image.
                bool behind = first + j >= eights;
                Corner at = {behind ? pixels : top + 16 * i, behind ? left : (first + j) * 8 + left, group};
                corner[j] = at;
                if (!SINGLE)
                    ends[j] = load_ends(p, out, at);
            }
#pragma unroll
            for (u32 j = 0; j < CHANNELS; ++j)
                store_fragment(p, out, corner[j], ends[j], sum[i][j]);
        }
    }
}

// `tile`: 0 for layers with few outputs, 1 where there are enough for every warp.
INLINE void convolve(const Program &p, const Op &op)
{
    bool words = op.flags & WORDS;
    if (op.tile)
        return words ? convolve_tiles<2, 4, 3, true>(p, op) : convolve_tiles<2, 4, 2, false>(p, op);
    return words ? convolve_tiles<1, 1, 6, true>(p, op) : convolve_tiles<1, 1, 3, false>(p, op);
}

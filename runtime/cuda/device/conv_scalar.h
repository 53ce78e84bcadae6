// Convolutions without tensor cores: a thread computes PIXELS x CHANNELS outputs.
#pragma once
#include "window.h"

#if defined(RIDE_F32)
// int8 products in binary32: exact while no partial sum reaches 2^24, which takes more than 1032 products of at most
// 128 * 127. Sums move on to 32-bit integers every 256 words.
INLINE bool full(u32 words) { return words % 256 == 0; }

struct Sum {
    float part;
    i32 whole;
};
struct Quad {
    float v[4];
};

// Signed bytes as floats: each becomes the last bits of 2^23, from which 2^23 + 128 is taken away. Two cheap
// instructions, where a conversion runs at a quarter of the rate.
INLINE Quad spread(u32 word)
{
    Quad quad;
    u32 moved = word ^ 0x80808080u;
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
        u32 bits;
        asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bits) : "r"(moved), "r"(0x4B000000u), "r"(0x7440u | i));
        float f;
        __builtin_memcpy(&f, &bits, 4);
        quad.v[i] = f - 8388736.0f;
    }
    return quad;
}

INLINE void multiply(Sum &sum, const Quad &x, const Quad &w)
{
#pragma unroll
    for (u32 i = 0; i < 4; ++i)
        sum.part = __builtin_fmaf(x.v[i], w.v[i], sum.part);
}

INLINE void settle(Sum &sum)
{
    sum.whole += truncate(sum.part);
    sum.part = 0.0f;
}

INLINE i32 total(const Sum &sum) { return sum.whole; }
#else
struct Sum {
    i32 whole;
};
INLINE bool full(u32) { return false; }
typedef u32 Quad;
INLINE Quad spread(u32 word) { return word; }
INLINE void multiply(Sum &sum, Quad x, Quad w)
{
    asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(sum.whole) : "r"(x), "r"(w));
}
INLINE void settle(Sum &) {}
INLINE i32 total(const Sum &sum) { return sum.whole; }
#endif

template <u32 PIXELS, u32 CHANNELS> struct Tile {
    u32 pixel[PIXELS];
    u32 channel[CHANNELS]; // neighbouring threads have neighbouring channels
    u32 column[CHANNELS];  // of the weights
    Sum sum[PIXELS][CHANNELS];
};

// Words of the window and of the weights.
template <u32 PIXELS, u32 CHANNELS> struct Words {
    u32 x[PIXELS], w[CHANNELS];
};

// Where a thread's words come from.
template <u32 PIXELS, u32 CHANNELS> struct Source {
    Input in;
    Window window[PIXELS];
    const u32 *weights;
    u32 columns; // of all groups
};

template <u32 PIXELS, u32 CHANNELS, bool WORD>
INLINE Words<PIXELS, CHANNELS> fetch(const Source<PIXELS, CHANNELS> &from, const Tile<PIXELS, CHANNELS> &tile, u64 place,
                                     u32 k)
{
    Tap tap = tap_of(place);
    Words<PIXELS, CHANNELS> words;
#pragma unroll
    for (u32 i = 0; i < PIXELS; ++i)
        words.x[i] = word_at<WORD>(from.in, from.window[i], tap);
#pragma unroll
    for (u32 j = 0; j < CHANNELS; ++j)
        words.w[j] = from.weights[k * from.columns + tile.column[j]];
    return words;
}

template <u32 PIXELS, u32 CHANNELS>
INLINE void multiply_tile(Tile<PIXELS, CHANNELS> &tile, const Words<PIXELS, CHANNELS> &words, u32 flip)
{
    Quad w[CHANNELS];
#pragma unroll
    for (u32 j = 0; j < CHANNELS; ++j)
        w[j] = spread(words.w[j]);
#pragma unroll
    for (u32 i = 0; i < PIXELS; ++i) {
        Quad x = spread(words.x[i] ^ flip);
#pragma unroll
        for (u32 j = 0; j < CHANNELS; ++j)
            multiply(tile.sum[i][j], x, w[j]);
    }
}

template <u32 PIXELS, u32 CHANNELS> INLINE void settle_tile(Tile<PIXELS, CHANNELS> &tile)
{
#pragma unroll
    for (u32 i = 0; i < PIXELS; ++i)
#pragma unroll
        for (u32 j = 0; j < CHANNELS; ++j)
            settle(tile.sum[i][j]);
}

// What counts is how many loads are under way, see `conv_mma.h`: words of AHEAD steps, and the place of the step behind them.
template <u32 PIXELS, u32 CHANNELS, bool WORD, u32 AHEAD>
INLINE void multiply_words(const u64 *taps, u32 words, Tile<PIXELS, CHANNELS> &tile, const Source<PIXELS, CHANNELS> &from)
{
    Words<PIXELS, CHANNELS> ahead[AHEAD];
#pragma unroll
    for (u32 s = 0; s < AHEAD; ++s) {
        u32 k = min_u32(s, words - 1);
        ahead[s] = fetch<PIXELS, CHANNELS, WORD>(from, tile, taps[k], k);
    }
    u64 place = taps[min_u32(AHEAD, words - 1)];
#pragma unroll 1
    for (u32 k = 0; k < words; k += AHEAD)
#pragma unroll
        for (u32 s = 0; s < AHEAD; ++s) {
            if (k + s < words) {
                Words<PIXELS, CHANNELS> now = ahead[s];
                if (k + s + AHEAD < words) {
                    ahead[s] = fetch<PIXELS, CHANNELS, WORD>(from, tile, place, k + s + AHEAD);
                    place = taps[min_u32(k + s + AHEAD + 1, words - 1)];
                }
                multiply_tile(tile, now, from.in.flip);
                if (full(k + s + 1))
                    settle_tile(tile);
            }
        }
    settle_tile(tile);
}

// More than one channel a thread only without groups: all of a thread's channels read the same inputs.
template <u32 PIXELS, u32 CHANNELS, u32 AHEAD, bool WORD> INLINE void convolve_tiles(const Program &p, const Op &op)
{
    u32 pixels = op.out_h * op.out_w, across = div_up(op.out_c, CHANNELS);
    u32 count = div_up(pixels, PIXELS) * across;
#pragma unroll 1
    for (u32 item = grid_thread(); item < count; item += grid_threads()) {
        Tile<PIXELS, CHANNELS> tile;
        u32 down = item / across, first = item - down * across;
        u32 group = first / op.group_out;
#pragma unroll
        for (u32 j = 0; j < CHANNELS; ++j) {
            tile.channel[j] = first + j * across;
            u32 channel = min_u32(tile.channel[j], op.out_c - 1);
            tile.column[j] = group * op.columns + (channel - group * op.group_out);
        }
#pragma unroll
        for (u32 i = 0; i < PIXELS; ++i) {
            tile.pixel[i] = down * PIXELS + i;
#pragma unroll
            for (u32 j = 0; j < CHANNELS; ++j)
                tile.sum[i][j] = Sum();
        }
        Source<PIXELS, CHANNELS> from;
        from.in = input_of(p, op, group);
        from.weights = constants<u32>(p, op.weights);
        from.columns = op.columns * op.groups;
#pragma unroll
        for (u32 i = 0; i < PIXELS; ++i)
            from.window[i] = window_of(op, min_u32(tile.pixel[i], pixels - 1));
        multiply_words<PIXELS, CHANNELS, WORD, AHEAD>(taps_of(p, op), op.words, tile, from);
        const Param *params = constants<Param>(p, op.params);
        // A copy, because stores might change the original for all that the compiler knows.
        const Op out = op;
#pragma unroll
        for (u32 j = 0; j < CHANNELS; ++j) {
            Param param = params[tile.column[j]];
            u32 channel = tile.channel[j];
            auto exists = [&](u32 i) { return tile.pixel[i] < pixels && channel < out.out_c; };
            Before before[PIXELS];
#pragma unroll
            for (u32 i = 0; i < PIXELS; ++i)
                before[i] = before_of(p, out, tile.pixel[i] * out.out_c + channel, exists(i));
#pragma unroll
            for (u32 i = 0; i < PIXELS; ++i)
                if (exists(i))
                    finish(out, param, p.arena, tile.pixel[i] * out.out_c + channel, total(tile.sum[i][j]), before[i]);
        }
    }
}

// `tile`: 0 for layers with few outputs or groups, 1 where there is enough work for every thread.
INLINE void convolve(const Program &p, const Op &op)
{
    bool words = op.flags & WORDS;
    if (op.tile)
        return words ? convolve_tiles<4, 4, 2, true>(p, op) : convolve_tiles<4, 4, 1, false>(p, op);
    return words ? convolve_tiles<2, 1, 8, true>(p, op) : convolve_tiles<2, 1, 4, false>(p, op);
}

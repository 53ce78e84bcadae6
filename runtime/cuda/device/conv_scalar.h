// Convolutions without tensor cores: a thread computes PIXELS x CHANNELS outputs.
#pragma once
#include "window.h"

#if defined(RIDE_F32)
// int8 products in binary32: exact while no partial sum reaches 2^24, which takes more than 1032 products of at most
// 128 * 127. Sums move on to 32-bit integers every 256 words.
struct Sum {
    float part;
    i32 whole;
};
#define EXACT_WORDS 256u

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
#define EXACT_WORDS 0xffffffffu
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

template <u32 PIXELS, u32 CHANNELS>
INLINE void multiply_words(const Program &p, const Op &op, Tile<PIXELS, CHANNELS> &tile, const Input &in)
{
    const Tap *taps = constants<Tap>(p, op.taps);
    const u32 *weights = constants<u32>(p, op.weights);
    u32 columns = op.columns * op.groups, last = op.out_h * op.out_w - 1;
    Window window[PIXELS];
#pragma unroll
    for (u32 i = 0; i < PIXELS; ++i)
        window[i] = window_of(op, min_u32(tile.pixel[i], last));
#pragma unroll 1
    for (u32 first = 0; first < op.words; first += EXACT_WORDS) {
        u32 end = op.words - first > EXACT_WORDS ? first + EXACT_WORDS : op.words;
#pragma unroll 1
        for (u32 k = first; k < end; ++k) {
            Quad x[PIXELS], w[CHANNELS];
            Tap tap = taps[k];
#pragma unroll
            for (u32 i = 0; i < PIXELS; ++i)
                x[i] = spread(word_at(op, in, window[i], tap));
#pragma unroll
            for (u32 j = 0; j < CHANNELS; ++j)
                w[j] = spread(weights[k * columns + tile.column[j]]);
#pragma unroll
            for (u32 i = 0; i < PIXELS; ++i)
#pragma unroll
                for (u32 j = 0; j < CHANNELS; ++j)
                    multiply(tile.sum[i][j], x[i], w[j]);
        }
#pragma unroll
        for (u32 i = 0; i < PIXELS; ++i)
#pragma unroll
            for (u32 j = 0; j < CHANNELS; ++j)
                settle(tile.sum[i][j]);
        if (EXACT_WORDS == 0xffffffffu)
            break;
    }
}

// More than one channel a thread only without groups: all of a thread's channels read the same inputs.
template <u32 PIXELS, u32 CHANNELS> INLINE void convolve_tiles(const Program &p, const Op &op)
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
        multiply_words(p, op, tile, input_of(p, op, group));
        const Param *params = constants<Param>(p, op.params);
#pragma unroll
        for (u32 j = 0; j < CHANNELS; ++j) {
            Param param = params[tile.column[j]];
#pragma unroll
            for (u32 i = 0; i < PIXELS; ++i)
                if (tile.pixel[i] < pixels && tile.channel[j] < op.out_c)
                    finish(op, param, p.arena, tile.pixel[i] * op.out_c + tile.channel[j], total(tile.sum[i][j]));
        }
    }
}

// `tile`: 0 for layers with few outputs or groups, 1 where there is enough work for every thread.
INLINE void convolve(const Program &p, const Op &op)
{
    if (op.tile)
        convolve_tiles<4, 4>(p, op);
    else
        convolve_tiles<2, 1>(p, op);
}

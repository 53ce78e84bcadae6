// Convolutions on Xavier's tensor cores with `wmma.m16n16k16`: a warp computes 16 pixels x 16 channels. Which thread holds
// what of a fragment is the hardware's secret, so windows pass through shared memory, and sums on their way back.
#pragma once
#include "window.h"

union Staging {
    u32 words[16][4];  // 16 pixels x 16 bytes
    i32 sums[16 * 16]; // 16 pixels x 16 channels
};

// Words l % 4 of pixels l / 4 and 8 more: what lane l brings of 16 bytes of 16 pixels.
struct Words {
    u32 v[2];
};

template <bool WORD> INLINE Words fetch(const Input &in, const Window (&window)[2], u64 place)
{
    Tap tap = tap_of(place);
    Words words = {{word_at<WORD>(in, window[0], tap), word_at<WORD>(in, window[1], tap)}};
    return words;
}

INLINE void stage(const Words &words, u32 flip, Staging &staging)
{
#pragma unroll
    for (u32 i = 0; i < 2; ++i)
        staging.words[lane() / 4 + 8 * i][lane() % 4] = words.v[i] ^ flip;
}

struct Fragment {
    u32 v[2];
};

struct Eight {
    i32 v[8];
};

INLINE Fragment load_inputs(const Staging &staging)
{
    Fragment a;
    asm volatile("wmma.load.a.sync.aligned.row.m16n16k16.shared.s8 {%0,%1}, [%2], 16;"
                 : "=r"(a.v[0]), "=r"(a.v[1])
                 : "r"(shared_address(&staging))
                 : "memory");
    return a;
}

// Weights are constant: nothing has to happen before.
INLINE Fragment load_weights(const u8 *weights)
{
    Fragment b;
    asm volatile("wmma.load.b.sync.aligned.col.m16n16k16.s8 {%0,%1}, [%2], 16;"
                 : "=r"(b.v[0]), "=r"(b.v[1])
                 : "l"(weights));
    return b;
}

INLINE void wmma(Eight &d, const Fragment &a, const Fragment &b)
{
    asm volatile("wmma.mma.sync.aligned.row.col.m16n16k16.s32.s8.s8.s32 {%0,%1,%2,%3,%4,%5,%6,%7}, {%8,%9}, {%10,%11}, "
                 "{%0,%1,%2,%3,%4,%5,%6,%7};"
                 : "+r"(d.v[0]), "+r"(d.v[1]), "+r"(d.v[2]), "+r"(d.v[3]), "+r"(d.v[4]), "+r"(d.v[5]), "+r"(d.v[6]),
                   "+r"(d.v[7])
                 : "r"(a.v[0]), "r"(a.v[1]), "r"(b.v[0]), "r"(b.v[1]));
}

INLINE void store_sums(const Eight &d, Staging &staging)
{
    asm volatile("wmma.store.d.sync.aligned.row.m16n16k16.shared.s32 [%0], {%1,%2,%3,%4,%5,%6,%7,%8}, 16;" ::"r"(
                     shared_address(&staging)),
                 "r"(d.v[0]), "r"(d.v[1]), "r"(d.v[2]), "r"(d.v[3]), "r"(d.v[4]), "r"(d.v[5]), "r"(d.v[6]), "r"(d.v[7])
                 : "memory");
}

// Requantizes the staged sums of channels `column..column + 16` of a group.
INLINE void finish_tile(const Program &p, Op op, const Staging &staging, u32 first, u32 group, u32 column)
{
    u32 c = column + lane() % 16;
    if (c >= op.group_out)
        return;
    Param param = (constants<Param>(p, op.params) + group * op.columns)[c];
    u32 rows = min_u32(16, op.out_h * op.out_w - first);
    u32 base = first * op.out_c + group * op.group_out + c;
    Before before[8];
#pragma unroll
    for (u32 i = 0; i < 8; ++i)
        before[i] = before_of(p, op, base + (lane() / 16 + 2 * i) * op.out_c, lane() / 16 + 2 * i < rows);
#pragma unroll
    for (u32 i = 0; i < 8; ++i) {
        u32 row = lane() / 16 + 2 * i;
        if (row < rows)
            finish(op, param, p.arena, base + row * op.out_c, staging.sums[row * 16 + lane() % 16], before[i]);
    }
}

// A warp computes 16 pixels x 16 TILES channels.
template <u32 TILES, bool WORD> INLINE void convolve_tiles(const Program &p, const Op &op, Staging &staging)
{
    u32 pixels = op.out_h * op.out_w, tiles = op.columns / 16, steps = op.words / 4;
    u32 across = div_up(tiles, TILES), count = div_up(pixels, 16) * across * op.groups;
    const u64 *taps = taps_of(p, op) + lane() % 4;
#pragma unroll 1
    for (u32 item = grid_warp(); item < count; item += grid_warps()) {
        u32 down = item / (across * op.groups), rest = item - down * across * op.groups;
        u32 group = rest / across, column = (rest - group * across) * TILES, first = down * 16;
        Input in = input_of(p, op, group);
        Window window[2] = {window_of(op, min_u32(first + lane() / 4, pixels - 1)),
                            window_of(op, min_u32(first + lane() / 4 + 8, pixels - 1))};
        const u8 *weights[TILES];
        Eight sum[TILES];
#pragma unroll
        for (u32 j = 0; j < TILES; ++j) {
            weights[j] = p.constants + op.weights + (u64)(group * tiles + min_u32(column + j, tiles - 1)) * steps * 256;
            sum[j] = Eight();
        }
        // What counts is how many loads are under way, see `conv_mma.h`: inputs of AHEAD steps, the place of the step behind
        // them, the next step's weights.
        enum { AHEAD = 3 };
        u32 last = steps - 1;
        Words ahead[AHEAD];
#pragma unroll
        for (u32 s = 0; s < AHEAD; ++s)
            ahead[s] = fetch<WORD>(in, window, taps[4 * min_u32(s, last)]);
        u64 place = taps[4 * min_u32(AHEAD, last)];
        Fragment b[TILES];
#pragma unroll
        for (u32 j = 0; j < TILES; ++j)
            b[j] = load_weights(weights[j]);
#pragma unroll 1
        for (u32 k = 0; k < steps; k += AHEAD)
#pragma unroll
            for (u32 s = 0; s < AHEAD; ++s) {
                if (k + s < steps) {
                    stage(ahead[s], in.flip, staging);
                    if (k + s + AHEAD < steps) {
                        ahead[s] = fetch<WORD>(in, window, place);
                        place = taps[4 * min_u32(k + s + AHEAD + 1, last)];
                    }
                    Fragment next[TILES];
#pragma unroll
                    for (u32 j = 0; j < TILES; ++j)
                        next[j] = load_weights(weights[j] + 256 * min_u32(k + s + 1, last));
                    warp_barrier();
                    Fragment a = load_inputs(staging);
#pragma unroll
                    for (u32 j = 0; j < TILES; ++j) {
                        wmma(sum[j], a, b[j]);
                        b[j] = next[j];
                    }
                    warp_barrier();
                }
            }
#pragma unroll
        for (u32 j = 0; j < TILES; ++j) {
            store_sums(sum[j], staging);
            warp_barrier();
            if (column + j < tiles)
                finish_tile(p, op, staging, first, group, (column + j) * 16);
            warp_barrier();
        }
    }
}

// `tile`: 0 for layers with few outputs, 1 where there are enough for every warp.
INLINE void convolve(const Program &p, const Op &op)
{
    __shared__ __attribute__((aligned(128))) Staging shared[WARPS];
    Staging &staging = shared[warp()];
    bool words = op.flags & WORDS;
    if (op.tile)
        return words ? convolve_tiles<2, true>(p, op, staging) : convolve_tiles<2, false>(p, op, staging);
    return words ? convolve_tiles<1, true>(p, op, staging) : convolve_tiles<1, false>(p, op, staging);
}

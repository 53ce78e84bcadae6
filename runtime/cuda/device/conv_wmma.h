// Convolutions on Xavier's tensor cores with `wmma.m16n16k16`: a warp computes 16 pixels x 16 channels. Which thread holds
// what of a fragment is the hardware's secret, so windows pass through shared memory, and sums on their way back.
#pragma once
#include "window.h"

union Staging {
    u32 words[16][4];  // 16 pixels x 16 bytes
    i32 sums[16 * 16]; // 16 pixels x 16 channels
};

INLINE u32 shared_address(const void *p) { return (u32)(u64)(const __attribute__((address_space(3))) void *)p; }

INLINE void stage(const Op &op, const Input &in, const Tap *taps, const Window (&window)[2], Staging &staging)
{
    // Lane l brings word l % 4 of pixels l / 4 and 8 more.
    Tap tap = taps[lane() % 4];
#pragma unroll
    for (u32 i = 0; i < 2; ++i)
        staging.words[lane() / 4 + 8 * i][lane() % 4] = word_at(op, in, window[i], tap);
}

INLINE void wmma(i32 (&d)[8], const Staging &staging, const u8 *weights)
{
    u32 a[2], b[2];
    asm volatile("wmma.load.a.sync.aligned.row.m16n16k16.shared.s8 {%0,%1}, [%2], 16;"
                 : "=r"(a[0]), "=r"(a[1])
                 : "r"(shared_address(&staging))
                 : "memory");
    asm volatile("wmma.load.b.sync.aligned.col.m16n16k16.s8 {%0,%1}, [%2], 16;"
                 : "=r"(b[0]), "=r"(b[1])
                 : "l"(weights)
                 : "memory");
    asm volatile("wmma.mma.sync.aligned.row.col.m16n16k16.s32.s8.s8.s32 {%0,%1,%2,%3,%4,%5,%6,%7}, {%8,%9}, {%10,%11}, "
                 "{%0,%1,%2,%3,%4,%5,%6,%7};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]), "+r"(d[7])
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(b[1]));
}

INLINE void store_sums(const i32 (&d)[8], Staging &staging)
{
    asm volatile("wmma.store.d.sync.aligned.row.m16n16k16.shared.s32 [%0], {%1,%2,%3,%4,%5,%6,%7,%8}, 16;" ::"r"(
                     shared_address(&staging)),
                 "r"(d[0]), "r"(d[1]), "r"(d[2]), "r"(d[3]), "r"(d[4]), "r"(d[5]), "r"(d[6]), "r"(d[7])
                 : "memory");
}

INLINE void convolve(const Program &p, const Op &op)
{
    __shared__ __attribute__((aligned(128))) Staging shared[WARPS];
    Staging &staging = shared[warp()];
    u32 pixels = op.out_h * op.out_w, across = op.columns / 16, steps = op.words / 4;
    u32 count = div_up(pixels, 16) * across * op.groups;
    const Tap *taps = constants<Tap>(p, op.taps);
#pragma unroll 1
    for (u32 item = grid_warp(); item < count; item += grid_warps()) {
        u32 down = item / (across * op.groups), column = item - down * across * op.groups;
        u32 group = column / across, first = down * 16;
        Input in = input_of(p, op, group);
        Window window[2] = {window_of(op, min_u32(first + lane() / 4, pixels - 1)),
                            window_of(op, min_u32(first + lane() / 4 + 8, pixels - 1))};
        const u8 *weights = p.constants + op.weights + (u64)column * steps * 256;
        i32 sum[8] = {};
#pragma unroll 1
        for (u32 k = 0; k < steps; ++k) {
            stage(op, in, taps + 4 * k, window, staging);
            warp_barrier();
            wmma(sum, staging, weights + 256 * k);
            warp_barrier();
        }
        store_sums(sum, staging);
        warp_barrier();
        const Param *params = constants<Param>(p, op.params) + column * 16;
        u32 c = (column - group * across) * 16 + lane() % 16;
        if (c < op.group_out) {
            Param param = params[lane() % 16];
#pragma unroll 1
            for (u32 row = lane() / 16; row < min_u32(16, pixels - first); row += 2) {
                u32 at = (first + row) * op.out_c + group * op.group_out + c;
                finish(op, param, p.arena, at, staging.sums[row * 16 + lane() % 16]);
            }
        }
        warp_barrier();
    }
}

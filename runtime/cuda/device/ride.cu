// The device code: one operation, or a whole routed program in a single launch.
//
// Compiled once for each numeric path by `generate.sh`, which defines one of RIDE_F32, RIDE_DP4A, RIDE_WMMA, RIDE_MMA.
#include "router.h"

#if defined(RIDE_F32) || defined(RIDE_DP4A)
#include "conv_scalar.h"
#elif defined(RIDE_WMMA)
#include "conv_wmma.h"
#elif defined(RIDE_MMA)
#include "conv_mma.h"
#else
#error "no numeric path has been chosen"
#endif

// All blocks wait for each other; what they wrote before is visible to all behind it. Blocks must be resident together,
// which the host sees to.
//
// One word does it: the first block adds what is missing to 2^31 when the others add one each, so that the highest bit turns
// over when the last of them comes and the other bits are zero again. There is no second word whose accesses could overtake
// the arrival, and nothing to reset.
INLINE void grid_barrier(u32 *control)
{
    block_barrier();
    if (thread() == 0) {
        fence();
        u32 before = atomic_add(control + ARRIVED, block() == 0 ? 0x80000001u - blocks() : 1);
        while (((load_volatile(control + ARRIVED) ^ before) & 0x80000000u) == 0) {
        }
        fence();
    }
    block_barrier();
}

INLINE void run(const Program &p, const Op &op, const Asked &asked)
{
    switch (op.kind) {
    case LOAD: return load_image(p, op);
    case CONV: return convolve(p, op);
    case SHORTCUT: return shortcut(p, op);
    case MAX_POOL: return max_pool(p, op);
    case POOL: return pool(p, op);
    case HEAD: return head(p, op);
    default: return join_expert(p, op, asked);
    }
}

// Parts `from..to` of a program (0 is the stem, then come the experts), part `i` being operations `parts[i]..parts[i + 1]`.
// Behind each expert that has a router, it decides on the device whether there is another one, if it is asked.
//
// With `alone`, operation `from` alone: both executors run the same code.
extern "C" __global__ void __launch_bounds__(256) ride_run(const Op *ops, const u8 *constants, u8 *arena, const u8 *image,
                                                           u32 *control, u32 *result, const u32 *parts, u32 alone, u32 from,
                                                           u32 to, u32 mode, float threshold)
{
    Program p = {ops, constants, arena, image, control, result};
    Asked asked = {mode, threshold};
    if (alone)
        to = from + 1;
#pragma unroll 1
    for (u32 part = from; part < to; ++part) {
        bool last = part + 1 == to;
        u32 first = alone ? from : parts[part], end = alone ? to : parts[part + 1];
#pragma unroll 1
        for (u32 i = first; i < end; ++i) {
            run(p, ops[i], asked);
            if (!last || i + 1 < end)
                grid_barrier(control);
        }
        if (part > 0 && !last && mode != NOBODY && !control[PROCEED])
            return;
    }
}

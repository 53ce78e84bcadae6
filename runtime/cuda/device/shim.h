// What CUDA's own headers would give: address spaces, thread numbers, barriers and the few instructions that C++ does not
// have. Written for clang alone, so that regenerating the PTX needs no CUDA toolkit.
#pragma once

#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
#define __launch_bounds__(n) __attribute__((launch_bounds(n)))
#define INLINE static __device__ __attribute__((always_inline)) inline

typedef signed char i8;
typedef unsigned char u8;
typedef short i16;
typedef int i32;
typedef unsigned u32;
typedef long long i64;
typedef unsigned long long u64;

// Threads of a block; the host launches exactly this many.
#define BLOCK 256u
#define WARPS (BLOCK / 32)

INLINE u32 thread() { return __nvvm_read_ptx_sreg_tid_x(); }
INLINE u32 lane() { return thread() & 31; }
INLINE u32 warp() { return thread() >> 5; }
INLINE u32 block() { return __nvvm_read_ptx_sreg_ctaid_x(); }
INLINE u32 blocks() { return __nvvm_read_ptx_sreg_nctaid_x(); }

// Numbers of threads and warps over the whole grid. Neighbouring warps lie on different multiprocessors, so that a layer of
// few tiles keeps all of them busy.
INLINE u32 grid_warp() { return warp() * blocks() + block(); }
INLINE u32 grid_warps() { return WARPS * blocks(); }
INLINE u32 grid_thread() { return grid_warp() * 32 + lane(); }
INLINE u32 grid_threads() { return BLOCK * blocks(); }

// The memory clobber is what keeps loads behind it: clang's own builtin lets shared loads rise above the barrier.
INLINE void block_barrier() { asm volatile("bar.sync 0;" ::: "memory"); }
INLINE void warp_barrier() { asm volatile("bar.warp.sync 0xffffffff;" ::: "memory"); }

// What this thread, and by barriers its block, has done and seen before happens before what a thread does behind its own
// fence that has seen a word written after this one. From compute capability 7.0 on the weaker of the two instructions is
// enough, because nothing here needs one order of all fences. It also drops what the multiprocessor's first-level cache holds
// (`assemble.sh` looks for that), which is why plain loads may read what other blocks wrote.
#if defined(RIDE_WMMA) || defined(RIDE_MMA)
INLINE void fence() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }
#else
INLINE void fence() { asm volatile("membar.gl;" ::: "memory"); }
#endif

INLINE u32 shared_address(const void *p) { return (u32)(u64)(const __attribute__((address_space(3))) void *)p; }

INLINE u32 load_volatile(const u32 *at)
{
    u32 value;
    asm volatile("ld.volatile.u32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
    return value;
}

INLINE void store_volatile(u32 *at, u32 value)
{
    asm volatile("st.volatile.u32 [%0], %1;" ::"l"(at), "r"(value) : "memory");
}

INLINE u32 atomic_add(u32 *at, u32 value)
{
    u32 before;
    asm volatile("atom.add.u32 %0, [%1], %2;" : "=r"(before) : "l"(at), "r"(value) : "memory");
    return before;
}

// The same for a word of shared memory.
INLINE u32 atomic_add_shared(u32 *at, u32 value)
{
    u32 before;
    asm volatile("atom.shared.add.u32 %0, [%1], %2;" : "=r"(before) : "r"(shared_address(at)), "r"(value) : "memory");
    return before;
}

INLINE void store_volatile_shared(u32 *at, u32 value)
{
    asm volatile("st.volatile.shared.u32 [%0], %1;" ::"r"(shared_address(at)), "r"(value) : "memory");
}

INLINE i32 shuffle_xor(i32 value, u32 mask)
{
    i32 other;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=r"(other) : "r"(value), "r"(mask));
    return other;
}

// Sum over the 32 lanes of a warp, the same in each of them.
INLINE i32 warp_sum(i32 value)
{
#pragma unroll
    for (u32 mask = 16; mask; mask >>= 1)
        value += shuffle_xor(value, mask);
    return value;
}

INLINE u64 shuffle_xor64(u64 value, u32 mask)
{
    u32 low = (u32)shuffle_xor((i32)(u32)value, mask), high = (u32)shuffle_xor((i32)(u32)(value >> 32), mask);
    return (u64)high << 32 | low;
}

INLINE u64 warp_sum64(u64 value)
{
#pragma unroll
    for (u32 mask = 16; mask; mask >>= 1)
        value += shuffle_xor64(value, mask);
    return value;
}

// Towards zero, saturating, 0 for what is no number: Rust's `as i32`, which C++ leaves undefined.
INLINE i32 truncate(float x)
{
    i32 value;
    asm("cvt.rzi.s32.f32 %0, %1;" : "=r"(value) : "f"(x));
    return value;
}

// `count` bits of a word from bit `first` on, as a signed number.
INLINE i32 bits_of(u32 word, u32 first, u32 count)
{
    i32 value;
    asm("bfe.s32 %0, %1, %2, %3;" : "=r"(value) : "r"(word), "r"(first), "r"(count));
    return value;
}

INLINE u32 min_u32(u32 a, u32 b) { return a < b ? a : b; }
INLINE u64 min_u64(u64 a, u64 b) { return a < b ? a : b; }
INLINE u64 max_u64(u64 a, u64 b) { return a > b ? a : b; }
INLINE i32 clamp(i32 v, i32 low, i32 high) { return v < low ? low : v > high ? high : v; }
INLINE u32 div_up(u32 a, u32 b) { return (a + b - 1) / b; }

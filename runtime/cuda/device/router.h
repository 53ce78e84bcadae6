// Combiner and routers: one block adds an expert's logits to the sum and decides whether the next expert runs.
#pragma once
#include "layers.h"

// exp(x) for x <= 0, in the operations of the CPU runtime's `confidence`.
INLINE float exponential(float x)
{
    float y = x * 1.44269504088896340736f;
    i32 whole = truncate(y - 0.5f);
    if (whole < -126)
        return 0.0f;
    float r = y - (float)whole;
    const float c[6] = {1.540353e-4f, 1.3333558e-3f, 9.618129e-3f, 5.550411e-2f, 2.402265e-1f, 6.931472e-1f};
    float sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < 6; ++i)
        sum = (sum + c[i]) * r;
    u32 bits = (u32)clamp(whole + 127, 1, 254) << 23;
    float scale;
    __builtin_memcpy(&scale, &bits, 4);
    return (sum + 1.0f) * scale;
}

// ln(x) for a normal x >= 1.
INLINE float logarithm(float x)
{
    u32 bits;
    __builtin_memcpy(&bits, &x, 4);
    i32 e = (i32)(bits >> 23) - 127;
    bits = (bits & 0x007fffffu) | 0x3f800000u;
    float m;
    __builtin_memcpy(&m, &bits, 4);
    if (m > 1.41421356237309504880f) {
        e += 1;
        m *= 0.5f;
    }
    float t = (m - 1.0f) / (m + 1.0f), square = t * t;
    const float c[4] = {1.0f / 9.0f, 1.0f / 7.0f, 1.0f / 5.0f, 1.0f / 3.0f};
    float series = 0.0f;
#pragma unroll
    for (u32 i = 0; i < 4; ++i)
        series = (series + c[i]) * square;
    return (float)e * 0.693147180559945309417f + 2.0f * t * (series + 1.0f);
}

// Values by size, of equal ones the earlier first: larger keys come before smaller ones, and no two are equal. For what is no
// number the key means nothing.
INLINE u64 key_of(float value, u32 number)
{
    u32 bits;
    __builtin_memcpy(&bits, &value, 4);
    bits = value == 0.0f ? 0 : bits;
    return (u64)(bits ^ ((i32)bits < 0 ? 0xffffffffu : 0x80000000u)) << 32 | (0xffffffffu - number);
}

INLINE u32 number_of(u64 key) { return 0xffffffffu - (u32)key; }

// The first two of some keys, 0 where there is none.
struct TwoKeys {
    u64 first, second;
};

INLINE TwoKeys merge(TwoKeys a, TwoKeys b)
{
    TwoKeys both = {max_u64(a.first, b.first), max_u64(min_u64(a.first, b.first), max_u64(a.second, b.second))};
    return both;
}

// Of all threads of the block, in each of them.
INLINE TwoKeys merge_block(TwoKeys mine)
{
    __shared__ TwoKeys partial[WARPS];
#pragma unroll
    for (u32 mask = 16; mask; mask >>= 1) {
        TwoKeys other = {shuffle_xor64(mine.first, mask), shuffle_xor64(mine.second, mask)};
        mine = merge(mine, other);
    }
    if (lane() == 0)
        partial[warp()] = mine;
    block_barrier();
    TwoKeys all = partial[0];
#pragma unroll
    for (u32 w = 1; w < WARPS; ++w)
        all = merge(all, partial[w]);
    return all;
}

struct Two {
    float largest, second;
};

INLINE Two two_largest(const float *logits, u32 classes)
{
    TwoKeys keys = {0, 0};
#pragma unroll 1
    for (u32 j = thread(); j < classes; j += BLOCK) {
        float v = logits[j];
        TwoKeys one = {v == v ? key_of(v, j) : 0, 0};
        keys = merge(keys, one);
    }
    keys = merge_block(keys);
    float none = -__builtin_inff();
    Two two = {keys.first ? logits[number_of(keys.first)] : none, keys.second ? logits[number_of(keys.second)] : none};
    if (classes < 2)
        two.second = two.largest;
    return two;
}

// The score of the mean logits, in thread 0. Exponentials are computed side by side, and added in order.
INLINE float confidence(const Op &op, const float *logits)
{
    enum { CHUNK = 512 };
    __shared__ float terms[CHUNK], products[CHUNK];
    Two two = two_largest(logits, op.out_c);
    if (op.rule == MARGIN)
        return two.largest - two.second;
    float sum = 0.0f, weighted = 0.0f;
#pragma unroll 1
    for (u32 first = 0; first < op.out_c; first += CHUNK) {
        u32 count = min_u32(CHUNK, op.out_c - first);
        for (u32 j = thread(); j < count; j += BLOCK) {
            float below = logits[first + j] - two.largest, e = exponential(below);
            terms[j] = e;
            products[j] = e > 0.0f ? e * below : 0.0f;
        }
        block_barrier();
        if (thread() == 0) {
#pragma unroll 8
            for (u32 j = 0; j < count; ++j) {
                sum += terms[j];
                weighted += products[j];
            }
        }
        block_barrier();
    }
    return op.rule == ENTROPY ? logarithm(sum) - weighted / sum : 1.0f / sum;
}

// Inserts values one by one, as the CPU does: the order that matters where some are no numbers.
INLINE void largest_in_order(const float *values, u32 count, float *top, u32 k)
{
#pragma unroll 1
    for (u32 n = 0; n < count; ++n) {
        float moving = values[n];
        if (n >= k && !(top[k - 1] < moving))
            continue;
        bool found = false;
#pragma unroll 1
        for (u32 place = 0; place < min_u32(k, n); ++place) {
            float t = top[place];
            found |= t < moving;
            if (found) {
                top[place] = moving;
                moving = t;
            }
        }
        if (n < k)
            top[n] = moving;
    }
}

// The `k` largest values in descending order. At least `k` values are not below the `k`-th of the threads' largest ones; only
// those find their rank among each other. `keys` has room for `count` of them.
INLINE void largest(const float *values, u32 count, u64 *keys, float *top, u32 k)
{
    __shared__ u64 best[BLOCK], bound;
    __shared__ u32 found, strange;
    if (thread() == 0) {
        bound = 0;
        found = strange = 0;
    }
    u64 mine = 0;
    bool number = true;
#pragma unroll 1
    for (u32 n = thread(); n < count; n += BLOCK) {
        float v = values[n];
        number &= v == v;
        mine = max_u64(mine, key_of(v, n));
    }
    best[thread()] = mine;
    block_barrier();
    if (!number)
        store_volatile_shared(&strange, 1);
    // Threads without a value have 0, which is above nothing.
    u32 rank = 0, filled = min_u32(BLOCK, count);
#pragma unroll 8
    for (u32 m = 0; m < filled; ++m)
        rank += best[m] > mine;
    if (mine && rank + 1 == k)
        bound = mine;
    block_barrier();
#pragma unroll 1
    for (u32 n = thread(); n < count; n += BLOCK) {
        u64 key = key_of(values[n], n);
        if (key >= bound)
            keys[atomic_add_shared(&found, 1)] = key;
    }
    block_barrier();
    u32 candidates = found;
#pragma unroll 1
    for (u32 n = thread(); n < candidates; n += BLOCK) {
        u64 key = keys[n];
        u32 rank = 0;
#pragma unroll 4
        for (u32 m = 0; m < candidates; ++m)
            rank += keys[m] > key;
        if (rank < k)
            top[rank] = values[number_of(key)];
    }
    block_barrier();
    if (strange && thread() == 0)
        largest_in_order(values, count, top, k);
    block_barrier();
}

// RIDE's expert assignment, in thread 0. Products are computed side by side, and added in order.
INLINE float assignment(const Program &p, const Op &op, const float *logits)
{
    Dense hidden = dense_of(p, op, op.feature);
    if (hidden.normalize && norm_of(hidden) == 0.0f)
        return __builtin_nanf("");
    u64 *keys = (u64 *)(p.control + SCRATCH);
    float *terms = (float *)(keys + op.out_c), *units = terms + op.top_k;
#pragma unroll 1
    for (u32 j = warp(); j < hidden.outputs; j += WARPS) {
        float value = dense_output(hidden, j);
        if (lane() == 0)
            units[j] = value > 0.0f ? value : 0.0f;
    }
    largest(logits, op.out_c, keys, terms, op.top_k);
    const float *weights = constants<float>(p, op.fc);
    u32 count = op.top_k + hidden.outputs;
    for (u32 i = thread(); i < count; i += BLOCK)
        terms[i] *= weights[i];
    block_barrier();
    float z = weights[count];
    if (thread() == 0) {
#pragma unroll 8
        for (u32 i = 0; i < count; ++i)
            z += terms[i];
    }
    return z;
}

// What the routers are asked: nothing, with the artifact's thresholds, or with another one.
struct Asked {
    u32 mode;
    float threshold;
};
enum { NOBODY, ROUTERS, WITH_THRESHOLD };

INLINE void combine(const Program &p, const Op &op)
{
    float *logits = (float *)(p.arena + op.source_hi), *sum = (float *)(p.arena + op.source_lo);
    float *copy = (float *)(p.result + op.logits);
    for (u32 j = thread(); j < op.out_c; j += BLOCK) {
        float total = op.flags & FIRST ? logits[j] : sum[j] + logits[j];
        sum[j] = total;
        copy[j] = logits[j] = total / op.divisor;
    }
}

// `op.before` is the number of the expert.
INLINE void join_expert(const Program &p, const Op &op, const Asked &asked)
{
    if (block() != 0)
        return;
    combine(p, op);
    block_barrier();
    float score = 0.0f;
    bool proceed = true;
    if (asked.mode != NOBODY && op.rule != NO_RULE) {
        const float *logits = (const float *)(p.arena + op.source_hi);
        score = op.rule == ASSIGNMENT ? assignment(p, op, logits) : confidence(op, logits);
        float threshold = asked.mode == ROUTERS ? op.threshold : asked.threshold;
        bool above = op.rule == ASSIGNMENT || op.rule == ENTROPY;
        proceed = above ? score > threshold : score < threshold;
    }
    if (thread() == 0) {
        p.control[PROCEED] = proceed;
        p.result[EXPERTS] = op.before + 1;
        u32 bits;
        __builtin_memcpy(&bits, &score, 4);
        p.result[ROUTES + 2 * op.before] = bits;
        p.result[ROUTES + 2 * op.before + 1] = proceed;
    }
}

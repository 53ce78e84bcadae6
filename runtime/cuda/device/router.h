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

struct Two {
    float largest, second;
};

INLINE Two two_largest(const float *logits, u32 classes)
{
    float none = -__builtin_inff();
    Two two = {none, none};
#pragma unroll 1
    for (u32 j = 0; j < classes; ++j) {
        float v = logits[j];
        if (v > two.largest) {
            two.second = two.largest;
            two.largest = v;
        } else if (v > two.second) {
            two.second = v;
        }
    }
    if (classes < 2)
        two.second = two.largest;
    return two;
}

// The score of the mean logits, in thread 0. Exponentials are computed side by side and added in order.
INLINE float confidence(const Op &op, const float *logits, float *scratch)
{
    Two two = two_largest(logits, op.out_c);
    if (op.rule == MARGIN)
        return two.largest - two.second;
    for (u32 j = thread(); j < op.out_c; j += BLOCK)
        scratch[j] = exponential(logits[j] - two.largest);
    block_barrier();
    float sum = 0.0f, weighted = 0.0f;
    if (thread() == 0) {
#pragma unroll 1
        for (u32 j = 0; j < op.out_c; ++j) {
            float e = scratch[j];
            sum += e;
            weighted += e > 0.0f ? e * (logits[j] - two.largest) : 0.0f;
        }
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

// The `k` largest values in descending order: each value finds its rank by itself.
INLINE void largest(const float *values, u32 count, float *top, u32 k)
{
    __shared__ u32 strange;
    if (thread() == 0)
        strange = 0;
    block_barrier();
#pragma unroll 1
    for (u32 n = thread(); n < count; n += BLOCK) {
        float v = values[n];
        u32 rank = 0;
#pragma unroll 4
        for (u32 m = 0; m < count; ++m) {
            float other = values[m];
            rank += other > v || (other == v && m < n);
        }
        if (v != v)
            asm volatile("st.volatile.shared.u32 [%0], 1;" ::"r"((u32)(u64)(__attribute__((address_space(3))) u32 *)&strange) : "memory");
        else if (rank < k)
            top[rank] = v;
    }
    block_barrier();
    if (strange && thread() == 0)
        largest_in_order(values, count, top, k);
    block_barrier();
}

// RIDE's expert assignment, in thread 0.
INLINE float assignment(const Program &p, const Op &op, const float *logits, float *scratch)
{
    Dense hidden = dense_of(p, op, op.feature);
    if (hidden.normalize && norm_of(hidden) == 0.0f)
        return __builtin_nanf("");
    float *units = scratch + op.top_k;
#pragma unroll 1
    for (u32 j = warp(); j < hidden.outputs; j += WARPS) {
        float value = dense_output(hidden, j);
        if (lane() == 0)
            units[j] = value;
    }
    largest(logits, op.out_c, scratch, op.top_k);
    const float *weights = constants<float>(p, op.fc);
    float z = weights[op.top_k + hidden.outputs];
    if (thread() == 0) {
#pragma unroll 1
        for (u32 i = 0; i < op.top_k; ++i)
            z += weights[i] * scratch[i];
#pragma unroll 1
        for (u32 i = 0; i < hidden.outputs; ++i)
            z += weights[op.top_k + i] * (units[i] > 0.0f ? units[i] : 0.0f);
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
        float *scratch = (float *)(p.control + SCRATCH);
        score = op.rule == ASSIGNMENT ? assignment(p, op, logits, scratch) : confidence(op, logits, scratch);
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

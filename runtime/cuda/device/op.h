// The operation table. Field for field the `Record` of `src/program/record.rs`.
#pragma once
#include "shim.h"

enum Kind { LOAD, CONV, SHORTCUT, MAX_POOL, POOL, HEAD, JOIN };

enum Flag {
    WIDE = 1,       // the output has a low plane
    ACCUMULATE = 2, // the residual lies in the output
    RAW = 4,        // residual or output is raw
    IMAGE = 8,      // reads the caller's image
    WORDS = 16,     // four channels of a pixel are an aligned word
    NORMALIZE = 32, // the inverse norm is a factor
    FIRST = 64,     // the first expert starts the sum
    UNSIGNED = 128, // the input's bytes count from -128 on: pixels, low planes
    FINE = 256,     // two rows for each class: the second half of the outputs is added to the first
};

enum Rule { NO_RULE, ASSIGNMENT, MAX_PROBABILITY, MARGIN, ENTROPY };

struct Op {
    u32 kind, flags, tile;
    u32 in_h, in_w, in_c;
    u32 out_h, out_w, out_c;
    u32 kernel, stride, padding;
    u32 groups, group_in, group_out;
    u32 words;   // words of a window, padded for the path
    u32 columns; // output channels of a group, padded for the path
    u32 source_hi, source_lo, out_hi, out_lo;
    i32 zero, min, max;
    u32 border, taps, weights, params; // offsets of constants
    i32 in_zero, multiplier;
    u32 right_shift, before;
    u32 features, outputs;
    float divisor, threshold;
    u32 rule, top_k, fc, feature;
    u32 logits; // word of the host's copy
};

// One word of a window: four channels at one place. `count` of them exist. Padding is all zeros.
struct Tap {
    u8 dy, dx, count, unused;
    i32 at; // from the window's first pixel
};

// Parameters of one output channel.
struct Param {
    i32 bias, multiplier, right_shift, unused;
};

// Control words: what blocks tell each other. From SCRATCH on, keys of the routers (two words for each class), then floats.
enum Control {
    ARRIVED, // the grid's barrier
    POOLED,  // blocks that have pooled their channels
    PROCEED, // the last router's decision
    SCRATCH = 8
};

// What the host reads: the number of experts that have run, score and decision behind each of them, then the mean logits.
enum Result { EXPERTS, ROUTES };

struct Program {
    const Op *ops;
    const u8 *constants;
    u8 *arena;
    const u8 *image;
    u32 *control;
    u32 *result;
};

template <class T> INLINE const T *constants(const Program &p, u32 at) { return (const T *)(p.constants + at); }

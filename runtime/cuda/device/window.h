// How convolutions see their input: words of four channels, gathered through a table of the window's places.
#pragma once
#include "law.h"

// The window of one output pixel.
struct Window {
    i32 y, x; // input place of its first row and column, perhaps beyond the border
    i32 at;   // byte offset of that place
};

INLINE Window window_of(const Op &op, u32 pixel)
{
    u32 row = pixel / op.out_w, column = pixel - row * op.out_w;
    Window w;
    w.y = (i32)(row * op.stride) - (i32)op.padding;
    w.x = (i32)(column * op.stride) - (i32)op.padding;
    w.at = (w.y * (i32)op.in_w + w.x) * (i32)op.in_c;
    return w;
}

// What all windows of one group have in common.
struct Input {
    const u8 *source; // the group's first channel of the first pixel
    const u8 *border; // eight bytes that are read in place of what lies beyond it
    u32 height, width;
    u32 flip; // makes bytes signed
};

INLINE Input input_of(const Program &p, const Op &op, u32 group)
{
    u32 first = group * op.group_in;
    Input in;
    in.source = (op.flags & IMAGE ? p.image : p.arena + op.source_hi) + first;
    in.border = p.constants + op.border + (first & 3);
    in.height = op.in_h;
    in.width = op.in_w;
    in.flip = op.flags & UNSIGNED ? 0x80808080u : 0;
    return in;
}

// Taps as they are loaded, eight bytes each: the entries of an operation's table.
INLINE const u64 *taps_of(const Program &p, const Op &op) { return constants<u64>(p, op.taps); }

INLINE Tap tap_of(u64 bits)
{
    Tap tap;
    tap.unused = 0;
    tap.dy = (u8)bits;
    tap.dx = (u8)(bits >> 8);
    tap.count = (u8)(bits >> 16);
    tap.at = (i32)(bits >> 32);
    return tap;
}

// Four channels at one place of a window, before `flip`; WORD says that they are an aligned word. Channels that do not exist
// have zero weights, so any bytes will do for them. There are no branches, and nothing waits for what has been loaded, so that
// many loads can be under way at the same time.
template <bool WORD> INLINE u32 word_at(const Input &in, const Window &w, const Tap &tap)
{
    bool inside = ((u32)(w.y + tap.dy) < in.height) & ((u32)(w.x + tap.dx) < in.width);
    const u8 *from = inside ? in.source + (w.at + tap.at) : in.border;
    if (WORD)
        return *(const u32 *)from;
    u32 second = tap.count > 1 ? 1 : 0, third = tap.count > 2 ? 2 : 0, fourth = tap.count > 3 ? 3 : 0;
    return from[0] | (u32)from[second] << 8 | (u32)from[third] << 16 | (u32)from[fourth] << 24;
}

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
    u32 border, flip;
    bool words;
};

INLINE Input input_of(const Program &p, const Op &op, u32 group)
{
    u32 first = group * op.group_in, turn = 8 * (first & 3);
    Input in;
    in.source = (op.flags & IMAGE ? p.image : p.arena + op.source_hi) + first;
    in.border = turn ? op.border >> turn | op.border << (32 - turn) : op.border;
    in.flip = op.flags & IMAGE ? 0x80808080u : 0;
    in.words = op.flags & WORDS;
    return in;
}

// Four channels at one place of a window, as signed bytes. Channels that do not exist have zero weights.
INLINE u32 word_at(const Op &op, const Input &in, const Window &w, const Tap &tap)
{
    if (tap.count == 0 || (u32)(w.y + tap.dy) >= op.in_h || (u32)(w.x + tap.dx) >= op.in_w)
        return in.border;
    const u8 *from = in.source + (w.at + tap.at);
    if (in.words)
        return *(const u32 *)from ^ in.flip;
    u32 word = from[0];
    if (tap.count > 1)
        word |= (u32)from[1] << 8;
    if (tap.count > 2)
        word |= (u32)from[2] << 16;
    if (tap.count > 3)
        word |= (u32)from[3] << 24;
    return word ^ in.flip;
}

#include "stack.h"

#define PAINT UINT32_C(0x5afe57ac)

/* Bytes below the top that are painted. */
enum { DEPTH = 16 << 10 };

/* End of the static variables (from the linker script): the stack must not grow below it. */
extern uint32_t memory_end[];

static uintptr_t floor_below(const void *top)
{
    uintptr_t end = (uintptr_t)memory_end, deepest = (uintptr_t)top - DEPTH;
    return (deepest > end ? deepest : end) & ~(uintptr_t)3;
}

/* Paints up to this function's own frame; what lies above is in use anyway. An interrupt's frame, pushed in between, is
 * popped before the next word is written. */
void stack_paint(void *unused, const void *top)
{
    volatile uint32_t *word = (volatile uint32_t *)floor_below(top);
    const uintptr_t own = (uintptr_t)__builtin_frame_address(0) - 64;
    (void)unused;
    for (; (uintptr_t)word < own; word++)
        *word = PAINT;
}

uint64_t stack_used(void *unused, const void *top)
{
    const volatile uint32_t *word = (const volatile uint32_t *)floor_below(top);
    (void)unused;
    while ((uintptr_t)word < (uintptr_t)top && *word == PAINT)
        word++;
    return (uintptr_t)top - (uintptr_t)word;
}

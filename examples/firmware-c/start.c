/* Start-up: vectors, memory, and what faults do. */
#include <stdint.h>

#include "clock.h"
#include "semihosting.h"

/* From the linker script. */
extern uint32_t stack_top[], data_load[], data_start[], data_end[], bss_start[], bss_end[];

int main(void);

/* Not static: the linker must not drop it. */
__attribute__((used, noinline)) void start(void)
{
    const uint32_t *from = data_load;
    uint32_t *to;
    for (to = data_start; to < data_end; to++)
        *to = *from++;
    for (to = bss_start; to < bss_end; to++)
        *to = 0;
    semihosting_exit(main());
}

__attribute__((noreturn)) void reset(void)
{
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    /* Floating-point and vector registers: before any function that might use them. */
    *(volatile uint32_t *)0xe000ed88u |= UINT32_C(0xf) << 20;
    __asm__ volatile("dsb\n\tisb" : : : "memory");
#endif
    start();
    for (;;)
        ;
}

static void fault(void)
{
    static const char text[] = "error: the processor took a fault\n";
    semihosting_write(text, sizeof text - 1);
    semihosting_exit(3);
}

struct vectors {
    const void *stack;
    void (*handlers[15])(void);
};

__attribute__((section(".vectors"), used)) static const struct vectors vectors = {
    stack_top,
    {reset, fault, fault, fault, fault, fault, fault, 0, 0, 0, fault, fault, 0, fault, clock_tick},
};

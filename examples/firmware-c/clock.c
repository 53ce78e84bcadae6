#include "clock.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define SYST_CSR REGISTER(0xe000e010u)
#define SYST_RVR REGISTER(0xe000e014u)
#define SYST_CVR REGISTER(0xe000e018u)
#define DEMCR REGISTER(0xe000edfcu)
#define DWT_CTRL REGISTER(0xe0001000u)
#define DWT_CYCCNT REGISTER(0xe0001004u)

/* SysTick counts 24 bits down. */
#define PERIOD (UINT32_C(1) << 24)
/* Instructions a second under QEMU's `-icount shift=0`: each takes a nanosecond. */
#define EMULATED_PER_SECOND UINT64_C(1000000000)

static volatile uint32_t wraps;
static int cycles;

void clock_tick(void)
{
    wraps = wraps + 1;
}

/* Whether there is a cycle counter that counts: QEMU has one that does not, Armv6-M has none. */
static int start_cycles(void)
{
#if defined(__ARM_ARCH_6M__)
    return 0;
#else
    uint32_t start;
    int n;
    DEMCR |= UINT32_C(1) << 24;
    if ((DWT_CTRL & UINT32_C(1) << 25) != 0)
        return 0;
    DWT_CTRL |= 1;
    start = DWT_CYCCNT;
    for (n = 0; n < 64; n++)
        __asm__ volatile("nop");
    return DWT_CYCCNT != start;
#endif
}

report_timer clock_start(void)
{
    report_timer timer;
    SYST_RVR = PERIOD - 1;
    SYST_CVR = 0;
    /* The core's clock, interrupt, on. */
    SYST_CSR = 7;
    cycles = start_cycles();
    timer.name = cycles ? "dwt" : "systick";
    timer.counts = BOARD_EMULATED && !cycles ? "instructions" : "cycles";
    timer.per_second = BOARD_CLOCK_HZ;
    return timer;
}

/* 64 bits of SysTick. */
static uint64_t systick(void)
{
    for (;;) {
        uint32_t before = wraps, count = SYST_CVR;
        if (before == wraps) {
            uint64_t ticks = (uint64_t)before * PERIOD + (PERIOD - 1 - count);
            return BOARD_EMULATED ? ticks * (EMULATED_PER_SECOND / BOARD_CLOCK_HZ) : ticks;
        }
    }
}

uint64_t clock_now(void *unused)
{
    (void)unused;
#if !defined(__ARM_ARCH_6M__)
    if (cycles)
        return DWT_CYCCNT;
#endif
    return systick();
}

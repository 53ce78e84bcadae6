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

/* Instructions of the loop that shows whether they are counted. */
#define PROBE (UINT32_C(1) << 18)

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

/* 64 bits of SysTick. */
static uint64_t systick(void)
{
    for (;;) {
        uint32_t before = wraps, count = SYST_CVR;
        if (before == wraps) {
            /* It counts from the period's last value down to 0, where the exception comes. */
            uint64_t ticks = (uint64_t)before * PERIOD + (PERIOD - count) % PERIOD;
            return BOARD_EMULATED ? ticks * (EMULATED_PER_SECOND / BOARD_CLOCK_HZ) : ticks;
        }
    }
}

/* Whether a loop of known length takes a nanosecond for each of its instructions: QEMU runs with `-icount shift=0`. */
static int counts_instructions(void)
{
    uint32_t rounds = PROBE / 2;
    uint64_t start = systick(), took;
    __asm__ volatile(".syntax unified\n1:\tsubs %0, #1\n\tbne 1b" : "+l"(rounds) : : "cc");
    took = systick() - start;
    return took > PROBE - PROBE / 64 && took < PROBE + PROBE / 64;
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
    timer.counts = "cycles";
    timer.per_second = BOARD_CLOCK_HZ;
    if (BOARD_EMULATED && !cycles) {
        const int counted = counts_instructions();
        /* Without -icount the emulator's clock follows that of its host, which says nothing about a board. */
        timer.name = counted ? "icount" : "host";
        timer.counts = counted ? "instructions" : "nanoseconds";
        timer.per_second = counted ? BOARD_CLOCK_HZ : EMULATED_PER_SECOND;
    }
    return timer;
}

/* The cycle counter made 64 bits wide. Looks at it are less than 2^32 cycles apart: every inference begins and ends with
 * one. */
static uint64_t cycle_count(void)
{
    static uint64_t seen;
    seen += (uint32_t)(DWT_CYCCNT - (uint32_t)seen);
    return seen;
}

uint64_t clock_now(void *unused)
{
    (void)unused;
    return cycles ? cycle_count() : systick();
}

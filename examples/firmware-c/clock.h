/* The clock: the cycle counter where the core has one that runs, SysTick otherwise. */
#ifndef CLOCK_H
#define CLOCK_H

#include <stdint.h>

#include "report.h"

/* Starts it and tells what it counts. */
report_timer clock_start(void);
uint64_t clock_now(void *unused);
/* SysTick's interrupt. */
void clock_tick(void);

#endif

/*
 * Device reports: what `ride-compile bench --json` says about the host, said by a device. Tests the artifact, classifies
 * images, measures latency against the number of experts and writes JSON piece by piece.
 */
#ifndef REPORT_H
#define REPORT_H

#include "ride.h"

/* What times are counted in. */
typedef struct report_timer {
    const char *name;    /* the counter, as in "dwt" */
    const char *counts;  /* "cycles", "instructions" or "nanoseconds" */
    uint64_t per_second; /* counts of a second */
} report_timer;

/* What a machine does for a report. `user` is passed to all functions. */
typedef struct report_machine {
    void *user;
    /* Counts since some moment in the past. */
    uint64_t (*now)(void *user);
    /* Takes the next piece of the report. */
    void (*write)(void *user, const char *text, size_t bytes);
    /* Before the inference whose need of stack is measured; `top` is where the stack is now. May be null. */
    void (*before_stack)(void *user, const void *top);
    /* After it: bytes of stack below `top` that it took. Null exactly if before_stack is. */
    uint64_t (*stack_bytes)(void *user, const void *top);
} report_machine;

/* What is measured. */
typedef struct report_setup {
    const char *cpu;
    report_timer timer;
    const uint8_t *images; /* one after the other */
    size_t images_bytes;
    unsigned rounds; /* how often each image is measured */
} report_setup;

/* Writes the report of a session of `model`. `pixels` is memory for an image. */
ride_status report_run(
    const report_machine *machine,
    const ride_model *model,
    ride_session *session,
    uint8_t *pixels,
    const report_setup *setup);

#endif

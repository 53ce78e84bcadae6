/*
 * The smallest firmware: opens and tests the embedded artifact and classifies images for ever. What it links besides the
 * artifact and the start-up code is the runtime, so its size is the runtime's size.
 */
#include "clock.h"
#include "model.h"
#include "ride.h"
#include "semihosting.h"

/* The class of the image, for a debugger to read, and the last status. */
volatile uint32_t ride_class;
volatile ride_status ride_last;

static ride_model model;
static ride_session session;
static uint8_t arena[MODEL_ARENA_BYTES] __attribute__((aligned(RIDE_ALIGN)));
static uint8_t pixels[MODEL_IMAGE_BYTES];

static ride_status run(void)
{
    ride_outcome outcome;
    ride_status status = ride_model_open(&model, model_artifact, MODEL_BYTES, NULL);
    if (status == RIDE_STATUS_OK)
        status = ride_session_init(&session, &model, arena, sizeof arena, NULL);
    if (status == RIDE_STATUS_OK)
        status = ride_self_test(&session, pixels, sizeof pixels, NULL);
    while (status == RIDE_STATUS_OK) {
        /* Here a camera would fill the pixels; the first time they are those of the last golden vector. */
        status = ride_classify(&session, pixels, sizeof pixels, NULL, &outcome);
        ride_class = outcome.class_index;
    }
    return status;
}

int main(void)
{
    ride_last = run();
    return 1;
}

/* Nothing here measures time or writes text: the start-up code's references end here. */
void clock_tick(void)
{
}

void semihosting_write(const char *text, size_t bytes)
{
    (void)text;
    (void)bytes;
}

void semihosting_exit(int code)
{
    (void)code;
    for (;;)
        __asm__ volatile("wfi");
}

/*
 * Classifies embedded images with an embedded artifact, tests it, and reports latency against the number of experts as
 * JSON through the debugger.
 */
#include "clock.h"
#include "model.h"
#include "report.h"
#include "ride.h"
#include "semihosting.h"
#include "stack.h"

#if MODEL_ALIGN < RIDE_ALIGN
#error "the model's files were made by another version of ride-compile"
#endif

/* Images, as a camera would give them: raw pixels, one image after the other (images.S). */
extern const uint8_t images[], images_end[];

static ride_model model;
static ride_session session;
static uint8_t arena[MODEL_ARENA_BYTES] __attribute__((aligned(RIDE_ALIGN)));
static uint8_t pixels[MODEL_IMAGE_BYTES];

static void put(void *unused, const char *text, size_t bytes)
{
    (void)unused;
    semihosting_write(text, bytes);
}

static void say(const char *text)
{
    size_t bytes = 0;
    while (text[bytes] != '\0')
        bytes++;
    semihosting_write(text, bytes);
}

static ride_status run(ride_detail *detail)
{
    report_machine machine;
    report_setup setup;
    ride_status status = ride_model_open(&model, model_artifact, MODEL_BYTES, detail);
    if (status == RIDE_STATUS_OK)
        status = ride_session_init(&session, &model, arena, sizeof arena, detail);
    if (status != RIDE_STATUS_OK)
        return status;
    machine.user = NULL;
    machine.now = clock_now;
    machine.write = put;
    machine.before_stack = stack_paint;
    machine.stack_bytes = stack_used;
    setup.cpu = BOARD_NAME;
    setup.timer = clock_start();
    setup.images = images;
    setup.images_bytes = (size_t)(images_end - images);
    setup.rounds = 1;
    return report_run(&machine, &model, &session, pixels, &setup);
}

int main(void)
{
    ride_detail detail;
    ride_status status = run(&detail);
    if (status == RIDE_STATUS_OK)
        return 0;
    say("error: ");
    say(ride_status_text(status));
    if (status == detail.status && detail.reason.bytes > 0) {
        say(" (");
        semihosting_write(detail.section.at, detail.section.bytes);
        say(": ");
        semihosting_write(detail.reason.at, detail.reason.bytes);
        say(")");
    }
    say("\n");
    return 1;
}

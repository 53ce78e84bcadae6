/*
 * Calls everything with what it must refuse, and checks the status.
 *   hostile ARTIFACT     (with routers)
 */
#include "common.h"

static int failures;

#define WANT(status, call) want(status, call, __LINE__, #call)

static void want(ride_status wanted, ride_status found, int line, const char *call)
{
    if (found != wanted) {
        printf("line %d: %s\n  gives %s instead of %s\n", line, call, ride_status_name(found), ride_status_name(wanted));
        failures++;
    }
}

static file artifact;
static ride_model model;
static ride_session session;
static ride_info info;
static uint8_t *arena, *image;
static ride_outcome outcome;

/* A pointer that is not aligned to anything. */
#define SHIFTED(type, pointer) ((type *)(void *)((uint8_t *)(pointer) + 1))

static void models(void)
{
    ride_model other;
    ride_detail detail;
    uint8_t *copy = aligned(artifact.length, 0);
    size_t n;
    memset(&other, 0x5a, sizeof other);
    WANT(RIDE_STATUS_NOT_INITIALISED, ride_model_info(&other, &info));
    WANT(RIDE_STATUS_NULL_POINTER, ride_model_open(NULL, artifact.bytes, artifact.length, NULL));
    WANT(RIDE_STATUS_NULL_POINTER, ride_model_open(&other, NULL, artifact.length, NULL));
    WANT(RIDE_STATUS_NULL_POINTER, ride_model_open(&other, NULL, 0, &detail));
    WANT(RIDE_STATUS_MISALIGNED, ride_model_open(SHIFTED(ride_model, &other), artifact.bytes, 9, NULL));
    WANT(RIDE_STATUS_INVALID_LENGTH, ride_model_open(&other, artifact.bytes, (size_t)-1, NULL));
    WANT(RIDE_STATUS_INVALID_LENGTH, ride_model_open(&other, artifact.bytes, (size_t)-1 / 2 + 1, NULL));
    WANT(RIDE_STATUS_OVERLAP, ride_model_open((ride_model *)(void *)artifact.bytes, artifact.bytes, 64, NULL));
    WANT(RIDE_STATUS_TRUNCATED, ride_model_open(&other, artifact.bytes, 0, &detail));
    for (n = 1; n < artifact.length; n += n < 300 ? 1 : 997) {
        WANT(RIDE_STATUS_TRUNCATED, ride_model_open(&other, artifact.bytes, n, &detail));
        if (detail.status != RIDE_STATUS_TRUNCATED || detail.found != n || detail.section.bytes == 0)
            failures++;
    }
    /* A failure leaves no model, even where there was one. */
    WANT(RIDE_STATUS_OK, ride_model_open(&other, artifact.bytes, artifact.length, &detail));
    WANT(RIDE_STATUS_OK, detail.status);
    WANT(RIDE_STATUS_TRUNCATED, ride_model_open(&other, artifact.bytes, 100, NULL));
    WANT(RIDE_STATUS_NOT_INITIALISED, ride_model_info(&other, &info));
    for (n = 0; n < artifact.length; n += n < 400 ? 1 : 499) {
        ride_status status;
        memcpy(copy, artifact.bytes, artifact.length);
        copy[n] ^= 0x10;
        status = ride_model_open(&other, copy, artifact.length, &detail);
        if (status == RIDE_STATUS_OK || status != detail.status) {
            printf("byte %u may be anything\n", (unsigned)n);
            failures++;
        }
    }
    copy[0] = 'r';
    WANT(RIDE_STATUS_NOT_AN_ARTIFACT, ride_model_open(&other, copy, artifact.length, NULL));
}

static void queries(void)
{
    ride_text text;
    ride_group group;
    uint32_t count;
    uint64_t macs;
    WANT(RIDE_STATUS_NULL_POINTER, ride_model_info(&model, NULL));
    WANT(RIDE_STATUS_NULL_POINTER, ride_model_info(NULL, &info));
    WANT(RIDE_STATUS_MISALIGNED, ride_model_info(&model, SHIFTED(ride_info, &info)));
    WANT(RIDE_STATUS_OUT_OF_RANGE, ride_model_class_name(&model, info.classes, &text));
    WANT(RIDE_STATUS_OUT_OF_RANGE, ride_model_class_group(&model, 0xffffffffu, &group));
    WANT(RIDE_STATUS_OUT_OF_RANGE, ride_model_train_count(&model, info.classes, &count));
    WANT(RIDE_STATUS_NULL_POINTER, ride_model_class_name(&model, 0, NULL));
    WANT(RIDE_STATUS_EXPERTS, ride_model_macs(&model, info.experts + 1, &macs));
    WANT(RIDE_STATUS_EXPERTS, ride_model_macs(&model, 0xffffffffu, &macs));
}

static void sessions(void)
{
    ride_session other;
    ride_model none;
    ride_detail detail;
    const size_t bytes = info.arena_bytes;
    memset(&none, 0, sizeof none);
    WANT(RIDE_STATUS_NULL_POINTER, ride_session_init(NULL, &model, arena, bytes, NULL));
    WANT(RIDE_STATUS_NULL_POINTER, ride_session_init(&other, NULL, arena, bytes, NULL));
    WANT(RIDE_STATUS_NULL_POINTER, ride_session_init(&other, &model, NULL, bytes, NULL));
    WANT(RIDE_STATUS_NOT_INITIALISED, ride_session_init(&other, &none, arena, bytes, NULL));
    WANT(RIDE_STATUS_MISALIGNED, ride_session_init(SHIFTED(ride_session, &other), &model, arena, bytes, NULL));
    WANT(RIDE_STATUS_ARENA_TOO_SMALL, ride_session_init(&other, &model, arena, 0, NULL));
    WANT(RIDE_STATUS_ARENA_TOO_SMALL, ride_session_init(&other, &model, arena, bytes - 1, &detail));
    if (detail.needed != bytes || detail.found != bytes - 1)
        failures++;
    WANT(RIDE_STATUS_ARENA_MISALIGNED, ride_session_init(&other, &model, aligned(bytes, 32), bytes, NULL));
    WANT(RIDE_STATUS_INVALID_LENGTH, ride_session_init(&other, &model, arena, (size_t)-1, NULL));
    WANT(RIDE_STATUS_OVERLAP, ride_session_init((ride_session *)(void *)arena, &model, arena, bytes, NULL));
    WANT(RIDE_STATUS_OVERLAP, ride_session_init(&other, &model, artifact.bytes, artifact.length, NULL));
    WANT(RIDE_STATUS_MISALIGNED, ride_session_init(&other, &model, arena, bytes, SHIFTED(ride_detail, &detail)));
    /* Memory that never was a session: zeros, anything, a copy of one. */
    memset(&other, 0, sizeof other);
    WANT(RIDE_STATUS_NOT_INITIALISED, ride_classify(&other, image, info.image_bytes, NULL, &outcome));
    memset(&other, 0xa5, sizeof other);
    WANT(RIDE_STATUS_NOT_INITIALISED, ride_start(&other, image, info.image_bytes));
    other = session;
    WANT(RIDE_STATUS_NOT_INITIALISED, ride_classify(&other, image, info.image_bytes, NULL, &outcome));
    WANT(RIDE_STATUS_NULL_POINTER, ride_start(NULL, image, info.image_bytes));
}

static void order(void)
{
    ride_progress progress;
    uint32_t n;
    WANT(RIDE_STATUS_OK, ride_session_init(&session, &model, arena, info.arena_bytes, NULL));
    WANT(RIDE_STATUS_OUT_OF_ORDER, ride_outcome_so_far(&session, &outcome));
    WANT(RIDE_STATUS_OUT_OF_ORDER, ride_step(&session, &progress));
    WANT(RIDE_STATUS_OK, ride_start(&session, image, info.image_bytes));
    WANT(RIDE_STATUS_OUT_OF_ORDER, ride_outcome_so_far(&session, &outcome));
    for (n = 0; n < info.experts; n++)
        WANT(RIDE_STATUS_OK, ride_step(&session, &progress));
    WANT(RIDE_STATUS_OUT_OF_ORDER, ride_step(&session, &progress));
    WANT(RIDE_STATUS_OK, ride_outcome_so_far(&session, &outcome));
    WANT(RIDE_STATUS_NULL_POINTER, ride_step(&session, NULL));
    WANT(RIDE_STATUS_NULL_POINTER, ride_outcome_so_far(&session, NULL));
    /* An image of the wrong length ends the sample. */
    WANT(RIDE_STATUS_IMAGE_LENGTH, ride_start(&session, image, info.image_bytes - 1));
    WANT(RIDE_STATUS_OUT_OF_ORDER, ride_step(&session, &progress));
}

static void calls(void)
{
    ride_policy policy = {4, 1, 0};
    uint32_t vectors;
    const size_t bytes = info.image_bytes;
    WANT(RIDE_STATUS_OUT_OF_RANGE, ride_classify(&session, image, bytes, &policy, &outcome));
    policy.kind = RIDE_POLICY_EXACTLY;
    policy.experts = 0;
    WANT(RIDE_STATUS_EXPERTS, ride_classify(&session, image, bytes, &policy, &outcome));
    policy.experts = info.experts + 1;
    WANT(RIDE_STATUS_EXPERTS, ride_classify(&session, image, bytes, &policy, &outcome));
    policy.experts = 0xffffffffu;
    WANT(RIDE_STATUS_EXPERTS, ride_classify(&session, image, bytes, &policy, &outcome));
    WANT(RIDE_STATUS_MISALIGNED, ride_classify(&session, image, bytes, SHIFTED(ride_policy, &policy), &outcome));
    WANT(RIDE_STATUS_NULL_POINTER, ride_classify(&session, NULL, bytes, NULL, &outcome));
    WANT(RIDE_STATUS_NULL_POINTER, ride_classify(&session, image, bytes, NULL, NULL));
    WANT(RIDE_STATUS_MISALIGNED, ride_classify(&session, image, bytes, NULL, SHIFTED(ride_outcome, &outcome)));
    WANT(RIDE_STATUS_IMAGE_LENGTH, ride_classify(&session, image, 0, NULL, &outcome));
    WANT(RIDE_STATUS_IMAGE_LENGTH, ride_classify(&session, image, bytes + 1, NULL, &outcome));
    WANT(RIDE_STATUS_INVALID_LENGTH, ride_classify(&session, image, (size_t)-1, NULL, &outcome));
    WANT(RIDE_STATUS_OVERLAP, ride_classify(&session, arena, bytes, NULL, &outcome));
    WANT(RIDE_STATUS_OVERLAP, ride_classify(&session, (uint8_t *)&session + 8, bytes, NULL, &outcome));
    WANT(RIDE_STATUS_OVERLAP, ride_classify(&session, image, bytes, NULL, (ride_outcome *)(void *)&session));
    WANT(RIDE_STATUS_OVERLAP, ride_classify(&session, image, bytes, NULL, (ride_outcome *)(void *)arena));
    WANT(RIDE_STATUS_OVERLAP, ride_self_test(&session, arena, bytes, &vectors));
    WANT(RIDE_STATUS_OVERLAP, ride_self_test(&session, artifact.bytes, bytes, &vectors));
    WANT(RIDE_STATUS_IMAGE_LENGTH, ride_self_test(&session, image, bytes - 1, NULL));
    WANT(RIDE_STATUS_NULL_POINTER, ride_self_test(&session, NULL, bytes, NULL));
    WANT(RIDE_STATUS_OK, ride_self_test(&session, image, bytes, NULL));
    WANT(RIDE_STATUS_OK, ride_classify(&session, image, bytes, NULL, &outcome));
}

/* What a callback asks of the session that is calling it. */
static void nested(void *user, const ride_op_event *event)
{
    ride_outcome inner;
    ride_progress progress;
    (void)event;
    ++*(unsigned *)user;
    WANT(RIDE_STATUS_BUSY, ride_classify(&session, image, info.image_bytes, NULL, &inner));
    WANT(RIDE_STATUS_BUSY, ride_step(&session, &progress));
    WANT(RIDE_STATUS_BUSY, ride_outcome_so_far(&session, &inner));
    WANT(RIDE_STATUS_BUSY, ride_self_test(&session, image, info.image_bytes, NULL));
}

static void callbacks(void)
{
    unsigned events = 0;
    ride_profiler profiler;
    profiler.user = &events;
    profiler.now = NULL;
    profiler.op = NULL;
    WANT(RIDE_STATUS_NULL_POINTER, ride_classify_profiled(&session, image, info.image_bytes, NULL, NULL, &outcome));
    WANT(RIDE_STATUS_NULL_POINTER,
         ride_classify_profiled(&session, image, info.image_bytes, NULL, &profiler, &outcome));
    profiler.op = nested;
    WANT(RIDE_STATUS_OK, ride_classify_profiled(&session, image, info.image_bytes, NULL, &profiler, &outcome));
    if (events == 0)
        failures++;
    WANT(RIDE_STATUS_OK, ride_classify(&session, image, info.image_bytes, NULL, &outcome));
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 9;
    artifact = read_file(argv[1]);
    models();
    WANT(RIDE_STATUS_OK, ride_model_open(&model, artifact.bytes, artifact.length, NULL));
    WANT(RIDE_STATUS_OK, ride_model_info(&model, &info));
    arena = aligned(info.arena_bytes, 0);
    image = aligned(info.image_bytes, 3);
    memset(image, 77, info.image_bytes);
    WANT(RIDE_STATUS_OK, ride_session_init(&session, &model, arena, info.arena_bytes, NULL));
    queries();
    sessions();
    order();
    calls();
    callbacks();
    if (strcmp(ride_status_name(12345), "unknown status") != 0 || strcmp(ride_status_name(5), "RIDE_STATUS_NOT_INITIALISED") != 0)
        failures++;
    printf("%d failures\n", failures);
    return failures != 0;
}

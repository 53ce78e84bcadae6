#include "report.h"

#include "json.h"

/* Most times that are kept for medians, and most experts whose use is counted. */
enum { KEPT = 64, COUNTED = 64 };

/* What all functions here work with. */
typedef struct context {
    const report_machine *machine;
    const ride_model *model;
    ride_session *session;
    const report_setup *setup;
    ride_info info;
    size_t images;
} context;

/* Times in counts of the timer, sorted, and how many inferences used 1, 2, ... experts. */
typedef struct samples {
    uint64_t sorted[KEPT];
    size_t kept, count;
    uint64_t sum, min, max;
    uint32_t used[COUNTED];
} samples;

/* CRC-32 (IEEE 802.3) of floats as they travel: little-endian binary32. */
static uint32_t crc_of(const float *values, size_t count)
{
    uint32_t crc = 0xffffffffu;
    size_t n;
    int bit;
    for (n = 0; n < count; n++) {
        union {
            float value;
            uint32_t bits;
        } v;
        v.value = values[n];
        crc ^= v.bits;
        for (bit = 0; bit < 32; bit++)
            crc = (crc >> 1) ^ (0xedb88320u & (0u - (crc & 1u)));
    }
    return ~crc;
}

/* value * factor / divisor without overflow where the product needs more than 64 bits; 0 for a division by zero. */
static uint64_t scaled(uint64_t value, uint64_t factor, uint64_t divisor)
{
    if (divisor == 0)
        return 0;
    if (value == 0 || factor <= UINT64_MAX / value)
        return value * factor / divisor;
    divisor >>= 20;
    return value / (divisor > 0 ? divisor : 1) * (factor >> 20);
}

static void samples_add(samples *s, uint64_t sample)
{
    size_t n;
    s->count++;
    s->sum += sample;
    s->min = sample < s->min ? sample : s->min;
    s->max = sample > s->max ? sample : s->max;
    if (s->kept == KEPT)
        return;
    for (n = s->kept++; n > 0 && s->sorted[n - 1] > sample; n--)
        s->sorted[n] = s->sorted[n - 1];
    s->sorted[n] = sample;
}

static uint64_t median(const samples *s)
{
    return s->kept > 0 ? s->sorted[s->kept / 2] : 0;
}

static void samples_write(const samples *s, json *j, uint64_t per_second)
{
    uint64_t mean = s->count > 0 ? s->sum / s->count : 0;
    json_decimal(j, "median_us", scaled(median(s), 10000000u, per_second), 1);
    /* Of so few samples the largest stands for the quantile. */
    json_decimal(j, "p99_us", scaled(s->max, 10000000u, per_second), 1);
    json_decimal(j, "min_us", scaled(s->count > 0 ? s->min : 0, 10000000u, per_second), 1);
    json_decimal(j, "mean_us", scaled(mean, 10000000u, per_second), 1);
    json_number(j, "median_counts", median(s));
}

/* Times of all images and rounds. */
static ride_status measure(const context *cx, uint32_t kind, uint32_t experts, samples *s)
{
    ride_policy policy;
    unsigned round;
    size_t n;
    policy.kind = kind;
    policy.experts = experts;
    policy.threshold = 0;
    s->kept = s->count = 0;
    s->sum = s->max = 0;
    s->min = UINT64_MAX;
    for (n = 0; n < COUNTED; n++)
        s->used[n] = 0;
    for (round = 0; round < cx->setup->rounds; round++) {
        for (n = 0; n < cx->images; n++) {
            const uint8_t *image = cx->setup->images + n * cx->info.image_bytes;
            uint64_t start = cx->machine->now(cx->machine->user);
            ride_outcome outcome;
            ride_status status = ride_classify(cx->session, image, cx->info.image_bytes, &policy, &outcome);
            if (status != RIDE_STATUS_OK)
                return status;
            samples_add(s, cx->machine->now(cx->machine->user) - start);
            if (outcome.experts >= 1 && outcome.experts <= COUNTED)
                s->used[outcome.experts - 1]++;
        }
    }
    return RIDE_STATUS_OK;
}

static json flat(const context *cx)
{
    return json_begin(cx->machine->write, cx->machine->user, 0);
}

/* Class, experts and the checksum of the logits' bits of each image, for comparison with other machines. */
static ride_status answers(const context *cx)
{
    json j = flat(cx);
    size_t n;
    json_raw(&j, ",\n  \"answers\": [");
    for (n = 0; n < cx->images; n++) {
        const uint8_t *image = cx->setup->images + n * cx->info.image_bytes;
        ride_outcome outcome;
        ride_status status = ride_classify(cx->session, image, cx->info.image_bytes, NULL, &outcome);
        if (status != RIDE_STATUS_OK)
            return status;
        json_raw(&j, n > 0 ? ",\n    " : "\n    ");
        j = flat(cx);
        json_open(&j, "", '{');
        json_number(&j, "class", outcome.class_index);
        json_number(&j, "experts", outcome.experts);
        json_hexadecimal(&j, "logits_crc32", crc_of(outcome.logits, outcome.classes));
        json_close(&j, '}');
    }
    json_raw(&j, "\n  ]");
    return RIDE_STATUS_OK;
}

/* Latency with 1, 2, ... experts. */
static ride_status rows(const context *cx, samples *s)
{
    const uint64_t per_second = cx->setup->timer.per_second;
    json j = flat(cx);
    uint32_t experts;
    json_raw(&j, ",\n  \"rows\": [");
    for (experts = 1; experts <= cx->info.experts; experts++) {
        uint64_t macs = 0;
        ride_status status = measure(cx, RIDE_POLICY_EXACTLY, experts, s);
        if (status == RIDE_STATUS_OK)
            status = ride_model_macs(cx->model, experts, &macs);
        if (status != RIDE_STATUS_OK)
            return status;
        json_raw(&j, experts > 1 ? ",\n    " : "\n    ");
        j = flat(cx);
        json_open(&j, "", '{');
        json_number(&j, "experts", experts);
        samples_write(s, &j, per_second);
        json_number(&j, "macs", macs);
        json_decimal(&j, "gmac_per_s", scaled(macs, per_second, median(s)) / 1000, 6);
        json_close(&j, '}');
    }
    json_raw(&j, "\n  ]");
    return RIDE_STATUS_OK;
}

/* Latency where the routers decide. */
static ride_status routed(const context *cx, samples *s)
{
    json j = flat(cx);
    uint64_t total = 0, runs = 0;
    uint32_t n;
    ride_status status;
    if (!cx->info.routed) {
        json_raw(&j, ",\n  \"routed\": null");
        return RIDE_STATUS_OK;
    }
    status = measure(cx, RIDE_POLICY_ROUTED, 0, s);
    if (status != RIDE_STATUS_OK)
        return status;
    for (n = 0; n < COUNTED; n++) {
        runs += s->used[n];
        total += (uint64_t)(n + 1) * s->used[n];
    }
    runs = runs > 0 ? runs : 1;
    json_raw(&j, ",\n  \"routed\": ");
    json_open(&j, "", '{');
    json_number(&j, "images", cx->images);
    json_decimal(&j, "expected_experts", total * 10000 / runs, 4);
    samples_write(s, &j, cx->setup->timer.per_second);
    json_open(&j, "experts", '[');
    for (n = 0; n < cx->info.experts && n < COUNTED; n++)
        json_decimal(&j, "", (uint64_t)s->used[n] * 10000 / runs, 4);
    json_close(&j, ']');
    json_close(&j, '}');
    return RIDE_STATUS_OK;
}

/* Bytes of stack that an inference with all experts takes. */
static ride_status measure_stack(const context *cx, uint64_t *bytes)
{
    const report_machine *machine = cx->machine;
    ride_policy policy;
    ride_outcome outcome;
    ride_status status;
    policy.kind = RIDE_POLICY_ALL;
    policy.experts = 0;
    policy.threshold = 0;
    if (machine->before_stack != NULL)
        machine->before_stack(machine->user, &policy);
    status = ride_classify(cx->session, cx->setup->images, cx->info.image_bytes, &policy, &outcome);
    if (machine->before_stack != NULL)
        *bytes = machine->stack_bytes(machine->user, &policy);
    return status;
}

/* Everything before the answers. */
static ride_status facts(const context *cx, uint32_t vectors, uint64_t stack)
{
    const report_setup *setup = cx->setup;
    json j = json_begin(cx->machine->write, cx->machine->user, 1);
    ride_kernels kernels;
    ride_status status = ride_session_kernels(cx->session, &kernels);
    if (status != RIDE_STATUS_OK)
        return status;
    json_open(&j, "", '{');
    json_text(&j, "kernel", kernels.kernel.at, kernels.kernel.bytes);
    json_text(&j, "isa", kernels.isa.at, kernels.isa.bytes);
    json_number(&j, "threads", 1);
    json_number(&j, "rounds", (uint64_t)setup->rounds * cx->images);
    json_text(&j, "target", cx->info.target.at, cx->info.target.bytes);
    json_word(&j, "cpu", setup->cpu);
    json_word(&j, "images", "embedded");
    json_text(&j, "fingerprint", cx->info.fingerprint.at, cx->info.fingerprint.bytes);
    json_hexadecimal(&j, "checksum", cx->info.checksum);
    json_open(&j, "timer", '{');
    json_word(&j, "name", setup->timer.name);
    json_word(&j, "counts", setup->timer.counts);
    json_number(&j, "per_second", setup->timer.per_second);
    json_close(&j, '}');
    json_number(&j, "arena_bytes", cx->info.arena_bytes);
    if (cx->machine->before_stack != NULL) {
        json_number(&j, "stack_bytes", stack);
    } else {
        json_raw(&j, ",\n  \"stack_bytes\": null");
    }
    json_number(&j, "golden_vectors", vectors);
    return RIDE_STATUS_OK;
}

ride_status report_run(
    const report_machine *machine,
    const ride_model *model,
    ride_session *session,
    uint8_t *pixels,
    const report_setup *setup)
{
    static const char end[] = "\n}\n";
    context cx;
    samples s;
    uint32_t vectors = 0;
    uint64_t stack = 0;
    ride_status status = ride_model_info(model, &cx.info);
    if (status != RIDE_STATUS_OK)
        return status;
    cx.machine = machine;
    cx.model = model;
    cx.session = session;
    cx.setup = setup;
    cx.images = setup->images_bytes / cx.info.image_bytes;
    if (cx.images == 0 || setup->images_bytes % cx.info.image_bytes != 0)
        return RIDE_STATUS_IMAGE_LENGTH;
    status = ride_self_test(session, pixels, cx.info.image_bytes, &vectors);
    if (status == RIDE_STATUS_OK)
        status = measure_stack(&cx, &stack);
    if (status == RIDE_STATUS_OK)
        status = facts(&cx, vectors, stack);
    if (status == RIDE_STATUS_OK)
        status = answers(&cx);
    if (status == RIDE_STATUS_OK)
        status = rows(&cx, &s);
    if (status == RIDE_STATUS_OK)
        status = routed(&cx, &s);
    if (status == RIDE_STATUS_OK)
        machine->write(machine->user, end, sizeof end - 1);
    return status;
}

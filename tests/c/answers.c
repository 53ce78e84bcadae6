/*
 * Prints everything that a model and its session say about images, for comparison with the same from Rust.
 *   answers ARTIFACT IMAGES      (raw pixels, one image after the other)
 */
#include "common.h"

static void must(ride_status status, const char *what)
{
    if (status != RIDE_STATUS_OK) {
        printf("%s: %s\n", what, ride_status_name(status));
        exit(1);
    }
}

static uint32_t bits(float value)
{
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    return word;
}

static void print_outcome(const char *what, const ride_outcome *o)
{
    uint32_t n;
    printf("%s: class %u experts %u confidence %08x logits", what, (unsigned)o->class_index, (unsigned)o->experts,
           (unsigned)bits(o->confidence));
    for (n = 0; n < o->classes; n++)
        printf(" %08x", (unsigned)bits(o->logits[n]));
    printf("\n");
}

static void print_model(const ride_model *model, const ride_info *info)
{
    uint32_t n;
    uint64_t macs;
    printf("image %ux%ux%u %u arena %u artifact %u classes %u experts %u routed %u bits %u golden %u checksum %08x\n",
           (unsigned)info->height, (unsigned)info->width, (unsigned)info->channels, (unsigned)info->image_bytes,
           (unsigned)info->arena_bytes, (unsigned)info->artifact_bytes, (unsigned)info->classes,
           (unsigned)info->experts, (unsigned)info->routed, (unsigned)info->residual_bits,
           (unsigned)info->golden_vectors, (unsigned)info->checksum);
    printf("%.*s %.*s %.*s %.*s\n", (int)info->fingerprint.bytes, info->fingerprint.at, (int)info->target.bytes,
           info->target.at, (int)info->arch.bytes, info->arch.at, (int)info->layout.bytes, info->layout.at);
    for (n = 0; n < info->classes; n++) {
        ride_text name;
        uint32_t count;
        ride_group group;
        must(ride_model_class_name(model, n, &name), "name");
        must(ride_model_train_count(model, n, &count), "count");
        must(ride_model_class_group(model, n, &group), "group");
        printf("class %u %.*s %u %d\n", (unsigned)n, (int)name.bytes, name.at, (unsigned)count, (int)group);
    }
    for (n = 0; n <= info->experts; n++) {
        must(ride_model_macs(model, n, &macs), "macs");
        printf("macs %u %lu\n", (unsigned)n, (unsigned long)macs);
    }
}

static void print_policies(ride_session *session, const ride_info *info, const uint8_t *image)
{
    ride_policy policy = {RIDE_POLICY_ALL, 0, 0};
    ride_outcome outcome;
    must(ride_classify(session, image, info->image_bytes, NULL, &outcome), "routed");
    print_outcome("routed", &outcome);
    must(ride_classify(session, image, info->image_bytes, &policy, &outcome), "all");
    print_outcome("all", &outcome);
    policy.kind = RIDE_POLICY_EXACTLY;
    for (policy.experts = 1; policy.experts <= info->experts; policy.experts++) {
        must(ride_classify(session, image, info->image_bytes, &policy, &outcome), "exactly");
        print_outcome("exactly", &outcome);
    }
    policy.kind = RIDE_POLICY_THRESHOLD;
    policy.threshold = 0.25f;
    if (info->routed) {
        must(ride_classify(session, image, info->image_bytes, &policy, &outcome), "threshold");
        print_outcome("threshold", &outcome);
    }
}

static void print_steps(ride_session *session, const ride_info *info, const uint8_t *image)
{
    ride_progress p;
    ride_outcome outcome;
    uint32_t n;
    must(ride_start(session, image, info->image_bytes), "start");
    for (n = 0; n < info->experts; n++) {
        must(ride_step(session, &p), "step");
        printf("step %u proceed %u scored %u score %08x\n", (unsigned)p.experts, (unsigned)p.proceed,
               (unsigned)p.scored, (unsigned)(p.score != p.score ? 0x7fc00000u : bits(p.score)));
        must(ride_outcome_so_far(session, &outcome), "outcome");
        print_outcome("so far", &outcome);
    }
}

/* A clock that advances by one at each look. */
static uint64_t now(void *user)
{
    return ++*(uint64_t *)user;
}

static void print_event(void *user, const ride_op_event *e)
{
    (void)user;
    printf("op %d %u %u %.*s %.*s macs %lu counts %lu proceed %u\n", (int)e->part, (unsigned)e->part_index,
           (unsigned)e->index, (int)e->name.bytes, e->name.at, (int)e->kind.bytes, e->kind.at, (unsigned long)e->macs,
           (unsigned long)e->counts, (unsigned)e->proceed);
}

static void print_profile(ride_session *session, const ride_info *info, const uint8_t *image)
{
    uint64_t clock = 41;
    ride_profiler profiler;
    ride_outcome outcome;
    profiler.user = &clock;
    profiler.now = now;
    profiler.op = print_event;
    must(ride_classify_profiled(session, image, info->image_bytes, NULL, &profiler, &outcome), "profiled");
    print_outcome("profiled", &outcome);
    printf("clock %lu\n", (unsigned long)clock);
}

int main(int argc, char **argv)
{
    static ride_model model;
    static ride_session session;
    ride_info info;
    ride_kernels kernels;
    uint32_t vectors = 0;
    size_t at;
    file artifact, images;
    uint8_t *arena, *pixels;
    if (argc != 3)
        return 9;
    artifact = read_file(argv[1]);
    images = read_file(argv[2]);
    must(ride_model_open(&model, artifact.bytes, artifact.length, NULL), "open");
    must(ride_model_info(&model, &info), "info");
    arena = aligned(info.arena_bytes, 0);
    pixels = aligned(info.image_bytes, 1);
    must(ride_session_init(&session, &model, arena, info.arena_bytes, NULL), "init");
    must(ride_session_kernels(&session, &kernels), "kernels");
    printf("abi %u kernel %.*s isa %.*s\n", (unsigned)ride_abi_version(), (int)kernels.kernel.bytes, kernels.kernel.at,
           (int)kernels.isa.bytes, kernels.isa.at);
    print_model(&model, &info);
    for (at = 0; at + info.image_bytes <= images.length; at += info.image_bytes) {
        print_policies(&session, &info, images.bytes + at);
        print_steps(&session, &info, images.bytes + at);
        print_profile(&session, &info, images.bytes + at);
    }
    must(ride_self_test(&session, pixels, info.image_bytes, &vectors), "self-test");
    printf("self-test %u\n", (unsigned)vectors);
    return 0;
}

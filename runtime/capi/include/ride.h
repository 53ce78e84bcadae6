/*
 * ride.h runs RIDE artifacts (files that ride-compile wrote) on raw images.
 *
 * Memory. Nothing is allocated, and there is no global state. `ride_model` and `ride_session` are memory of the caller's,
 * of a size that C knows: static, on the stack or within other structures. The artifact's bytes and the arena are lent;
 * they stay the caller's, must not move, and must outlive the sessions that use them (the artifact also the model). Nothing
 * needs to be closed or freed.
 *
 * Alignment. Arena and artifact: `RIDE_ALIGN` bytes (the C files of `ride-compile build --emit c` see to it for the
 * artifact). Images: none. Structures: as C aligns them.
 *
 * Errors. Every function that can fail returns a `ride_status`; 0 is success, numbers keep their meaning. A function that
 * fails leaves its results unwritten unless it says otherwise, and a model or session that could not be made cannot be used. Null and misaligned
 * pointers, memory that never was a model or session, copied sessions and buffers that overlap are refused. No function
 * can know whether a pointer points to as many bytes as the caller says, or whether a session's artifact or arena has been
 * freed: that is undefined, as with any C function.
 *
 * Threads and interrupts. Functions only touch what they are given. A model may be used by many threads at once, a session
 * by one at a time. A session that is in the middle of a call refuses others with `RIDE_STATUS_BUSY`, for instance from a
 * callback or an interrupt handler; this is a diagnosis and does not replace a lock.
 *
 * Results. Logits, routes and classes are the same bits on every machine and with every kernel.
 *
 * Units. Sizes are bytes, images are rows of pixels of channels (height x width x channels), raw unsigned bytes as a camera
 * delivers them. Times are counts of the clock that the caller passes.
 *
 * C99 or C++98 with `long long`; structures hold plain numbers and pointers. Text is UTF-8.
 *
 *     static ride_model model;
 *     static ride_session session;
 *     static uint8_t arena[MODEL_ARENA_BYTES] __attribute__((aligned(RIDE_ALIGN)));
 *
 *     ride_outcome outcome;
 *     ride_status status = ride_model_open(&model, model_artifact, sizeof model_artifact, NULL);
 *     if (status == RIDE_STATUS_OK) status = ride_session_init(&session, &model, arena, sizeof arena, NULL);
 *     if (status == RIDE_STATUS_OK) status = ride_classify(&session, pixels, MODEL_IMAGE_BYTES, NULL, &outcome);
 *     if (status != RIDE_STATUS_OK) fail(ride_status_text(status));
 *
 * Generated from the sources of ride-capi; do not edit.
 */
#ifndef RIDE_H
#define RIDE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Version of this interface: it changes when a structure, a number or the meaning of a function does. Compare it with
 * ride_abi_version() where library and header could come from different releases.
 */
#define RIDE_ABI_VERSION 1u

/*
 * What the address of an arena must be a multiple of, in bytes. Artifacts want it too: kernels for some cores read
 * weights by words, and aligned vectors are faster.
 */
#define RIDE_ALIGN 64u

/* RIDE_ABI_VERSION of the library. */
uint32_t ride_abi_version(void);

/*
 * Text in UTF-8, not ended by a zero: printf("%.*s", (int)text.bytes, text.at). It lies in the artifact or in the
 * library. Where there is none, bytes is 0 and at is not null.
 */
typedef struct ride_text {
    /* First byte. */
    const char *at;
    /* Number of bytes. */
    size_t bytes;
} ride_text;

/* What became of a call. Numbers keep their meaning for ever; new ones may be added. */
typedef int32_t ride_status;
enum {
    /* Done. */
    RIDE_STATUS_OK = 0,
    /* A pointer that must not be null is. */
    RIDE_STATUS_NULL_POINTER = 1,
    /* A pointer is not aligned to its type (or the artifact to words, where kernels want that). */
    RIDE_STATUS_MISALIGNED = 2,
    /* More bytes than there are addresses behind the pointer. */
    RIDE_STATUS_INVALID_LENGTH = 3,
    /* Buffers overlap that must not. */
    RIDE_STATUS_OVERLAP = 4,
    /* Not a model that ride_model_open made, or not a session that ride_session_init made, at this address. */
    RIDE_STATUS_NOT_INITIALISED = 5,
    /* The session is in use: by a callback's caller, an interrupted function or another thread. */
    RIDE_STATUS_BUSY = 6,
    /* A number is out of its range: a class, a policy. */
    RIDE_STATUS_OUT_OF_RANGE = 7,
    /* The bytes end before the artifact does. */
    RIDE_STATUS_TRUNCATED = 16,
    /* The bytes are not a RIDE artifact. */
    RIDE_STATUS_NOT_AN_ARTIFACT = 17,
    /* The artifact's format is of another version: build it with the ride-compile of this release. */
    RIDE_STATUS_VERSION = 18,
    /* A checksum does not match: the artifact is damaged. */
    RIDE_STATUS_CHECKSUM = 19,
    /* The artifact contradicts itself. */
    RIDE_STATUS_INVALID = 20,
    /*
     * No kernel of this build reads the artifact's weights: build the library with the features of the artifact's
     * target, or the artifact for this target.
     */
    RIDE_STATUS_NO_KERNEL = 21,
    /* The arena is smaller than ride_info.arena_bytes. */
    RIDE_STATUS_ARENA_TOO_SMALL = 32,
    /* The arena is not at a multiple of RIDE_ALIGN. */
    RIDE_STATUS_ARENA_MISALIGNED = 33,
    /* The image (or the memory for one) does not have ride_info.image_bytes bytes. */
    RIDE_STATUS_IMAGE_LENGTH = 34,
    /* No experts were asked for, or more than the artifact has. */
    RIDE_STATUS_EXPERTS = 35,
    /* The policy needs routers, and the artifact has none. */
    RIDE_STATUS_NO_ROUTER = 36,
    /* A step before ride_start or after the last expert; an outcome before the first. */
    RIDE_STATUS_OUT_OF_ORDER = 37,
    /* A golden vector of the artifact gives other results on this machine. */
    RIDE_STATUS_SELF_TEST = 38
};

/* What is known about a failure beyond its status. What does not apply is 0 or empty. */
typedef struct ride_detail {
    /* The status that the call returned. */
    ride_status status;
    /* Bytes (or experts, or a multiple of an address, or a version) that would be right. */
    size_t needed;
    /* What was found instead. */
    size_t found;
    /* The piece of the artifact. */
    ride_text section;
    /* What is wrong with it. */
    ride_text reason;
    /* Where in it: number of an operation, part, golden vector, or a byte. */
    size_t index;
} ride_detail;

/* Name of a status as this header writes it, ended by a zero; of any other number "unknown status". */
const char *ride_status_name(int32_t status);

/* What a status means, in words for a log, ended by a zero. */
const char *ride_status_text(int32_t status);

/* Words of a ride_model; more than it uses, so that it may grow. */
#define RIDE_MODEL_WORDS 8u

/*
 * An artifact that has been checked: memory of the caller's, whose content is private. It borrows the artifact's bytes.
 * Any number of threads may use it; it may be copied; it needs no end.
 */
typedef struct ride_model {
    /* Private. */
    size_t words[RIDE_MODEL_WORDS];
} ride_model;

/* What an artifact holds. Sizes are in bytes. */
typedef struct ride_info {
    /* Bytes of an image: height * width * channels unsigned pixels, row by row, channels of a pixel side by side. */
    size_t image_bytes;
    /* Bytes of the arena that a session needs. */
    size_t arena_bytes;
    /* Bytes of the artifact itself, without what followed it. */
    size_t artifact_bytes;
    /* Rows of an image. */
    uint32_t height;
    /* Columns of an image. */
    uint32_t width;
    /* Channels of an image. */
    uint32_t channels;
    /* Number of classes. */
    uint32_t classes;
    /* Number of experts. */
    uint32_t experts;
    /* 1 if there is a router behind each expert but the last, else 0. */
    uint32_t routed;
    /* Bits of the residual stream: 8 or 16. */
    uint32_t residual_bits;
    /* Number of images that ride_self_test runs. */
    uint32_t golden_vectors;
    /* Checksum of header and section table: differs between any two artifacts. */
    uint32_t checksum;
    /* Fingerprint of the float model that the artifact was built from. */
    ride_text fingerprint;
    /* Name of the target that it was built for. */
    ride_text target;
    /* Name of the architecture. */
    ride_text arch;
    /* Name of the weights' layout. */
    ride_text layout;
} ride_info;

/*
 * Checks an artifact completely (it reads all of its bytes) and makes *model from it. Every byte is covered by a
 * checksum, and every operation, offset and size is checked, so that damaged or hostile bytes end here.
 *
 * artifact stays the caller's; it must not change or move as long as the model or one of its sessions is used. It may
 * lie in flash and be followed by other bytes: bytes may be larger than the artifact. Some kernels want it at a multiple
 * of 4; RIDE_ALIGN suits all of them.
 *
 * detail (or null) is told more about a failure.
 */
ride_status ride_model_open(ride_model *model, const uint8_t *artifact, size_t bytes, ride_detail *detail);

/* Tells what the artifact holds. */
ride_status ride_model_info(const ride_model *model, ride_info *info);

/* Multiply-accumulates of the stem and the first experts experts (without routers); 0 experts is the stem alone. */
ride_status ride_model_macs(const ride_model *model, uint32_t experts, uint64_t *macs);

/* Group of a class in the long tail, by its number of training images. */
typedef int32_t ride_group;
enum {
    /* The artifact does not know. */
    RIDE_GROUP_UNKNOWN = 0,
    /* More than 100 training images. */
    RIDE_GROUP_MANY_SHOT = 1,
    /* 20 to 100. */
    RIDE_GROUP_MEDIUM_SHOT = 2,
    /* 1 to 19. */
    RIDE_GROUP_FEW_SHOT = 3
};

/*
 * Name of class class_index; empty where the artifact has none. Searches names from the first: use the table that
 * ride-compile build --emit c writes where that matters.
 */
ride_status ride_model_class_name(const ride_model *model, uint32_t class_index, ride_text *name);

/* Training images of class class_index; 0 where unknown. */
ride_status ride_model_train_count(const ride_model *model, uint32_t class_index, uint32_t *count);

/* Group of class class_index. */
ride_status ride_model_class_group(const ride_model *model, uint32_t class_index, ride_group *group);

/* The routers decide, with the artifact's thresholds; without routers all experts run. */
#define RIDE_POLICY_ROUTED 0u

/* The routers decide, with ride_policy.threshold instead. */
#define RIDE_POLICY_THRESHOLD 1u

/* Exactly ride_policy.experts experts. */
#define RIDE_POLICY_EXACTLY 2u

/* All experts. */
#define RIDE_POLICY_ALL 3u

/* How many experts a sample gets. Where a function takes a pointer to one, null means RIDE_POLICY_ROUTED. */
typedef struct ride_policy {
    /* One of RIDE_POLICY_.... */
    uint32_t kind;
    /* For RIDE_POLICY_EXACTLY: from 1 to the number of experts. */
    uint32_t experts;
    /* For RIDE_POLICY_THRESHOLD: what routers compare their score with. */
    float threshold;
} ride_policy;

/* A piece of the artifact. */
typedef int32_t ride_part;
enum {
    /* The shared stem. */
    RIDE_PART_STEM = 0,
    /* An expert. */
    RIDE_PART_EXPERT = 1,
    /* The router behind an expert. */
    RIDE_PART_ROUTER = 2
};

/* An operation or router that has run. */
typedef struct ride_op_event {
    /* The piece of the artifact that it belongs to. */
    ride_part part;
    /* Number of the expert (for a router: of the one before it). */
    uint32_t part_index;
    /* Number of the operation within its part. */
    uint32_t index;
    /* For a router: 1 if it wants the next expert, else 0. */
    uint32_t proceed;
    /* For a router: its score. */
    float score;
    /* Name, as in expert0.layer2.0.conv1. */
    ride_text name;
    /* Kind, as in conv. */
    ride_text kind;
    /* Multiply-accumulates (0 for a router). */
    uint64_t macs;
    /* Difference of ride_profiler.now after and before it. */
    uint64_t counts;
} ride_op_event;

/*
 * Who is told about operations. The functions run in the middle of a call: they must return normally, and what they ask
 * of the same session is refused as busy.
 */
typedef struct ride_profiler {
    /* Passed to both functions. */
    void *user;
    /* The clock, in whatever unit; null if there is none. */
    uint64_t (*now)(void *user);
    /* Is told; must not be null. The event is gone when it returns, its texts are not. */
    void (*op)(void *user, const ride_op_event *event);
} ride_profiler;

/* Words of a ride_session; more than it uses, so that it may grow. */
#define RIDE_SESSION_WORDS 16u

/*
 * A model with an arena to run in: memory of the caller's, whose content is private. It must not be moved or copied
 * (a copy is refused as not initialised). One thread at a time may use it; sessions of one model are independent. It
 * needs no end: forget it when the arena is needed for something else.
 */
typedef struct ride_session {
    /* Private. */
    size_t words[RIDE_SESSION_WORDS];
} ride_session;

/* The answer for one sample. */
typedef struct ride_outcome {
    /* Class with the largest logit. */
    uint32_t class_index;
    /* Experts that ran. */
    uint32_t experts;
    /*
     * Softmax probability of that class, by the same operations on every machine. Networks are often surer than right:
     * calibrate before you rely on it.
     */
    float confidence;
    /* Number of logits. */
    uint32_t classes;
    /*
     * Mean of the logits of the experts that ran, one for each class. They lie in the arena until the next call on the
     * session.
     */
    const float *logits;
} ride_outcome;

/* The kernels that a session uses. */
typedef struct ride_kernels {
    /* Name of the convolution, which takes most of the time. */
    ride_text kernel;
    /* Instruction set. */
    ride_text isa;
} ride_kernels;

/*
 * Makes a session for model in *session, with the fastest kernels of this build that this machine has. arena is
 * ride_info.arena_bytes bytes (or more, which stay untouched) at a multiple of RIDE_ALIGN, initialised to anything; it
 * is the session's as long as that is used. model may be forgotten afterwards, the artifact may not.
 *
 * What *session held before is not looked at: it must not be a session that is in the middle of a call. detail (or null)
 * is told more about a failure.
 */
ride_status ride_session_init(
    ride_session *session,
    const ride_model *model,
    uint8_t *arena,
    size_t arena_bytes,
    ride_detail *detail);

/* Tells which kernels the session uses. */
ride_status ride_session_kernels(const ride_session *session, ride_kernels *kernels);

/*
 * Classifies one image: image_bytes raw unsigned pixels as ride_info.image_bytes describes them, which are only read.
 * policy may be null.
 */
ride_status ride_classify(
    ride_session *session,
    const uint8_t *image,
    size_t image_bytes,
    const ride_policy *policy,
    ride_outcome *result);

/* As ride_classify, and tells profiler about every operation and router that ran. */
ride_status ride_classify_profiled(
    ride_session *session,
    const uint8_t *image,
    size_t image_bytes,
    const ride_policy *policy,
    const ride_profiler *profiler,
    ride_outcome *result);

/*
 * Runs the artifact's golden vectors and compares every bit of the results and every route. image is memory for one
 * image, which is overwritten. vectors (or null) becomes the number of vectors that were right, also where the next one
 * was not.
 */
ride_status ride_self_test(ride_session *session, uint8_t *image, size_t image_bytes, uint32_t *vectors);

/* What one expert more has brought. */
typedef struct ride_progress {
    /* Experts that have run for this sample. */
    uint32_t experts;
    /* 1 if the router wants another expert, or, without routers, if there is another one; else 0. */
    uint32_t proceed;
    /* 1 if there is a router behind the expert that ran last, else 0. */
    uint32_t scored;
    /* The router's score if scored, else 0. */
    float score;
} ride_progress;

/* Starts a sample: runs the stem. The image is not needed afterwards. */
ride_status ride_start(ride_session *session, const uint8_t *image, size_t image_bytes);

/* Runs the next expert and asks its router. Going on where proceed is 0 is allowed; so is stopping where it is 1. */
ride_status ride_step(ride_session *session, ride_progress *progress);

/* The answer of the experts that have run for the current sample. */
ride_status ride_outcome_so_far(const ride_session *session, ride_outcome *result);

#ifdef __cplusplus
}
#endif

#endif

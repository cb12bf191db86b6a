/* Is page-locked memory that was freed handed out again while the GPU may still use it? In each round a block is taken,
 * filled, used by asynchronous work and freed at once; another is taken and filled with something else. Later what
 * arrived on the device and what the second block holds are compared word by word. Prints one line of JSON.
 *
 *     cc -O2 -pthread -DVIA_DLSYM -I tests/programs -o reuse benches/gpu/reuse.c -ldl
 *     ./reuse [--immediate] [ROUNDS [SEED]]
 *
 * The driver's own free waits for work of the block's context alone: with a use in another one still under way it is the
 * program's mistake (an illegal address on an H100 with driver 580.159.04). So before such a free of a block of the
 * driver's the program waits itself: natively always, under the shim where the pool did not serve the block. A block of
 * the pool's comes back after the work of all contexts, a stronger promise than the driver's, which is put to the test.
 *
 * With --immediate blocks do not come from the driver but from a list of a few that hands out what was freed last: what
 * this program is there to find must then be found.
 *
 * The uses: a copy from the block; a copy into it; a kernel that reads it through its mapped pointer. Four streams, two
 * of them in a context other than that in which blocks are taken; in some rounds another thread has a capture open. */
#include "driver.h"
#include "../../include/aishim.h"
#include "spin.h"
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { STREAMS = 4, CONTEXTS = 2, LISTED = 8, LEAST_WORDS = 1 << 10, MOST_WORDS = 1 << 18, WORD_BYTES = 4 };
enum { SLOW_ONE_IN = 3, SLOW_COPIES = 8, SLOW_LEAST_NS = 100000, CAPTURE_ONE_IN = 16 };
enum { THREADS_PER_BLOCK = 256 };

enum Use { FROM_BLOCK, INTO_BLOCK, MAPPED, USES };
static const char *const USE_NAMES[] = {"from_block", "into_block", "mapped"};

static const char ADD_MODULE[] =
    ".version 7.0\n"
    ".target sm_70\n"
    ".address_size 64\n"
    ".visible .entry vector_add(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 n)\n"
    "{\n"
    "    .reg .pred %beyond;\n"
    "    .reg .b32 %block, %width, %thread;\n"
    "    .reg .b64 %index, %lane, %count, %at;\n"
    "    .reg .f32 %x, %y;\n"
    "    mov.u32 %block, %ctaid.x;\n"
    "    mov.u32 %width, %ntid.x;\n"
    "    mov.u32 %thread, %tid.x;\n"
    "    mul.wide.u32 %index, %block, %width;\n"
    "    cvt.u64.u32 %lane, %thread;\n"
    "    add.u64 %index, %index, %lane;\n"
    "    ld.param.u64 %count, [n];\n"
    "    setp.ge.u64 %beyond, %index, %count;\n"
    "    @%beyond bra done;\n"
    "    shl.b64 %index, %index, 2;\n"
    "    ld.param.u64 %at, [a];\n"
    "    add.u64 %at, %at, %index;\n"
    "    ld.f32 %x, [%at];\n"
    "    ld.param.u64 %at, [b];\n"
    "    add.u64 %at, %at, %index;\n"
    "    ld.f32 %y, [%at];\n"
    "    add.f32 %x, %x, %y;\n"
    "    ld.param.u64 %at, [c];\n"
    "    add.u64 %at, %at, %index;\n"
    "    st.f32 [%at], %x;\n"
    "done:\n"
    "    ret;\n"
    "}\n";

struct Lane { /* a stream and what is under way on it */
    int context;
    CUstream stream;
    CUdeviceptr source, zeros, arrived;
    float *back; /* page-locked, for looking at what arrived */
    bool is_pending;
    enum Use use;
    uint32_t round;
    size_t words;
    float *second; /* the block taken behind the free */
};

static CUcontext contexts[CONTEXTS]; /* the first is the one in which blocks are taken */
static CUfunction add[CONTEXTS], spin[CONTEXTS];
static struct Lane lanes[STREAMS];

static struct {
    uint64_t uses[USES], words, words_wrong[USES], allocations, allocations_in_captures;
    uint64_t late, waits, captures, captures_disturbed, context_synchronisations;
} counts;

#define CHECK(call) check((call), #call)

static void check(CUresult result, const char *what)
{
    if (result != 0) {
        fprintf(stderr, "reuse: %s gave error %u\n", what, (unsigned)result);
        exit(1);
    }
}

static uint32_t chance(uint32_t below)
{
    return (uint32_t)random() % below;
}

/* --- blocks --- */

static bool is_immediate, is_capturing;
static float *listed[LISTED];
static int listed_count;
static __typeof__(ai_pool_stats) *pool_stats; /* null without the shim */

/* How many blocks the pool has served. */
static uint64_t pool_hits(void)
{
    struct ai_pool_stats stats = {0};

    return pool_stats != NULL && pool_stats(&stats, sizeof stats) == 0 ? stats.hits : 0;
}

static float *page_locked(size_t bytes)
{
    void *memory;

    counts.allocations++;
    counts.allocations_in_captures += is_capturing;
    CHECK(cuMemHostAlloc(&memory, bytes, PORTABLE | DEVICEMAP));
    return memory;
}

static float *take(size_t bytes)
{
    return is_immediate ? listed[--listed_count] : page_locked(bytes);
}

static void give(float *block)
{
    if (is_immediate)
        listed[listed_count++] = block;
    else
        CHECK(cuMemFreeHost(block));
}

/* --- patterns: whole numbers from 0 on that a float holds exactly, no two alike at the same place --- */

static uint32_t first_pattern(uint32_t round)
{
    return 2 * round * 0x9e3779b1u;
}

static uint32_t second_pattern(uint32_t round)
{
    return (2 * round + 1) * 0x9e3779b1u;
}

static float word_of(uint32_t pattern, size_t i)
{
    return (float)(int32_t)((pattern + (uint32_t)i) & 0xffffff);
}

static void fill(float *block, size_t words, uint32_t pattern)
{
    for (size_t i = 0; i < words; i++)
        block[i] = word_of(pattern, i);
}

static uint64_t wrong_words(const float *block, size_t words, uint32_t pattern)
{
    uint32_t wrong = 0;

    for (size_t i = 0; i < words; i++)
        wrong += block[i] != word_of(pattern, i);
    counts.words += words;
    return wrong;
}

/* --- captures, on a thread of their own --- */

static pthread_barrier_t meeting;
static pthread_t capturer;
static CUstreamCaptureMode capture_mode;
static bool is_over;

static CUresult launch_add(int context, CUdeviceptr from, const struct Lane *lane, CUstream stream)
{
    unsigned long long words = lane->words;
    CUdeviceptr zeros = lane->zeros, to = lane->arrived;
    unsigned blocks = (unsigned)((words + THREADS_PER_BLOCK - 1) / THREADS_PER_BLOCK);
    void *arguments[] = {&from, &zeros, &to, &words};

    return cuLaunchKernel(add[context], blocks, 1, 1, THREADS_PER_BLOCK, 1, 1, 0, stream, arguments, NULL);
}

/* One capture, from the second meeting to the third. */
static void capture_once(CUstream stream, const struct Lane *scratch)
{
    CUgraph graph = NULL;
    CUresult launched, ended;

    CHECK(cuStreamBeginCapture_v2(stream, capture_mode));
    launched = launch_add(0, scratch->source, scratch, stream);
    pthread_barrier_wait(&meeting);
    pthread_barrier_wait(&meeting);
    if (launched == 0)
        launched = launch_add(0, scratch->source, scratch, stream);
    ended = cuStreamEndCapture(stream, &graph);
    counts.captures++;
    counts.captures_disturbed += launched != 0 || ended != 0 || graph == NULL;
    if (graph != NULL)
        CHECK(cuGraphDestroy(graph));
}

static void *capture_thread(void *scratch)
{
    CUstream stream;

    CHECK(cuCtxSetCurrent(contexts[0]));
    CHECK(cuStreamCreate(&stream, 1));
    for (pthread_barrier_wait(&meeting); !is_over; pthread_barrier_wait(&meeting)) {
        capture_once(stream, scratch);
        pthread_barrier_wait(&meeting);
    }
    CHECK(cuStreamDestroy_v2(stream));
    return NULL;
}

static void begin_capture(void)
{
    capture_mode = chance(2) ? THREAD_LOCAL : RELAXED;
    pthread_barrier_wait(&meeting);
    pthread_barrier_wait(&meeting);
    is_capturing = true;
}

static void end_capture(void)
{
    pthread_barrier_wait(&meeting);
    pthread_barrier_wait(&meeting);
    is_capturing = false;
}

/* --- a round --- */

/* Now and then something in front, so that the use is late for certain. */
static void delay(const struct Lane *lane)
{
    unsigned long long duration_ns = SLOW_LEAST_NS * (1 + chance(5));
    void *arguments[] = {&duration_ns};

    if (chance(SLOW_ONE_IN) != 0)
        return;
    if (chance(2)) {
        CHECK(cuLaunchKernel(spin[lane->context], 1, 1, 1, 1, 1, 1, 0, lane->stream, arguments, NULL));
        return;
    }
    for (int i = 0; i < SLOW_COPIES; i++)
        CHECK(cuMemcpyHtoDAsync_v2(lane->source, lane->back, MOST_WORDS * WORD_BYTES, lane->stream));
}

static void use(const struct Lane *lane, float *block)
{
    size_t bytes = lane->words * WORD_BYTES;
    CUdeviceptr mapped;

    switch (lane->use) {
    case FROM_BLOCK:
        CHECK(cuMemcpyHtoDAsync_v2(lane->arrived, block, bytes, lane->stream));
        break;
    case INTO_BLOCK: /* a negative number, which no pattern has */
        CHECK(cuMemsetD32Async(lane->source, 0xbf800000u | (lane->round & 0x7fffff), lane->words, lane->stream));
        CHECK(cuMemcpyDtoHAsync_v2(block, lane->source, bytes, lane->stream));
        break;
    default:
        CHECK(cuMemHostGetDevicePointer_v2(&mapped, block, 0));
        CHECK(launch_add(lane->context, mapped, lane, lane->stream));
    }
}

/* Waits for the round on the stream and compares. */
static void settle(struct Lane *lane)
{
    if (!lane->is_pending)
        return;
    CHECK(cuCtxSetCurrent(contexts[lane->context]));
    if (lane->use != INTO_BLOCK)
        CHECK(cuMemcpyDtoHAsync_v2(lane->back, lane->arrived, lane->words * WORD_BYTES, lane->stream));
    CHECK(cuStreamSynchronize(lane->stream));
    if (lane->use != INTO_BLOCK)
        counts.words_wrong[lane->use] += wrong_words(lane->back, lane->words, first_pattern(lane->round));
    /* Of whatever use this round was: only a copy into a block, perhaps another lane's, can have written there. */
    counts.words_wrong[INTO_BLOCK] += wrong_words(lane->second, lane->words, second_pattern(lane->round));
    CHECK(cuCtxSetCurrent(contexts[0]));
    give(lane->second);
    lane->is_pending = false;
}

static void begin_round(struct Lane *lane, uint32_t round)
{
    lane->round = round;
    lane->use = (enum Use)chance(USES);
    lane->words = LEAST_WORDS + chance(MOST_WORDS - LEAST_WORDS + 1);
    lane->is_pending = true;
    counts.uses[lane->use]++;
}

static void play_round(struct Lane *lane)
{
    size_t bytes = lane->words * WORD_BYTES;
    bool has_capture = chance(CAPTURE_ONE_IN) == 0, is_before_alloc = chance(2), is_drivers;
    uint64_t hits = pool_hits();
    float *block;

    if (has_capture && is_before_alloc)
        begin_capture();
    block = take(bytes);
    is_drivers = !is_immediate && pool_hits() == hits;
    fill(block, lane->words, first_pattern(lane->round));
    CHECK(cuCtxSetCurrent(contexts[lane->context]));
    delay(lane);
    use(lane, block);
    if (is_drivers && lane->context != 0) {
        CHECK(cuStreamSynchronize(lane->stream));
        counts.waits++;
    }
    CHECK(cuCtxSetCurrent(contexts[0]));
    if (has_capture && !is_before_alloc)
        begin_capture();
    give(block);
    lane->second = take(bytes);
    fill(lane->second, lane->words, second_pattern(lane->round));
    if (has_capture) {
        settle(&lanes[chance(STREAMS)]); /* a wait is when freed blocks are looked at, which must not touch the capture */
        end_capture();
    }
    CHECK(cuCtxSetCurrent(contexts[lane->context]));
    counts.late += cuStreamQuery(lane->stream) == 600; /* not ready */
    CHECK(cuCtxSetCurrent(contexts[0]));
}

/* --- beginning and end --- */

/* Launched once each: where functions are loaded lazily, the first launch may do what captures and waits do not bear. */
static void warm_up(struct Lane *lane)
{
    unsigned long long no_time_ns = 0;
    void *arguments[] = {&no_time_ns};

    lane->words = LEAST_WORDS;
    CHECK(launch_add(lane->context, lane->zeros, lane, lane->stream));
    CHECK(cuLaunchKernel(spin[lane->context], 1, 1, 1, 1, 1, 1, 0, lane->stream, arguments, NULL));
}

static void load(int context)
{
    CUmodule module;

    CHECK(cuModuleLoadData(&module, ADD_MODULE));
    CHECK(cuModuleGetFunction(&add[context], module, "vector_add"));
    CHECK(cuModuleLoadData(&module, SPIN_MODULE));
    CHECK(cuModuleGetFunction(&spin[context], module, "spin"));
}

static void open_lane(struct Lane *lane, int context)
{
    size_t bytes = MOST_WORDS * WORD_BYTES;

    CHECK(cuCtxSetCurrent(contexts[0]));
    lane->back = page_locked(bytes);
    CHECK(cuCtxSetCurrent(contexts[context]));
    lane->context = context;
    CHECK(cuStreamCreate(&lane->stream, 1));
    CHECK(cuMemAlloc_v2(&lane->source, bytes));
    CHECK(cuMemAlloc_v2(&lane->zeros, bytes));
    CHECK(cuMemAlloc_v2(&lane->arrived, bytes));
    CHECK(cuMemsetD32Async(lane->zeros, 0, MOST_WORDS, lane->stream));
    warm_up(lane);
    CHECK(cuStreamSynchronize(lane->stream));
}

static void close_lane(struct Lane *lane)
{
    CHECK(cuCtxSetCurrent(contexts[lane->context]));
    CHECK(cuStreamDestroy_v2(lane->stream));
    CHECK(cuMemFree_v2(lane->source));
    CHECK(cuMemFree_v2(lane->zeros));
    CHECK(cuMemFree_v2(lane->arrived));
    CHECK(cuCtxSetCurrent(contexts[0]));
    CHECK(cuMemFreeHost(lane->back));
}

static void begin(struct Lane *scratch)
{
    CUdevice device;

    driver_load();
    pool_stats = (__typeof__(pool_stats))dlsym(RTLD_DEFAULT, "ai_pool_stats");
    CHECK(cuInit(0));
    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuDevicePrimaryCtxRetain(&contexts[0], device));
    CHECK(cuCtxCreate_v2(&contexts[1], 0, device));
    for (int i = 0; i < CONTEXTS; i++) {
        CHECK(cuCtxSetCurrent(contexts[i]));
        load(i);
    }
    for (int i = 0; i < STREAMS; i++)
        open_lane(&lanes[i], i % CONTEXTS);
    open_lane(scratch, 0);
    CHECK(cuCtxSetCurrent(contexts[0]));
    for (; is_immediate && listed_count < LISTED; listed_count++)
        listed[listed_count] = page_locked(MOST_WORDS * WORD_BYTES);
    pthread_barrier_init(&meeting, NULL, 2);
    if (pthread_create(&capturer, NULL, capture_thread, scratch) != 0)
        exit(1);
}

static void end(struct Lane *scratch)
{
    is_over = true;
    pthread_barrier_wait(&meeting);
    pthread_join(capturer, NULL);
    for (int i = 0; i < STREAMS; i++) {
        settle(&lanes[i]);
        close_lane(&lanes[i]);
    }
    close_lane(scratch);
    while (listed_count > 0)
        CHECK(cuMemFreeHost(listed[--listed_count]));
    for (int i = 0; i < CONTEXTS; i++) {
        CHECK(cuCtxSetCurrent(contexts[i]));
        CHECK(cuCtxSynchronize());
        counts.context_synchronisations++;
    }
    CHECK(cuCtxDestroy_v2(contexts[1]));
}

static void print_by_use(const char *name, const uint64_t *of_use)
{
    printf("\"%s\": {", name);
    for (int i = 0; i < USES; i++)
        printf("%s\"%s\": %llu", i == 0 ? "" : ", ", USE_NAMES[i], (unsigned long long)of_use[i]);
    printf("}, ");
}

static void print(const char *name, uint64_t value, const char *behind)
{
    printf("\"%s\": %llu%s", name, (unsigned long long)value, behind);
}

int main(int argc, char **argv)
{
    struct Lane scratch = {0};
    uint32_t rounds, first = 1;

    is_immediate = argc > 1 && strcmp(argv[1], "--immediate") == 0;
    first += is_immediate;
    rounds = argc > (int)first ? (uint32_t)strtoul(argv[first], NULL, 10) : 10000;
    srandom(argc > (int)first + 1 ? (unsigned)strtoul(argv[first + 1], NULL, 10) : 1);
    begin(&scratch);
    for (uint32_t round = 0; round < rounds; round++) {
        struct Lane *lane = &lanes[chance(STREAMS)];
        settle(lane);
        begin_round(lane, round);
        play_round(lane);
    }
    end(&scratch);
    printf("{");
    print("rounds", rounds, ", ");
    print_by_use("uses", counts.uses);
    print("late", counts.late, ", ");
    print("waits", counts.waits, ", ");
    print("words", counts.words, ", ");
    print("words_wrong", counts.words_wrong[0] + counts.words_wrong[1] + counts.words_wrong[2], ", ");
    print_by_use("words_wrong_by_use", counts.words_wrong);
    print("captures", counts.captures, ", ");
    print("captures_disturbed", counts.captures_disturbed, ", ");
    print("allocations", counts.allocations, ", ");
    print("allocations_in_captures", counts.allocations_in_captures, ", ");
    print("context_synchronisations", counts.context_synchronisations, "}\n");
    return 0;
}

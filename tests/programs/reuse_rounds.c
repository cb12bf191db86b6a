/* Page-locked blocks that are freed while the GPU still uses them, in rounds: allocate, fill, give to the GPU, free at
 * once, allocate again, overwrite; what arrived is compared later. On 4 streams of 2 contexts, by copies both ways and by
 * kernels that read the block through its mapped address, now and then with a capture open. Prints one line of JSON.
 *
 *     reuse_rounds ROUNDS [--immediate | --no-captures]
 *
 * --no-captures is for a driver alone, which refuses a free while a capture is open and ends the capture. --immediate allocates from a list of its own that hands a freed block out at once: it must be found out, or the program
 * proves nothing. */
#include "driver.h"
#include "spin.h"
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum {
    STREAMS = 4,
    SLOTS = 16, /* uses of a stream between two looks at what arrived */
    MOST_WORDS = (1 << 20) / 4,
    LEAST_WORDS = 1024,
    SPIN_NS = 1500000,
    CAPTURE_ONE_IN = 32,
    OWN_BLOCKS = 8,
};

enum Use { COPY_IN, KERNEL, COPY_OUT, USES };

static const char ADD_MODULE[] =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    ".visible .entry vector_add(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 n)\n"
    "{\n"
    "    .reg .pred %beyond;\n    .reg .b32 %block, %width, %thread;\n"
    "    .reg .b64 %index, %count, %lane, %x_at, %y_at, %sum_at;\n    .reg .f32 %x, %y, %sum;\n"
    "    mov.u32 %block, %ctaid.x;\n    mov.u32 %width, %ntid.x;\n    mov.u32 %thread, %tid.x;\n"
    "    mul.wide.u32 %index, %block, %width;\n    cvt.u64.u32 %lane, %thread;\n    add.u64 %index, %index, %lane;\n"
    "    ld.param.u64 %count, [n];\n    setp.ge.u64 %beyond, %index, %count;\n    @%beyond bra done;\n"
    "    ld.param.u64 %x_at, [a];\n    ld.param.u64 %y_at, [b];\n    ld.param.u64 %sum_at, [c];\n"
    "    shl.b64 %index, %index, 2;\n    add.u64 %x_at, %x_at, %index;\n    add.u64 %y_at, %y_at, %index;\n"
    "    add.u64 %sum_at, %sum_at, %index;\n    ld.f32 %x, [%x_at];\n    ld.f32 %y, [%y_at];\n"
    "    add.f32 %sum, %x, %y;\n    st.f32 [%sum_at], %sum;\n"
    "done:\n    ret;\n}\n";

/* What a use left to be looked at: words in device memory, or a block that nobody else may have written to. */
struct Slot {
    CUdeviceptr device;
    float *held;
    uint32_t words, seed;
};

struct Lane {
    CUcontext context;
    CUstream stream;
    CUfunction add, spin;
    CUdeviceptr zeros;
    struct Slot slots[SLOTS];
    int used;
};

static struct Lane lanes[STREAMS];
static CUcontext home;
static CUstream captured;
static bool immediate, no_captures;
static float *own[OWN_BLOCKS];
static int own_free;
static unsigned long long compared, wrong, captures, disturbed;
static uint64_t state = 88172645463325252u;

#define CHECK(call) check((call), #call)

static void check(CUresult result, const char *what)
{
    if (result != 0) {
        fprintf(stderr, "reuse_rounds: %s gave error %u\n", what, (unsigned)result);
        exit(1);
    }
}

static uint32_t below(uint32_t limit)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)(state >> 33) % limit;
}

/* Exact as a float, and another for each word nearby and for each seed nearby. */
static float pattern(uint32_t seed, uint32_t i)
{
    return (float)((seed * 7919 + i) & 0xfffff);
}

static void fill(float *block, uint32_t words, uint32_t seed)
{
    for (uint32_t i = 0; i < words; i++)
        block[i] = pattern(seed, i);
}

static void compare(const float *block, uint32_t words, uint32_t seed)
{
    for (uint32_t i = 0; i < words; i++)
        wrong += block[i] != pattern(seed, i);
    compared += words;
}

static float *allocate(uint32_t words)
{
    void *block = NULL;

    if (immediate)
        return own_free > 0 ? own[--own_free] : NULL;
    CHECK(cuMemHostAlloc(&block, words * sizeof(float), 0));
    return block;
}

static void release(float *block)
{
    if (immediate)
        own[own_free++] = block;
    else
        CHECK(cuMemFreeHost(block));
}

static CUfunction function(const char *module_text, const char *name)
{
    CUmodule module;
    CUfunction found;

    CHECK(cuModuleLoadData(&module, module_text));
    CHECK(cuModuleGetFunction(&found, module, name));
    return found;
}

static void begin(void)
{
    CUcontext second;

    driver_load();
    CHECK(cuInit(0));
    CHECK(cuDevicePrimaryCtxRetain(&home, 0));
    CHECK(cuCtxCreate_v2(&second, 0, 0));
    for (int i = 0; i < STREAMS; i++) {
        struct Lane *lane = &lanes[i];
        lane->context = i % 2 ? second : home;
        CHECK(cuCtxSetCurrent(lane->context));
        CHECK(cuStreamCreate(&lane->stream, 1));
        lane->add = function(ADD_MODULE, "vector_add");
        lane->spin = function(SPIN_MODULE, "spin");
        CHECK(cuMemAlloc_v2(&lane->zeros, MOST_WORDS * sizeof(float)));
        CHECK(cuMemsetD32Async(lane->zeros, 0, MOST_WORDS, lane->stream));
        for (int k = 0; k < SLOTS; k++)
            CHECK(cuMemAlloc_v2(&lane->slots[k].device, MOST_WORDS * sizeof(float)));
        CHECK(cuStreamSynchronize(lane->stream));
    }
    CHECK(cuCtxSetCurrent(home));
    CHECK(cuStreamCreate(&captured, 1));
    for (; immediate && own_free < OWN_BLOCKS; own_free++)
        CHECK(cuMemHostAlloc((void **)&own[own_free], MOST_WORDS * sizeof(float), 0));
}

/* Waits for a lane, looks at what arrived there, and gives it something slow to begin the next turn with. */
static void look(struct Lane *lane)
{
    static float arrived[MOST_WORDS];
    unsigned long long duration_ns = SPIN_NS;
    void *arguments[] = {&duration_ns};

    CHECK(cuStreamSynchronize(lane->stream));
    CHECK(cuCtxSetCurrent(lane->context));
    for (int k = 0; k < lane->used; k++) {
        struct Slot *slot = &lane->slots[k];
        if (slot->held != NULL) {
            compare(slot->held, slot->words, slot->seed);
            continue;
        }
        CHECK(cuMemcpyDtoHAsync_v2(arrived, slot->device, slot->words * sizeof(float), lane->stream));
        CHECK(cuStreamSynchronize(lane->stream));
        compare(arrived, slot->words, slot->seed);
    }
    CHECK(cuLaunchKernel(lane->spin, 1, 1, 1, 1, 1, 1, 0, lane->stream, arguments, NULL));
    CHECK(cuCtxSetCurrent(home));
    for (int k = 0; k < lane->used; k++) {
        if (lane->slots[k].held != NULL)
            release(lane->slots[k].held);
        lane->slots[k].held = NULL;
    }
    lane->used = 0;
}

static void use(struct Lane *lane, struct Slot *slot, enum Use kind, float *block)
{
    size_t bytes = slot->words * sizeof(float);
    unsigned long long count = slot->words;
    CUdeviceptr mapped = 0;
    void *arguments[] = {&mapped, &lane->zeros, &slot->device, &count};

    CHECK(cuMemHostGetDevicePointer_v2(&mapped, block, 0));
    CHECK(cuCtxSetCurrent(lane->context));
    if (kind == COPY_IN)
        CHECK(cuMemcpyHtoDAsync_v2(slot->device, block, bytes, lane->stream));
    else if (kind == COPY_OUT)
        CHECK(cuMemcpyDtoHAsync_v2(block, lane->zeros, bytes, lane->stream));
    else
        CHECK(cuLaunchKernel(lane->add, (slot->words + 255) / 256, 1, 1, 256, 1, 1, 0, lane->stream, arguments, NULL));
    CHECK(cuCtxSetCurrent(home));
}

static void begin_capture(void)
{
    CHECK(cuStreamBeginCapture_v2(captured, RELAXED));
}

static void end_capture(void)
{
    CUgraph graph = NULL;
    CUresult result;

    CHECK(cuMemsetD32Async(lanes[0].zeros, 0, 16, captured));
    result = cuStreamEndCapture(captured, &graph);
    captures++;
    disturbed += result != 0 || graph == NULL;
    if (result == 0 && graph != NULL)
        CHECK(cuGraphDestroy(graph));
}

static void round_of(uint32_t number)
{
    struct Lane *lane = &lanes[below(STREAMS)];
    enum Use kind = (enum Use)below(USES);
    bool in_capture = !immediate && !no_captures && below(CAPTURE_ONE_IN) == 0;
    struct Slot *slot;
    float *block, *again;

    if (lane->used == SLOTS)
        look(lane);
    slot = &lane->slots[lane->used];
    slot->words = LEAST_WORDS + below(MOST_WORDS - LEAST_WORDS);
    slot->seed = 2 * number;
    block = allocate(slot->words);
    if (block == NULL) {
        for (int i = 0; i < STREAMS; i++)
            look(&lanes[i]);
        return;
    }
    lane->used++;
    fill(block, slot->words, slot->seed);
    use(lane, slot, kind, block);
    if (in_capture)
        begin_capture();
    release(block);
    again = allocate(slot->words);
    fill(again, slot->words, slot->seed + 1);
    if (kind == COPY_OUT) {
        slot->held = again;
        slot->seed++;
    } else {
        release(again);
    }
    if (in_capture)
        end_capture();
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 0;

    immediate = argc > 2 && strcmp(argv[2], "--immediate") == 0;
    no_captures = argc > 2 && strcmp(argv[2], "--no-captures") == 0;
    if (rounds <= 0) {
        fputs("usage: reuse_rounds ROUNDS [--immediate | --no-captures]\n", stderr);
        return 2;
    }
    begin();
    for (int i = 0; i < rounds; i++)
        round_of((uint32_t)i);
    for (int i = 0; i < STREAMS; i++)
        look(&lanes[i]);
    for (int i = 0; i < STREAMS; i++)
        CHECK(cuStreamSynchronize(lanes[i].stream));
    printf("{\"rounds\": %d, \"words\": %llu, \"wrong\": %llu, \"captures\": %llu, \"disturbed\": %llu}\n", rounds, compared,
           wrong, captures, disturbed);
    return 0;
}

/* Page-locked memory under slow copies: each thread fills a block, starts a copy from it and frees it at once, takes
 * another (perhaps the same) and scribbles on it; what arrives on the device must be what the block held when the copy
 * was started. The other way round a freed block must not be written to any more once it is somebody else's.
 * Streams of four kinds in two contexts, captures open now and then. Arguments: ROUNDS CAPTURES. */
#include "program.h"
#include <pthread.h>
#include <stdint.h>

enum { SLOTS = 6, BYTES = 96 << 10 };

static int rounds, captures;
static CUcontext second;

struct lane {
    CUcontext context;
    CUstream stream;
    unsigned random;
    int wrong;
};

static unsigned next(struct lane *lane)
{
    lane->random = lane->random * 1664525 + 1013904223;
    return lane->random >> 8;
}

static void fill(uint32_t *block, size_t bytes, uint32_t seed)
{
    for (size_t i = 0; i < bytes / 4; i++)
        block[i] = seed + (uint32_t)i;
}

static int differs(const uint32_t *block, size_t bytes, uint32_t seed)
{
    for (size_t i = 0; i < bytes / 4; i++)
        if (block[i] != seed + (uint32_t)i)
            return 1;
    return 0;
}

/* To the device, from blocks freed at once. */
static void send(struct lane *lane, CUdeviceptr *memory)
{
    uint32_t seeds[SLOTS], *arrived = malloc(BYTES);
    size_t bytes[SLOTS];

    for (int i = 0; i < SLOTS; i++) {
        uint32_t *block;
        seeds[i] = next(lane);
        bytes[i] = 4 + next(lane) % BYTES / 4 * 4;
        if (bytes[i] > BYTES)
            bytes[i] = BYTES;
        CHECK(cuMemHostAlloc((void **)&block, bytes[i], 0));
        fill(block, bytes[i], seeds[i]);
        CHECK(cuMemcpyHtoDAsync_v2(memory[i], block, bytes[i], lane->stream));
        CHECK(cuMemFreeHost(block));
        CHECK(cuMemHostAlloc((void **)&block, bytes[i], 0));
        fill(block, bytes[i], ~seeds[i]);
        CHECK(cuMemFreeHost(block));
    }
    CHECK(cuStreamSynchronize(lane->stream));
    for (int i = 0; i < SLOTS; i++) {
        CHECK(cuMemcpyDtoHAsync_v2(arrived, memory[i], bytes[i], lane->stream));
        CHECK(cuStreamSynchronize(lane->stream));
        lane->wrong += differs(arrived, bytes[i], seeds[i]);
    }
    free(arrived);
}

/* From the device, into blocks that are freed while the copy is on its way. */
static void receive(struct lane *lane, CUdeviceptr *memory)
{
    uint32_t *held[SLOTS], seeds[SLOTS];

    for (int i = 0; i < SLOTS; i++) {
        uint32_t *block;
        CHECK(cuMemHostAlloc((void **)&block, BYTES, 0));
        CHECK(cuMemcpyDtoHAsync_v2(block, memory[i], BYTES, lane->stream));
        CHECK(cuMemFreeHost(block));
        CHECK(cuMemHostAlloc((void **)&held[i], BYTES, 0));
        seeds[i] = next(lane);
        fill(held[i], BYTES, seeds[i]);
    }
    CHECK(cuStreamSynchronize(lane->stream));
    for (int i = 0; i < SLOTS; i++) {
        lane->wrong += differs(held[i], BYTES, seeds[i]);
        CHECK(cuMemFreeHost(held[i]));
    }
}

static void *work(void *argument)
{
    struct lane *lane = argument;
    CUdeviceptr memory[SLOTS];

    CHECK(cuCtxSetCurrent(lane->context));
    for (int i = 0; i < SLOTS; i++)
        CHECK(cuMemAlloc_v2(&memory[i], BYTES));
    for (int i = 0; i < rounds; i++) {
        send(lane, memory);
        receive(lane, memory);
    }
    for (int i = 0; i < SLOTS; i++)
        CHECK(cuMemFree_v2(memory[i]));
    return NULL;
}

static volatile int stop;

static void *capture(void *unused)
{
    CUstream stream;

    CHECK(cuCtxSetCurrent(context));
    CHECK(cuStreamCreate(&stream, 1));
    while (!stop) {
        CUgraph graph;
        CHECK(cuStreamBeginCapture_v2(stream, RELAXED));
        CHECK(launch_spin(0, stream));
        usleep(3000);
        CHECK(cuStreamEndCapture(stream, &graph));
        CHECK(cuGraphDestroy(graph));
        usleep(2000);
    }
    return unused;
}

int main(int argc, char **argv)
{
    struct lane lanes[5] = {{0}};
    pthread_t thread[6];
    int wrong = 0;

    (void)argc;
    rounds = atoi(argv[1]);
    captures = atoi(argv[2]);
    make_context();
    load_kernels();
    CHECK(cuCtxCreate_v2(&second, 0, 0));
    for (int i = 0; i < 5; i++) {
        lanes[i].context = i == 3 ? second : context;
        lanes[i].random = 12345u * (i + 1);
        CHECK(cuCtxSetCurrent(lanes[i].context));
        if (i == 0 || i == 3)
            CHECK(cuStreamCreate(&lanes[i].stream, 1));
        else if (i == 1)
            CHECK(cuStreamCreate(&lanes[i].stream, 0));
        else
            lanes[i].stream = i == 2 ? (CUstream)PER_THREAD : NULL;
    }
    if (captures)
        pthread_create(&thread[5], NULL, capture, NULL);
    for (int i = 0; i < 5; i++)
        pthread_create(&thread[i], NULL, work, &lanes[i]);
    for (int i = 0; i < 5; i++) {
        pthread_join(thread[i], NULL);
        wrong += lanes[i].wrong;
    }
    stop = 1;
    if (captures)
        pthread_join(thread[5], NULL);
    printf("%d wrong\n", wrong);
    return 0;
}

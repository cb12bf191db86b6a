/* When the pool hands a freed block out again, and when not. "lost": a stream is destroyed, with a copy from a block
 * on it, while another thread captures; what arrives is what the block held. "threads": threads come, use their own
 * default stream once and go; the pool serves as before. "stress": streams that live for one request beside others
 * that stay. "exit US": the process ends so long after the pool has begun to grow. */
#include "program.h"
#include <pthread.h>
#include <stdint.h>
#include <time.h>

enum { BYTES = 64 << 10 };

static void fill(uint32_t *block, uint32_t seed)
{
    for (uint32_t i = 0; i < BYTES / 4; i++)
        block[i] = seed + i;
}

static int wrong_words(const uint32_t *block, uint32_t seed)
{
    int wrong = 0;

    for (uint32_t i = 0; i < BYTES / 4; i++)
        wrong += block[i] != seed + i;
    return wrong;
}

static uint32_t *pinned(void)
{
    uint32_t *block;

    CHECK(cuMemHostAlloc((void **)&block, BYTES, 0));
    return block;
}

/* COUNT blocks, one after the other, each freed before the next. */
static void churn(int count)
{
    CUstream stream;

    CHECK(cuStreamCreate(&stream, 1));
    for (int i = 0; i < count; i++) {
        CHECK(cuMemFreeHost(pinned()));
        CHECK(cuStreamSynchronize(stream));
    }
    CHECK(cuStreamDestroy_v2(stream));
}

/* --- lost --- */

static pthread_barrier_t barrier;

/* A capture that is open from the first meeting to the second. */
static void *capture(void *unused)
{
    CUstream stream;
    CUgraph graph;

    CHECK(cuCtxSetCurrent(context));
    CHECK(cuStreamCreate(&stream, 1));
    CHECK(cuStreamBeginCapture_v2(stream, THREAD_LOCAL));
    CHECK(launch_spin(0, stream));
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuGraphDestroy(graph));
    CHECK(cuStreamDestroy_v2(stream));
    return unused;
}

/* The copy waits for a kernel of 300 ms, so it reads the block long after all of this. Returns an event after it. */
static CUevent send_and_lose(uint32_t *block, CUdeviceptr memory)
{
    CUstream stream;
    CUevent sent;

    CHECK(cuStreamCreate(&stream, 1));
    CHECK(cuEventCreate(&sent, 2));
    pthread_barrier_wait(&barrier);
    CHECK(launch_spin(300000000, stream));
    CHECK(cuMemcpyHtoDAsync_v2(memory, block, BYTES, stream));
    CHECK(cuEventRecord(sent, stream));
    CHECK(cuStreamDestroy_v2(stream));
    CHECK(cuMemFreeHost(block));
    pthread_barrier_wait(&barrier);
    return sent;
}

/* Blocks are taken and overwritten until the copy is done. They are held: the driver's own free would wait for it. */
static int overwrite_until(CUevent done, uint32_t **held, int max)
{
    int count = 0;
    CUresult status;

    while ((status = cuEventQuery(done)) == 600) { /* not ready */
        if (count < max) {
            held[count] = pinned();
            fill(held[count++], 0xdead0000);
        }
        usleep(2000);
    }
    CHECK(status);
    return count;
}

static void lost(void)
{
    static uint32_t *held[60], arrived[BYTES / 4];
    uint32_t *block = pinned(); /* before the capture, during which the pool gives nothing */
    CUdeviceptr memory;
    CUevent sent;
    pthread_t thread;
    int count;

    fill(block, 4711);
    CHECK(cuMemAlloc_v2(&memory, BYTES));
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_create(&thread, NULL, capture, NULL);
    sent = send_and_lose(block, memory);
    pthread_join(thread, NULL);
    count = overwrite_until(sent, held, 60);
    CHECK(cuMemcpyDtoH_v2(arrived, memory, BYTES));
    printf("%s overwritten, %d wrong\n", count > 20 ? "enough" : "little", wrong_words(arrived, 4711));
    for (int i = 0; i < count; i++)
        CHECK(cuMemFreeHost(held[i]));
    CHECK(cuCtxSynchronize());
    churn(300);
    CHECK(cuEventDestroy_v2(sent));
    CHECK(cuMemFree_v2(memory));
}

/* --- threads --- */

/* Memory that stays, so that what a thread allocates lies elsewhere than what an earlier one had. */
static void *kept[1500][40];

static void *short_life(void *number)
{
    uint32_t *block;

    for (int i = 0; i < 40; i++)
        ASSERT((kept[(size_t)number][i] = malloc(64 + 64 * i)) != NULL);
    CHECK(cuCtxSetCurrent(context));
    block = pinned();
    CHECK(launch_spin(0, (CUstream)PER_THREAD));
    CHECK(cuMemFreeHost(block));
    return NULL;
}

static void threads(void)
{
    pthread_t thread[3];

    for (size_t i = 0; i < 1500; i += 3) {
        for (size_t j = 0; j < 3; j++)
            ASSERT(pthread_create(&thread[j], NULL, short_life, (void *)(i + j)) == 0);
        for (int j = 0; j < 3; j++)
            pthread_join(thread[j], NULL);
    }
    CHECK(cuCtxSynchronize());
    churn(3000);
    puts("right");
}

/* --- stress --- */

static double now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

static double until_s;
static int wrong_in_all;

static void look_at(CUdeviceptr memory, uint32_t *arrived, uint32_t seed)
{
    CHECK(cuMemcpyDtoH_v2(arrived, memory, BYTES));
    __atomic_fetch_add(&wrong_in_all, wrong_words(arrived, seed), __ATOMIC_RELAXED);
}

/* A stream for each request; every other one is destroyed before its copy is done. */
static void *with_new_streams(void *unused)
{
    uint32_t seed = 1, *arrived = malloc(BYTES);
    CUdeviceptr memory;
    CUevent sent;

    CHECK(cuCtxSetCurrent(context));
    CHECK(cuMemAlloc_v2(&memory, BYTES));
    CHECK(cuEventCreate(&sent, 2));
    for (; now_s() < until_s; seed++) {
        uint32_t *block = pinned();
        CUstream stream;
        fill(block, seed);
        CHECK(cuStreamCreate(&stream, 1));
        CHECK(cuMemcpyHtoDAsync_v2(memory, block, BYTES, stream));
        CHECK(cuEventRecord(sent, stream));
        if (seed % 2 == 0)
            CHECK(cuStreamSynchronize(stream));
        CHECK(cuStreamDestroy_v2(stream));
        CHECK(cuMemFreeHost(block));
        CHECK(cuEventSynchronize(sent));
        look_at(memory, arrived, seed);
    }
    free(arrived);
    return unused;
}

static void *with_one_stream(void *number)
{
    uint32_t seed = (uint32_t)(size_t)number << 24, *arrived = malloc(BYTES);
    CUdeviceptr memory;
    CUstream stream;

    CHECK(cuCtxSetCurrent(context));
    CHECK(cuMemAlloc_v2(&memory, BYTES));
    CHECK(cuStreamCreate(&stream, 1));
    for (; now_s() < until_s; seed++) {
        uint32_t *block = pinned();
        fill(block, seed);
        CHECK(cuMemcpyHtoDAsync_v2(memory, block, BYTES, stream));
        if (seed % 2 == 0) {
            CHECK(cuStreamSynchronize(stream));
            CHECK(cuMemFreeHost(block));
        } else {
            CHECK(cuMemFreeHost(block));
            CHECK(cuStreamSynchronize(stream));
        }
        look_at(memory, arrived, seed);
    }
    free(arrived);
    return NULL;
}

static void stress(void)
{
    pthread_t thread[3];

    until_s = now_s() + 2;
    pthread_create(&thread[0], NULL, with_new_streams, NULL);
    for (size_t i = 1; i < 3; i++)
        pthread_create(&thread[i], NULL, with_one_stream, (void *)i);
    for (int i = 0; i < 3; i++)
        pthread_join(thread[i], NULL);
    printf("%d wrong\n", wrong_in_all);
}

/* --- exit --- */

/* Of the 4 MiB that a pool begins with, while it grows in the background. */
static void take_some(int then_wait_us)
{
    for (int i = 0; i < 3; i++) {
        char *block;
        CHECK(cuMemHostAlloc((void **)&block, 1 << 20, 0));
        *block = 1;
    }
    usleep(then_wait_us);
}

int main(int argc, char **argv)
{
    (void)argc;
    make_context();
    load_kernels();
    if (strcmp(argv[1], "lost") == 0)
        lost();
    else if (strcmp(argv[1], "threads") == 0)
        threads();
    else if (strcmp(argv[1], "stress") == 0)
        stress();
    else
        take_some(atoi(argv[2]));
    return 0;
}

/* Captures that do not end as they should. After each, page-locked memory is asked for: whoever thinks that a capture
 * is still open shows it there. What every call answers goes to stdout. */
#include "program.h"
#include <pthread.h>

static CUstream stream;
static CUgraph graph;

static void after(const char *what)
{
    void *block;

    CHECK(cuMemHostAlloc(&block, 4096, 0));
    CHECK(cuMemFreeHost(block));
    CHECK(launch_spin(0, NULL));
    CHECK(cuCtxSynchronize());
    printf("%s: well afterwards\n", what);
}

static void begin(CUstreamCaptureMode mode)
{
    CHECK(cuStreamCreate(&stream, 1));
    CHECK(cuStreamBeginCapture_v2(stream, mode));
    CHECK(launch_spin(0, stream));
}

static unsigned end(void)
{
    unsigned status = cuStreamEndCapture(stream, &graph);

    if (status == 0)
        CHECK(cuGraphDestroy(graph));
    return status;
}

static void invalidated(CUstreamCaptureMode mode)
{
    CUdeviceptr memory;
    unsigned allocated, ended;

    begin(mode);
    allocated = cuMemAlloc_v2(&memory, 4096);
    ended = end();
    printf("mode %u: allocate %u, end %u\n", mode, allocated, ended);
    CHECK(cuStreamDestroy_v2(stream));
    after("invalidated");
}

static void pinned_inside(CUstreamCaptureMode mode)
{
    void *block;
    unsigned allocated, ended;

    begin(mode);
    allocated = cuMemHostAlloc(&block, 4096, 0);
    ended = end();
    printf("mode %u: page-locked %u, end %u\n", mode, allocated, ended);
    if (allocated == 0)
        CHECK(cuMemFreeHost(block));
    CHECK(cuStreamDestroy_v2(stream));
    after("page-locked inside");
}

static void *end_elsewhere(void *mode)
{
    CHECK(cuCtxSetCurrent(context));
    printf("mode %zu: end in another thread %u\n", (size_t)mode, end());
    return NULL;
}

static void wrong_thread(size_t mode)
{
    pthread_t thread;

    begin(mode);
    pthread_create(&thread, NULL, end_elsewhere, (void *)mode);
    pthread_join(thread, NULL);
    if (mode != RELAXED)
        printf("mode %zu: end in its own %u\n", mode, end());
    CHECK(cuStreamDestroy_v2(stream));
    after("another thread");
}

static void *begin_and_leave(void *unused)
{
    CHECK(cuCtxSetCurrent(context));
    begin(RELAXED);
    return unused;
}

static void thread_that_ended(void)
{
    pthread_t thread;

    pthread_create(&thread, NULL, begin_and_leave, NULL);
    pthread_join(thread, NULL);
    printf("of a thread that has ended: %u\n", end());
    CHECK(cuStreamDestroy_v2(stream));
    after("ended thread");
}

static void odd_calls(void)
{
    CUstream other;

    CHECK(cuStreamCreate(&other, 1));
    printf("end without beginning %u\n", (unsigned)cuStreamEndCapture(other, &graph));
    begin(THREAD_LOCAL);
    printf("begin twice %u\n", (unsigned)cuStreamBeginCapture_v2(stream, THREAD_LOCAL));
    printf("mode 7 %u\n", (unsigned)cuStreamBeginCapture_v2(other, 7));
    printf("end %u\n", end());
    printf("again %u\n", (unsigned)cuStreamEndCapture(stream, &graph));
    CHECK(cuStreamDestroy_v2(stream));
    CHECK(cuStreamDestroy_v2(other));
    after("odd calls");
}

static void destroyed_meanwhile(void)
{
    begin(RELAXED);
    printf("destroy the stream %u\n", (unsigned)cuStreamDestroy_v2(stream));
    after("destroyed stream");
}

static void context_destroyed_meanwhile(void)
{
    CUcontext own;

    CHECK(cuCtxCreate_v2(&own, 0, 0));
    CHECK(cuStreamCreate(&stream, 1));
    CHECK(cuStreamBeginCapture_v2(stream, RELAXED));
    printf("destroy the context %u\n", (unsigned)cuCtxDestroy_v2(own));
    CHECK(cuCtxSetCurrent(context));
    after("destroyed context");
}

static void two_at_once(void)
{
    CUstream first, second;

    CHECK(cuStreamCreate(&first, 1));
    CHECK(cuStreamCreate(&second, 1));
    CHECK(cuStreamBeginCapture_v2(first, RELAXED));
    CHECK(cuStreamBeginCapture_v2(second, RELAXED));
    CHECK(launch_spin(0, first));
    CHECK(launch_spin(0, second));
    CHECK(cuStreamEndCapture(first, &graph));
    CHECK(cuGraphDestroy(graph));
    CHECK(launch_spin(0, second));
    CHECK(cuStreamEndCapture(second, &graph));
    CHECK(cuGraphDestroy(graph));
    CHECK(cuStreamDestroy_v2(first));
    CHECK(cuStreamDestroy_v2(second));
    after("two at once");
}

static pthread_barrier_t together;

static void *capture_own_default(void *unused)
{
    CUgraph own;

    CHECK(cuCtxSetCurrent(context));
    for (int i = 0; i < 5; i++) {
        CHECK(cuStreamBeginCapture_v2((CUstream)PER_THREAD, RELAXED));
        pthread_barrier_wait(&together);
        CHECK(launch_spin(0, (CUstream)PER_THREAD));
        pthread_barrier_wait(&together);
        CHECK(cuStreamEndCapture((CUstream)PER_THREAD, &own));
        CHECK(cuGraphDestroy(own));
    }
    return unused;
}

/* The same handle, a stream for each thread. */
static void own_default_streams(void)
{
    pthread_t thread[3];

    pthread_barrier_init(&together, NULL, 3);
    for (int i = 0; i < 3; i++)
        pthread_create(&thread[i], NULL, capture_own_default, NULL);
    for (int i = 0; i < 3; i++)
        pthread_join(thread[i], NULL);
    after("default streams");
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    make_context();
    load_kernels();
    for (unsigned mode = GLOBAL; mode <= RELAXED; mode++) {
        invalidated(mode);
        pinned_inside(mode);
        wrong_thread(mode);
    }
    thread_that_ended();
    odd_calls();
    destroyed_meanwhile();
    context_destroyed_meanwhile();
    two_at_once();
    own_default_streams();
    return 0;
}

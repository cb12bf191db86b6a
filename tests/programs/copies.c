/* Copies of pageable memory, of sizes that are staged and of sizes that are not: "bytes SEED ROUNDS THREADS" random
 * ones on many streams, each checked to the last byte and against what was ordered before and after it; "host" sources
 * that a host function fills just before; "behind" work that is still to be done; "captures MODE" inside a capture and
 * while another thread captures, "beside" that begin in the middle of a copy; "contexts" that are destroyed and made
 * anew in between; "refused" and "failing" copies; "registered" memory, which is not pageable. */
#include "program.h"
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>

enum { MIB = 1 << 20, DEVICE = 22 * MIB, LARGEST = 20 * MIB, STREAMS = 8, GUARD = 64 };

/* Large enough for the library to make its page-locked memory for it at once. */
static void warm_up(void)
{
    size_t bytes = (size_t)128 * MIB;
    CUdeviceptr memory;
    char *from = calloc(bytes, 1);

    CHECK(cuMemAlloc_v2(&memory, bytes));
    CHECK(cuMemcpyHtoD_v2(memory, from, bytes));
    CHECK(cuMemFree_v2(memory));
    free(from);
}

static uint64_t next(uint64_t *state) /* xorshift64, Marsaglia 2003 */
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void fill(unsigned char *memory, size_t bytes, uint64_t seed)
{
    uint64_t word = seed * 0x9e3779b97f4a7c15;

    for (size_t i = 0; i < bytes; i++) {
        if (i % 8 == 0)
            word = word * 6364136223846793005 + 1442695040888963407;
        memory[i] = word >> (i % 8 * 8);
    }
}

/* --- bytes --- */

struct Traffic {
    uint64_t random;
    int rounds, wrong;
    CUstream streams[STREAMS + 2];
    CUdeviceptr first, second;
    unsigned char *source, *wanted, *arrived;
};

static size_t some_size(uint64_t *random)
{
    uint64_t kind = next(random) % 8;

    if (kind == 0)
        return 1 + next(random) % 4096;
    if (kind == 1)
        return 1 + next(random) % (8 * MIB);
    return 8 * MIB + next(random) % (LARGEST - 8 * MIB);
}

static void to_device(int form, CUdeviceptr to, const void *from, size_t bytes, CUstream stream)
{
    switch (form) {
    case 0: CHECK(cuMemcpyHtoDAsync_v2(to, from, bytes, stream)); break;
    case 1: CHECK(cuMemcpyAsync(to, (uintptr_t)from, bytes, stream)); break;
    default:
        CHECK(cuStreamSynchronize(stream)); /* the synchronous forms are on the default stream */
        CHECK(form == 2 ? cuMemcpyHtoD_v2(to, from, bytes) : cuMemcpy(to, (uintptr_t)from, bytes));
    }
}

static void from_device(int form, void *to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    switch (form) {
    case 0: CHECK(cuMemcpyDtoHAsync_v2(to, from, bytes, stream)); break;
    case 1: CHECK(cuMemcpyAsync((uintptr_t)to, from, bytes, stream)); break;
    default:
        CHECK(cuStreamSynchronize(stream));
        CHECK(form == 2 ? cuMemcpyDtoH_v2(to, from, bytes) : cuMemcpy((uintptr_t)to, from, bytes));
    }
}

static int beside(const unsigned char *memory, size_t bytes, unsigned char value)
{
    int wrong = 0;

    for (int i = 0; i < GUARD; i++)
        wrong += memory[-1 - i] != value || memory[bytes + i] != value;
    return wrong;
}

/* A fill before the copy, which it must overwrite; a copy on the device after it, which must see all of it; a copy
 * back, and another fill after that, of which it must see nothing. Nothing around either side is touched. */
static void one_round(struct Traffic *t)
{
    size_t bytes = some_size(&t->random), offset = GUARD + next(&t->random) % 4096;
    size_t there = (GUARD + next(&t->random) % 4096) & ~3ull, back = GUARD + next(&t->random) % 4096;
    CUstream stream = t->streams[next(&t->random) % (STREAMS + 2)];
    size_t around_there = there - GUARD, with_around = (bytes + 2 * GUARD + 3) & ~3ull;
    uint64_t spin_ns = next(&t->random) % 4 == 0 ? next(&t->random) % 2000000 : 0;
    unsigned char around[GUARD];

    fill(t->source + offset, bytes, t->random);
    memcpy(t->wanted, t->source + offset, bytes);
    memset(t->arrived + back - GUARD, 0x5a, bytes + 2 * GUARD);
    CHECK(launch_spin(spin_ns, stream));
    CHECK(cuMemsetD32Async(t->first + around_there, 0x11111111, with_around / 4, stream));
    to_device(next(&t->random) % 4, t->first + there, t->source + offset, bytes, stream);
    memset(t->source + offset, 0x22, bytes);
    CHECK(cuMemcpyDtoDAsync_v2(t->second + around_there, t->first + around_there, with_around, stream));
    CHECK(cuMemsetD32Async(t->first + around_there, 0x33333333, with_around / 4, stream));
    from_device(next(&t->random) % 4, t->arrived + back, t->second + there, bytes, stream);
    CHECK(cuMemsetD32Async(t->second + there, 0x44444444, (bytes + 3) / 4, stream));
    t->wrong += memcmp(t->arrived + back, t->wanted, bytes) != 0;
    t->wrong += beside(t->arrived + back, bytes, 0x5a) != 0;
    CHECK(cuMemcpyDtoHAsync_v2(around, t->second + around_there, GUARD, stream));
    for (int i = 0; i < GUARD; i++)
        t->wrong += around[i] != 0x11;
}

static void *rounds(void *argument)
{
    struct Traffic *t = argument;

    CHECK(cuCtxSetCurrent(context));
    for (int i = 0; i < STREAMS; i++)
        CHECK(cuStreamCreate(&t->streams[i], i % 2));
    t->streams[STREAMS] = NULL;
    t->streams[STREAMS + 1] = (CUstream)(uintptr_t)PER_THREAD;
    CHECK(cuMemAlloc_v2(&t->first, DEVICE));
    CHECK(cuMemAlloc_v2(&t->second, DEVICE));
    t->source = malloc(LARGEST + 3 * 4096);
    t->wanted = malloc(LARGEST);
    t->arrived = malloc(LARGEST + 3 * 4096);
    for (int i = 0; i < t->rounds; i++)
        one_round(t);
    for (int i = 0; i < STREAMS; i++)
        CHECK(cuStreamDestroy_v2(t->streams[i]));
    free(t->source), free(t->wanted), free(t->arrived);
    return NULL;
}

static void bytes(uint64_t seed, int count, int threads)
{
    struct Traffic traffic[16] = {0};
    pthread_t thread[16];
    int wrong = 0;

    warm_up();
    for (int i = 0; i < threads; i++) {
        traffic[i] = (struct Traffic){.random = seed * 1000 + i + 1, .rounds = count};
        pthread_create(&thread[i], NULL, rounds, &traffic[i]);
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(thread[i], NULL);
        wrong += traffic[i].wrong;
    }
    printf("%d wrong\n", wrong);
}

/* --- host --- */

static unsigned char *filled;

static void sleep_then_fill(void *bytes)
{
    usleep(30000);
    memset(filled, 42, (size_t)(uintptr_t)bytes);
}

/* How many bytes beyond the first two MiB, which a driver may read at once, are not the new ones. */
static long old_bytes(const unsigned char *memory, size_t bytes, size_t from)
{
    long old = 0;

    for (size_t i = from; i < bytes; i++)
        old += memory[i] != 42;
    return old;
}

static void host(void)
{
    static const size_t SIZES[] = {3 * MIB, 5 * MIB + 1, 9 * MIB, LARGEST};
    unsigned char *arrived = malloc(LARGEST);
    CUdeviceptr memory;
    CUstream stream, blocking;

    filled = malloc(LARGEST);
    warm_up();
    CHECK(cuMemAlloc_v2(&memory, LARGEST));
    CHECK(cuStreamCreate(&stream, 1));
    CHECK(cuStreamCreate(&blocking, 0));
    for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++) {
        memset(filled, 0, LARGEST);
        CHECK(cuLaunchHostFunc(stream, sleep_then_fill, (void *)(uintptr_t)SIZES[i]));
        CHECK(cuMemcpyHtoDAsync_v2(memory, filled, SIZES[i], stream));
        CHECK(cuMemcpyDtoHAsync_v2(arrived, memory, SIZES[i], stream));
        printf("%zu asynchronous: %ld old\n", SIZES[i], old_bytes(arrived, SIZES[i], 2 * MIB));
        /* the default stream, on which a synchronous copy is, waits for a blocking one */
        memset(filled, 0, LARGEST);
        CHECK(cuLaunchHostFunc(blocking, sleep_then_fill, (void *)(uintptr_t)SIZES[i]));
        CHECK(cuMemcpyHtoD_v2(memory, filled, SIZES[i]));
        CHECK(cuMemcpyDtoH_v2(arrived, memory, SIZES[i]));
        printf("%zu synchronous: %ld old\n", SIZES[i], old_bytes(arrived, SIZES[i], 0));
    }
}

/* --- behind --- */

/* What a copy back sees of memory that is still to be filled: on the same stream, or on a blocking one, with which the
 * default stream is ordered. */
static int old_behind(CUdeviceptr memory, unsigned char *arrived, CUstream filling, CUstream copying, int value)
{
    CHECK(cuMemsetD8_v2(memory, 0, LARGEST));
    CHECK(cuCtxSynchronize());
    CHECK(launch_spin(30000000, filling));
    CHECK(cuMemsetD32Async(memory, 0x01010101 * value, LARGEST / 4, filling));
    CHECK(cuMemcpyDtoHAsync_v2(arrived, memory, LARGEST, copying));
    for (size_t i = 0; i < LARGEST; i++)
        if (arrived[i] != value)
            return 1;
    return 0;
}

static void behind(void)
{
    unsigned char *arrived = malloc(LARGEST);
    CUstream apart, blocking, per_thread = (CUstream)(uintptr_t)PER_THREAD;
    CUdeviceptr memory;
    int old = 0;

    warm_up();
    CHECK(cuMemAlloc_v2(&memory, LARGEST));
    CHECK(cuStreamCreate(&apart, 1));
    CHECK(cuStreamCreate(&blocking, 0));
    old += old_behind(memory, arrived, apart, apart, 1);
    old += old_behind(memory, arrived, NULL, NULL, 2);
    old += old_behind(memory, arrived, blocking, (CUstream)(uintptr_t)LEGACY, 3);
    old += old_behind(memory, arrived, (CUstream)(uintptr_t)LEGACY, blocking, 4);
    old += old_behind(memory, arrived, per_thread, per_thread, 5);
    printf("%d old\n", old);
}

/* --- captures --- */

static volatile int stop;
static int mode;

/* One capture after the other, each of which must come out whole. */
static void *capture_on(void *unused)
{
    CUstream stream;
    CUgraph graph;
    long count = 0;

    CHECK(cuCtxSetCurrent(context));
    CHECK(cuStreamCreate(&stream, 1));
    while (!stop) {
        CHECK(cuStreamBeginCapture_v2(stream, mode));
        CHECK(launch_spin(0, stream));
        usleep(count % 3 * 300);
        CHECK(cuStreamEndCapture(stream, &graph));
        CHECK(cuGraphDestroy(graph));
        usleep(500);
        count++;
    }
    ASSERT(count > 0);
    return unused;
}

static int round_trip(CUdeviceptr memory, unsigned char *from, unsigned char *to, size_t bytes, CUstream stream, int i)
{
    fill(from, bytes, i);
    CHECK(cuMemcpyHtoDAsync_v2(memory, from, bytes, stream));
    CHECK(cuMemcpyDtoHAsync_v2(to, memory, bytes, stream));
    return memcmp(from, to, bytes) != 0;
}

/* The copy is a node of the graph: it takes what the source holds when the graph runs. */
static int inside(CUdeviceptr memory, unsigned char *from, unsigned char *to, size_t bytes, CUstream stream)
{
    CUgraph graph;
    CUgraphExec executable;

    fill(from, bytes, 1);
    CHECK(cuStreamBeginCapture_v2(stream, mode));
    CHECK(cuMemcpyHtoDAsync_v2(memory, from, bytes, stream));
    CHECK(cuMemcpyDtoHAsync_v2(to, memory, bytes, stream));
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    fill(from, bytes, 2);
    CHECK(cuGraphLaunch(executable, stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuGraphExecDestroy(executable));
    CHECK(cuGraphDestroy(graph));
    return memcmp(from, to, bytes) != 0;
}

static void captures(void)
{
    size_t bytes = 16 * MIB + 5;
    unsigned char *from = malloc(bytes), *to = malloc(bytes);
    pthread_t thread;
    CUdeviceptr memory;
    CUstream stream;
    int wrong = 0;

    warm_up();
    load_kernels();
    CHECK(cuMemAlloc_v2(&memory, bytes));
    CHECK(cuStreamCreate(&stream, 1));
    wrong += inside(memory, from, to, bytes, stream);
    pthread_create(&thread, NULL, capture_on, NULL);
    for (int i = 0; i < 30; i++)
        wrong += round_trip(memory, from, to, bytes, i % 2 ? stream : (CUstream)(uintptr_t)PER_THREAD, i);
    stop = 1;
    pthread_join(thread, NULL);
    printf("%d wrong\n", wrong);
}

/* Captures on a stream that is ordered with the default stream, each begun while a copy is under way there: it is none
 * of the capture's business. A copy that had not begun by then is refused, and its capture ended, by the driver. */
static volatile int about_to_copy;

static void *capture_meanwhile(void *unused)
{
    CUstream stream;
    CUgraph graph;
    CUresult ended;

    CHECK(cuCtxSetCurrent(context));
    CHECK(cuStreamCreate(&stream, 0));
    while (!about_to_copy)
        usleep(100);
    usleep(5000);
    CHECK(cuStreamBeginCapture_v2(stream, GLOBAL));
    usleep(10000);
    ended = cuStreamEndCapture(stream, &graph);
    CHECK(cuStreamDestroy_v2(stream));
    (void)unused;
    return (void *)(uintptr_t)ended;
}

static void beside_copies(void)
{
    size_t bytes = (size_t)128 * MIB;
    unsigned char *from = calloc(bytes, 1);
    CUdeviceptr memory;
    int well = 0;

    warm_up();
    CHECK(cuMemAlloc_v2(&memory, bytes));
    for (int i = 0; i < 10; i++) {
        pthread_t thread;
        CUresult copied;
        void *ended;
        about_to_copy = 0;
        pthread_create(&thread, NULL, capture_meanwhile, NULL);
        about_to_copy = 1;
        copied = i % 2 ? cuMemcpyHtoD_v2(memory, from, bytes) : cuMemcpyDtoHAsync_v2(from, memory, bytes, NULL);
        pthread_join(thread, &ended);
        well += copied == 0 && ended == NULL;
    }
    printf("%s\n", well > 0 ? "side by side" : "never");
}

/* --- contexts --- */

static void contexts(void)
{
    size_t bytes = 16 * MIB + 5;
    unsigned char *from = malloc(bytes), *to = malloc(bytes);
    CUdevice device;
    int wrong = 0;

    driver_load();
    CHECK(cuInit(0));
    CHECK(cuDeviceGet(&device, 0));
    for (int i = 0; i < 6; i++) {
        CUcontext own;
        CUdeviceptr memory;
        if (i % 3 == 0) {
            CHECK(cuCtxCreate_v2(&own, 0, device));
        } else {
            CHECK(cuDevicePrimaryCtxRetain(&own, device));
            CHECK(cuCtxSetCurrent(own));
        }
        warm_up();
        CHECK(cuMemAlloc_v2(&memory, bytes));
        for (int j = 0; j < 3; j++)
            wrong += round_trip(memory, from, to, bytes, NULL, i * 3 + j);
        if (i % 3 == 0)
            CHECK(cuCtxDestroy_v2(own));
        else
            CHECK(i % 3 == 1 ? cuDevicePrimaryCtxReset_v2(device) : cuDevicePrimaryCtxRelease_v2(device));
    }
    printf("%d wrong\n", wrong);
}

/* --- refused --- */

static void refused(void)
{
    size_t bytes = 20 * MIB;
    unsigned char *from = calloc(bytes, 1);
    CUdeviceptr memory;

    warm_up();
    CHECK(cuMemAlloc_v2(&memory, bytes));
    CHECK(cuMemsetD8_v2(memory, 7, bytes));
    EXPECT(1, cuMemcpyHtoD_v2(memory, from, bytes + 1)); /* beyond the end: not a byte of it */
    EXPECT(1, cuMemcpyHtoD_v2(0, from, bytes));
    EXPECT(1, cuMemcpyDtoH_v2(from, memory + 16, bytes));
    EXPECT(1, cuMemcpyHtoD_v2((uintptr_t)from, from, bytes));
    CHECK(cuMemcpyDtoH_v2(from, memory, bytes));
    for (size_t i = 0; i < bytes; i++)
        ASSERT(from[i] == 7);
    CHECK(cuMemFree_v2(memory));
    EXPECT(1, cuMemcpyHtoD_v2(memory, from, bytes));
    puts("right");
}

/* --- failing --- */

/* What the driver is made to answer to one call in a few, from the fourth on. */
static void failing(void)
{
    size_t bytes = 24 * MIB;
    unsigned char *from = malloc(bytes), *to = malloc(bytes);
    CUdeviceptr memory;
    int failed = 0, wrong = 0;

    warm_up();
    CHECK(cuMemAlloc_v2(&memory, bytes));
    for (int i = 0; i < 20; i++) {
        CUresult status;
        fill(from, bytes, i);
        status = cuMemcpyHtoDAsync_v2(memory, from, bytes, NULL);
        if (status == 0)
            status = cuMemcpyDtoHAsync_v2(to, memory, bytes, NULL);
        failed += status == 2;
        wrong += status != 0 ? status != 2 : memcmp(from, to, bytes) != 0;
    }
    printf("%d failed, %d wrong\n", failed, wrong);
}

/* --- registered --- */

static void registered(void)
{
    size_t bytes = 16 * MIB;
    unsigned char *from, *to = malloc(bytes);
    CUdeviceptr memory;

    warm_up();
    from = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(cuMemHostRegister_v2(from, bytes, 0));
    CHECK(cuMemAlloc_v2(&memory, bytes));
    fill(from, bytes, 9);
    CHECK(cuMemcpyHtoD_v2(memory, from, bytes));
    CHECK(cuMemcpyDtoH_v2(from, memory, bytes));
    CHECK(cuMemHostUnregister(from));
    CHECK(cuMemcpyDtoH_v2(to, memory, bytes)); /* this one is pageable */
    printf("%s\n", memcmp(from, to, bytes) == 0 ? "right" : "wrong");
}

int main(int argc, char **argv)
{
    const char *kind = argv[1];

    if (strcmp(kind, "contexts") == 0) {
        contexts();
        return 0;
    }
    make_context();
    load_kernels();
    if (strcmp(kind, "bytes") == 0) {
        bytes(strtoull(argv[2], NULL, 10), atoi(argv[3]), atoi(argv[4]));
    } else if (strcmp(kind, "host") == 0) {
        host();
    } else if (strcmp(kind, "behind") == 0) {
        behind();
    } else if (strcmp(kind, "captures") == 0) {
        mode = atoi(argv[2]);
        captures();
    } else if (strcmp(kind, "beside") == 0) {
        beside_copies();
    } else if (strcmp(kind, "refused") == 0) {
        refused();
    } else if (strcmp(kind, "failing") == 0) {
        failing();
    } else if (strcmp(kind, "registered") == 0) {
        registered();
    }
    (void)argc;
    return 0;
}

/* Many threads allocate, ask for the BUFFER_ID and free, through the end of a context: no identity comes twice, neither
 * among blocks of the same address nor between page-locked and device memory, and every other answer is the block's. */
#include "program.h"
#include <pthread.h>
#include <stdint.h>

enum { THREADS = 8, ROUNDS = 150, PER_ROUND = 3, IDENTITIES = 2 * THREADS * ROUNDS * PER_ROUND + 1 };
enum { BUFFER_ID = 7, RANGE_START = 11, RANGE_SIZE = 12 };

static uint64_t identities[IDENTITIES];
static size_t known;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void note(uint64_t identity)
{
    pthread_mutex_lock(&lock);
    identities[known++] = identity;
    pthread_mutex_unlock(&lock);
}

static uint64_t alone(int number, CUdeviceptr at)
{
    uint64_t value = 0;

    CHECK(cuPointerGetAttribute(&value, number, at));
    return value;
}

static void ask(char *block, size_t bytes)
{
    uint64_t identity = alone(BUFFER_ID, (CUdeviceptr)block), again = 0, start = 0, size = 0;
    CUpointer_attribute numbers[] = {RANGE_SIZE, BUFFER_ID, RANGE_START};
    void *values[] = {&size, &again, &start};

    CHECK(cuPointerGetAttributes(3, numbers, values, (CUdeviceptr)block + bytes - 1));
    ASSERT(again == identity && size == bytes && start == (uintptr_t)block);
    note(identity);
}

static void *churn(void *seed)
{
    CHECK(cuCtxSetCurrent(context));
    for (int round = 0; round < ROUNDS; round++) {
        size_t bytes = 1 + ((uintptr_t)seed * 7919 + round * 104729) % 70000;
        char *one, *two;
        CUdeviceptr memory;

        CHECK(cuMemHostAlloc((void **)&one, bytes, 0));
        CHECK(cuMemHostAlloc((void **)&two, 64, PORTABLE));
        CHECK(cuMemAlloc_v2(&memory, 64));
        ask(one, bytes);
        ask(two, 64);
        note(alone(BUFFER_ID, memory));
        CHECK(cuMemFreeHost(one));
        CHECK(cuMemFreeHost(two));
        CHECK(cuMemFree_v2(memory));
    }
    return NULL;
}

static void all_threads(void)
{
    pthread_t threads[THREADS];

    for (uintptr_t i = 0; i < THREADS; i++)
        ASSERT(pthread_create(&threads[i], NULL, churn, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++)
        ASSERT(pthread_join(threads[i], NULL) == 0);
}

static int by_value(const void *one, const void *other)
{
    uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;

    return (a > b) - (a < b);
}

int main(void)
{
    char *lost;
    int twice = 0;

    make_context();
    all_threads();
    CHECK(cuMemHostAlloc((void **)&lost, 64, 0));
    ask(lost, 64); /* it goes with its context, not by a free */
    CHECK(cuDevicePrimaryCtxReset_v2(0));
    make_context();
    all_threads();
    ASSERT(known == IDENTITIES);
    qsort(identities, known, sizeof *identities, by_value);
    for (size_t i = 1; i < known; i++)
        twice += identities[i] == identities[i - 1];
    printf("%d twice\n", twice);
    return 0;
}

/* Threads that allocate, scribble on, check and free page-locked memory, and hand blocks to one another to be freed;
 * contexts that come and go with memory in them. ROUNDS as argument. */
#include "program.h"
#include <pthread.h>

enum { THREADS = 8, HELD = 12 };

static int rounds;
static char *exchange[64];

static void *work(void *argument)
{
    unsigned random = (unsigned)(size_t)argument * 7919 + 1;
    char *held[HELD] = {0}, mark = (char)(size_t)argument;
    size_t bytes[HELD];

    CHECK(cuCtxSetCurrent(context));
    for (int i = 0; i < rounds; i++) {
        int at;
        random = random * 1664525 + 1013904223;
        at = (random >> 8) % HELD;
        if (held[at] != NULL) {
            for (size_t j = 0; j < bytes[at]; j += 512)
                ASSERT(held[at][j] == mark);
            if (random >> 28 != 0) {
                CHECK(cuMemFreeHost(held[at]));
            } else {
                char *old = __atomic_exchange_n(&exchange[(random >> 12) % 64], held[at], __ATOMIC_ACQ_REL);
                if (old != NULL)
                    CHECK(cuMemFreeHost(old));
            }
        }
        bytes[at] = 1 + (random >> 6) % (i % 50 == 0 ? 3 << 20 : 60000);
        CHECK(cuMemHostAlloc((void **)&held[at], bytes[at], 0));
        memset(held[at], mark, bytes[at]);
    }
    for (int i = 0; i < HELD; i++)
        if (held[i] != NULL)
            CHECK(cuMemFreeHost(held[i]));
    return NULL;
}

static void with_contexts(void)
{
    for (int i = 0; i < 6; i++) {
        CUcontext own;
        char *blocks[10];
        CHECK(cuCtxCreate_v2(&own, 0, 0));
        for (int j = 0; j < 10; j++) {
            CHECK(cuMemHostAlloc((void **)&blocks[j], 50000, PORTABLE));
            memset(blocks[j], j, 50000);
        }
        for (int j = 0; j < 5; j++)
            CHECK(cuMemFreeHost(blocks[j]));
        CHECK(cuCtxDestroy_v2(own)); /* the other five go with it */
    }
}

int main(int argc, char **argv)
{
    pthread_t thread[THREADS];

    rounds = argc > 1 ? atoi(argv[1]) : 1000;
    driver_load();
    CHECK(cuInit(0));
    with_contexts();
    make_context();
    for (size_t i = 0; i < THREADS; i++)
        pthread_create(&thread[i], NULL, work, (void *)(i + 1));
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < 64; i++)
        if (exchange[i] != NULL)
            CHECK(cuMemFreeHost(exchange[i]));
    puts("right");
    return 0;
}

/* Plays a record of pinned memory (benches/traces) with the driver's own functions, in its order and on one thread. Says
 * how many allocations there were, how many the pool served, before how many of its allocations and frees the stream was
 * held, and behind how many of those it no longer was: they have waited for the GPU until the hold gave up.
 *
 * Pauses before allocations are the record's, up to 20 ms. After a miss the pool's next slab is waited for, so that hits do
 * not depend on how soon the machine lets the background thread run. */
#include "../../include/aishim.h"
#include "program.h"
#include <stdatomic.h>
#include <stdbool.h>

enum { MOST_BLOCKS = 4096, LONGEST_PAUSE_US = 20000, HELD_ONE_IN = 4, PATIENCE_MS = 2000 };

static void *blocks[MOST_BLOCKS];
static unsigned events, allocations, served, held, waited;
static atomic_bool is_released;
static __typeof__(ai_pool_stats) *pool_stats;

static struct ai_pool_stats stats(void)
{
    struct ai_pool_stats result = {0};

    ASSERT(pool_stats(&result, sizeof result) == 0);
    return result;
}

/* In a stream: keeps it busy until it is released. */
static void hold(void *unused)
{
    (void)unused;
    for (int i = 0; i < PATIENCE_MS && !atomic_load(&is_released); i++)
        usleep(1000);
}

static void wait_for_growth(uint64_t reserved_bytes)
{
    for (int i = 0; i < PATIENCE_MS && stats().reserved_bytes == reserved_bytes; i++)
        usleep(1000);
}

/* Allocates or frees; whether that was the pool's doing. */
static bool is_pools(void **block, size_t bytes)
{
    struct ai_pool_stats before = stats(), after;

    if (bytes == 0) {
        CHECK(cuMemFreeHost(*block));
        return stats().frees != before.frees;
    }
    CHECK(cuMemHostAlloc(block, bytes, 0));
    after = stats();
    allocations++;
    served += after.hits != before.hits;
    if (after.hits == before.hits)
        wait_for_growth(before.reserved_bytes);
    return after.hits != before.hits;
}

static void alloc_or_free(void **block, size_t bytes)
{
    bool is_held = events++ % HELD_ONE_IN == 1;

    atomic_store(&is_released, false);
    if (is_held)
        CHECK(cuLaunchHostFunc(NULL, hold, NULL));
    if (is_pools(block, bytes) && is_held) {
        held++;
        waited += cuStreamQuery(NULL) == 0;
    }
    atomic_store(&is_released, true);
}

static void play(const char *line, unsigned long *last_us)
{
    unsigned long at_us, pause_us;
    unsigned thread, block;
    size_t bytes = 0;
    char what[8];

    ASSERT(sscanf(line, "%lu %u %7s %x %zu", &at_us, &thread, what, &block, &bytes) >= 3);
    pause_us = at_us - *last_us;
    *last_us = at_us;
    if (strcmp(what, "sync") == 0) {
        CHECK(cuStreamSynchronize(NULL));
        return;
    }
    ASSERT(block < MOST_BLOCKS);
    if (bytes != 0)
        usleep((unsigned)(pause_us < LONGEST_PAUSE_US ? pause_us : LONGEST_PAUSE_US));
    alloc_or_free(&blocks[block], bytes);
}

int main(int argc, char **argv)
{
    unsigned long last_us = 0;
    char line[200];
    FILE *record = fopen(argc > 1 ? argv[1] : "", "r");

    ASSERT(record != NULL);
    make_context();
    *(void **)&pool_stats = dlsym(RTLD_DEFAULT, "ai_pool_stats");
    ASSERT(pool_stats != NULL);
    while (fgets(line, sizeof line, record) != NULL)
        if (line[0] != '#')
            play(line, &last_us);
    fclose(record);
    CHECK(cuStreamSynchronize(NULL));
    printf("%u %u %u %u\n", allocations, served, held, waited);
    return 0;
}

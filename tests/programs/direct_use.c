/* The functions of aishim.h: linked to the library, or (-DVIA_LOOKUP) found with dlsym by a program that runs under it. */
#include "program.h"
#include "aishim.h"
#include <errno.h>
#include <pthread.h>
#include <sys/wait.h>

#ifdef VIA_LOOKUP
static void *(*alloc_pinned)(size_t);
static void (*free_pinned)(void *);
static int (*pool_stats)(struct ai_pool_stats *, size_t);

static void find_functions(void)
{
    *(void **)&alloc_pinned = dlsym(RTLD_DEFAULT, "ai_alloc_pinned");
    *(void **)&free_pinned = dlsym(RTLD_DEFAULT, "ai_free_pinned");
    *(void **)&pool_stats = dlsym(RTLD_DEFAULT, "ai_pool_stats");
    ASSERT(alloc_pinned && free_pinned && pool_stats);
}
#else
#define alloc_pinned ai_alloc_pinned
#define free_pinned ai_free_pinned
#define pool_stats ai_pool_stats

static void find_functions(void)
{
}
#endif

/* NULL, with that reason. */
static int refused(size_t bytes, int reason)
{
    errno = 0;
    return alloc_pinned(bytes) == NULL && errno == reason;
}

static struct ai_pool_stats stats_now(void)
{
    struct ai_pool_stats stats;

    ASSERT(pool_stats(&stats, sizeof stats) == 0);
    ASSERT(stats.version >= AI_POOL_STATS_VERSION && stats.filled_bytes == sizeof stats);
    return stats;
}

static void *without_context(void *driver_memory)
{
    ASSERT(refused(4096, ENXIO));
    free_pinned(driver_memory);
    return NULL;
}

static void before_any_context(void)
{
    struct ai_pool_stats stats = stats_now();

    ASSERT(refused(0, EINVAL));
    ASSERT(refused(4096, ENODEV));
    ASSERT(stats.capacity_bytes == 0 && stats.hits == 0);
    errno = 7;
    free_pinned(NULL);
    ASSERT(errno == 7);
}

static void from_the_pool(void)
{
    char *block = alloc_pinned(10000);
    CUdeviceptr start;
    size_t bytes;
    unsigned flags;

    ASSERT(block && (size_t)block % 4096 == 0);
    memset(block, 1, 10000);
    CHECK(cuMemHostGetFlags(&flags, block));
    CHECK(cuMemGetAddressRange_v2(&start, &bytes, (CUdeviceptr)block + 9999));
    ASSERT(start == (CUdeviceptr)block && bytes == 10000);
    ASSERT(stats_now().requested_bytes == 10000 && stats_now().hits == 1);
    free_pinned(block);
    free_pinned(block);
    free_pinned(&flags);
    ASSERT(stats_now().requested_bytes == 0 && stats_now().frees == 1);
}

/* What the pool has no room for comes from the driver, and needs a context to be freed: on a thread without one too. */
static void from_the_driver(void)
{
    char *block = alloc_pinned(300 << 20);
    pthread_t thread;
    unsigned flags;

    ASSERT(block);
    block[0] = block[(300 << 20) - 1] = 1;
    ASSERT(stats_now().requested_bytes == 0 && stats_now().misses == 1);
    ASSERT(pthread_create(&thread, NULL, without_context, block) == 0);
    ASSERT(pthread_join(thread, NULL) == 0);
    ASSERT(cuMemHostGetFlags(&flags, block) == 1);
    ASSERT(refused((size_t)1 << 45, ENOMEM));
}

static void in_a_capture(void)
{
    CUstream stream;
    CUgraph graph;

    CHECK(cuStreamCreate(&stream, 1));
    CHECK(cuStreamBeginCapture_v2(stream, GLOBAL));
    ASSERT(refused(4096, EBUSY));
    ASSERT(cuStreamEndCapture(stream, &graph) == 901);
    CHECK(cuStreamDestroy_v2(stream));
}

static void stats_of_other_sizes(void)
{
    struct { struct ai_pool_stats known; unsigned long long new_one; } newer;
    struct ai_pool_stats stats;

    memset(&stats, 0xee, sizeof stats);
    ASSERT(pool_stats(&stats, 16) == 0 && stats.filled_bytes == 16 && stats.capacity_bytes > 0);
    ASSERT(((unsigned char *)&stats)[16] == 0xee);
    memset(&newer, 0xee, sizeof newer);
    ASSERT(pool_stats((struct ai_pool_stats *)&newer, sizeof newer) == 0);
    ASSERT(newer.known.filled_bytes == sizeof stats && newer.new_one == 0);
    errno = 0;
    ASSERT(pool_stats(NULL, sizeof stats) == -1 && errno == EINVAL);
    ASSERT(pool_stats(&stats, 4) == -1);
}

static void in_a_child(void)
{
    pid_t child = fork();
    int status;

    if (child == 0)
        _exit(refused(4096, ENODEV) ? 5 : 6);
    ASSERT(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 5);
}

int main(void)
{
    find_functions();
    before_any_context();
    make_context();
    from_the_pool();
    from_the_driver();
    in_a_capture();
    stats_of_other_sizes();
    in_a_child();
    puts("right");
    return 0;
}

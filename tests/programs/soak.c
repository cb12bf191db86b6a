/* For SECONDS does everything at random in a few threads: allocates, copies, launches, captures, forks, starts threads
 * and cancels them, makes contexts and destroys them; checks every result. At last counts what it should not have any
 * more of than early on. Arguments: SEED SECONDS. */
#include "program.h"
#include <dirent.h>
#include <pthread.h>
#include <sys/wait.h>
#include <time.h>

enum { THREADS = 3, N = 2000 };

static time_t end;

struct own {
    unsigned random;
    CUstream stream;
    CUdeviceptr a, b, sum;
};

static unsigned next(struct own *own)
{
    own->random = own->random * 1664525 + 1013904223;
    return own->random >> 8;
}

static int entries(const char *folder)
{
    DIR *opened = opendir(folder);
    int count = 0;

    while (readdir(opened) != NULL)
        count++;
    closedir(opened);
    return count;
}

static void copy(struct own *own)
{
    unsigned *from, *to;
    size_t bytes = 4096 + next(own) % 200000 / 4 * 4;
    unsigned seed = next(own);
    CUdeviceptr memory;

    CHECK(cuMemHostAlloc((void **)&from, bytes, next(own) % 8 == 0 ? WRITECOMBINED : 0));
    CHECK(cuMemHostAlloc((void **)&to, bytes, 0));
    CHECK(cuMemAllocAsync(&memory, bytes, own->stream));
    for (size_t i = 0; i < bytes / 4; i++)
        from[i] = seed + i;
    CHECK(cuMemcpyHtoDAsync_v2(memory, from, bytes, own->stream));
    CHECK(cuMemFreeHost(from));
    CHECK(cuMemcpyDtoHAsync_v2(to, memory, bytes, own->stream));
    CHECK(cuMemFreeAsync(memory, own->stream));
    CHECK(cuStreamSynchronize(own->stream));
    for (size_t i = 0; i < bytes / 4; i++)
        ASSERT(to[i] == seed + i);
    CHECK(cuMemFreeHost(to));
}

static void launch(struct own *own)
{
    for (int i = next(own) % 50; i >= 0; i--)
        CHECK(launch_add(own->a, own->b, own->sum, N, own->stream));
    CHECK(cuStreamSynchronize(own->stream));
    ASSERT(all_are(own->sum, N, 3));
}

static void capture(struct own *own)
{
    CUgraph graph;
    CUgraphExec executable;

    CHECK(cuStreamBeginCapture_v2(own->stream, RELAXED));
    for (int i = next(own) % 5; i >= 0; i--)
        CHECK(launch_add(own->a, own->b, own->sum, N, own->stream));
    CHECK(cuStreamEndCapture(own->stream, &graph));
    CHECK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    CHECK(cuGraphLaunch(executable, own->stream));
    CHECK(cuStreamSynchronize(own->stream));
    CHECK(cuGraphExecDestroy(executable));
    CHECK(cuGraphDestroy(graph));
    ASSERT(all_are(own->sum, N, 3));
}

static void child(struct own *own)
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        void *memory;
        (void)launch_spin(0, own->stream);
        (void)cuMemHostAlloc(&memory, 4096, 0);
        _exit(9);
    }
    ASSERT(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 9);
}

static void *short_life(void *argument)
{
    struct own *own = argument;

    CHECK(cuCtxSetCurrent(context));
    for (int i = 0; i < 30; i++) {
        CHECK(launch_spin(0, (CUstream)PER_THREAD));
        if (own->random % 2)
            pthread_testcancel();
    }
    return NULL;
}

static void thread(struct own *own)
{
    pthread_t other;

    ASSERT(pthread_create(&other, NULL, short_life, own) == 0);
    if (next(own) % 2)
        pthread_cancel(other);
    pthread_join(other, NULL);
}

static void stream(struct own *own)
{
    CHECK(cuStreamDestroy_v2(own->stream));
    CHECK(cuStreamCreate(&own->stream, 1)); /* blocking ones would not let others use the legacy stream in a capture */
}

static void context_of_its_own(struct own *own)
{
    CUcontext other;
    void *memory;

    CHECK(cuCtxCreate_v2(&other, 0, 0));
    CHECK(cuMemHostAlloc(&memory, 1 + next(own) % 100000, PORTABLE));
    memset(memory, 1, 1);
    if (next(own) % 2)
        CHECK(cuMemFreeHost(memory));
    CHECK(cuCtxDestroy_v2(other));
    CHECK(cuCtxSetCurrent(context));
}

static void *work(void *argument)
{
    static void (*const things[])(struct own *) = {copy,   copy,  launch, launch,  launch,
                                                   launch, capture, child,  thread, stream, context_of_its_own};
    struct own *own = argument;

    CHECK(cuCtxSetCurrent(context));
    CHECK(cuStreamCreate(&own->stream, 1));
    own->a = device_floats(N, 1);
    own->b = device_floats(N, 2);
    own->sum = device_floats(N, 0);
    while (time(NULL) < end)
        things[next(own) % (sizeof things / sizeof *things)](own);
    CHECK(cuStreamDestroy_v2(own->stream));
    CHECK(cuMemFree_v2(own->a));
    CHECK(cuMemFree_v2(own->b));
    CHECK(cuMemFree_v2(own->sum));
    return NULL;
}

static void all_at_once(unsigned seed, int seconds)
{
    struct own owns[THREADS];
    pthread_t threads[THREADS];

    end = time(NULL) + seconds;
    for (int i = 0; i < THREADS; i++) {
        owns[i].random = seed * 31 + i;
        ASSERT(pthread_create(&threads[i], NULL, work, &owns[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

int main(int argc, char **argv)
{
    unsigned seed = atoi(argv[1]);
    int files, tasks;

    (void)argc;
    make_context();
    load_kernels();
    all_at_once(seed, 1);
    usleep(200000); /* threads of others that have just something to finish */
    files = entries("/proc/self/fd");
    tasks = entries("/proc/self/task");
    all_at_once(seed + 1, atoi(argv[2]));
    usleep(200000);
    ASSERT(entries("/proc/self/fd") <= files);
    ASSERT(entries("/proc/self/task") <= tasks);
    return 0;
}

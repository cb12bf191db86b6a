/* Does what its arguments say, one after the other, with page-locked blocks of 1 MiB:
 *   take N       allocates and fills N more
 *   give         checks and frees all
 *   say WORD     a line on stdout
 *   wait PATH    until there is such a file
 *   churn PATH   allocates, fills, checks and frees one again and again until there is such a file
 *   busy PATH    a kernel on the GPU, unsynchronised, until there is such a file
 *   launch PATH  kernels that do nothing, each waited for, until there is such a file; "longest N", a line with the
 *                microseconds of the longest launch
 *   ask          what the driver says of each block, which has to be what it says of memory that it has allocated
 *   copy N       a block of N MiB, to the device and back in one copy each
 *   hold         a kernel of 20 s on the GPU, which nothing waits for
 *   fork         a child that reads and frees what it was left with, as a sloppy one does, and ends
 *   leave        the context is reset, with all that is in it, and made anew
 *   capture PATH a capture, open until there is such a file, of a kernel that must then run */
#include "program.h"
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

enum { BYTES = 1 << 20, MOST = 200 };

static char *held[MOST];
static int count;

static void take(void)
{
    ASSERT(count < MOST);
    CHECK(cuMemHostAlloc((void **)&held[count], BYTES, 0));
    memset(held[count], count + 1, BYTES);
    count++;
}

static void give(void)
{
    while (count > 0) {
        count--;
        for (int i = 0; i < BYTES; i += 4096)
            ASSERT(held[count][i] == (char)(count + 1));
        CHECK(cuMemFreeHost(held[count]));
    }
}

static int there_is(const char *path)
{
    struct stat status;

    return stat(path, &status) == 0;
}

static void wait_for(const char *path)
{
    while (!there_is(path))
        usleep(2000);
}

static void churn(const char *path)
{
    while (!there_is(path)) {
        take();
        give();
        usleep(500);
    }
}

static void busy(const char *path)
{
    while (!there_is(path)) {
        CHECK(launch_spin(1000, NULL));
        usleep(2000);
    }
    CHECK(cuCtxSynchronize());
}

static double now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static void launch(const char *path)
{
    double longest_us = 0;

    while (!there_is(path)) {
        double begun_us = now_us(), took_us;

        CHECK(launch_spin(1, NULL));
        took_us = now_us() - begun_us;
        longest_us = took_us > longest_us ? took_us : longest_us;
        CHECK(cuCtxSynchronize());
    }
    printf("longest %.0f\n", longest_us);
}

static void ask(void)
{
    for (int i = 0; i < count; i++) {
        char *block = held[i];
        CUdeviceptr at = (CUdeviceptr)block, base = 0, pointer = 0, first = 0;
        size_t bytes = 0, size = 0;
        unsigned flags = 0;

        EXPECT(1, cuMemHostUnregister(block));
        EXPECT(1, cuMemHostUnregister(block + 4096));
        EXPECT(1, cuMemHostRegister_v2(block, BYTES, 0));
        EXPECT(1, cuMemHostRegister_v2(block + 4096, 4096, 1));
        CHECK(cuMemHostGetFlags(&flags, block));
        ASSERT(flags == 2);
        CHECK(cuMemHostGetDevicePointer_v2(&pointer, block + 4096, 0));
        ASSERT(pointer == at + 4096);
        CHECK(cuMemGetAddressRange_v2(&base, &bytes, at + 5000));
        ASSERT(base == at && bytes == BYTES);
        CHECK(cuPointerGetAttribute(&first, 11, at + 5000));
        CHECK(cuPointerGetAttribute(&size, 12, at + 5000));
        ASSERT(first == at && size == BYTES);
    }
}

static void copy(size_t mib)
{
    size_t bytes = mib << 20;
    CUdeviceptr there;
    char *block;

    CHECK(cuMemHostAlloc((void **)&block, bytes, 0));
    CHECK(cuMemAlloc_v2(&there, bytes));
    memset(block, 90, bytes);
    CHECK(cuMemcpyHtoDAsync_v2(there, block, bytes, NULL));
    CHECK(cuStreamSynchronize(NULL));
    memset(block, 0, bytes);
    CHECK(cuMemcpyDtoH_v2(block, there, bytes));
    ASSERT(block[0] == 90 && block[bytes / 2] == 90 && block[bytes - 1] == 90);
    CHECK(cuMemFree_v2(there));
    CHECK(cuMemFreeHost(block));
}

static void fork_child(void)
{
    pid_t child = fork();
    int status = 0;

    if (child == 0) {
        for (int i = 0; i < count; i++) {
            ASSERT(held[i][BYTES / 2] == (char)(i + 1));
            cuMemFreeHost(held[i]);
        }
        _exit(0);
    }
    ASSERT(waitpid(child, &status, 0) == child && status == 0);
}

static void leave(void)
{
    CHECK(cuDevicePrimaryCtxReset_v2(0));
    count = 0;
    make_context();
}

static void capture(const char *path)
{
    CUstream stream;
    CUgraph graph;
    CUgraphExec executable;

    CHECK(cuStreamCreate(&stream, 1));
    CHECK(cuStreamBeginCapture_v2(stream, GLOBAL));
    CHECK(launch_spin(1000, stream));
    wait_for(path);
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    CHECK(cuGraphLaunch(executable, stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuGraphExecDestroy(executable));
    CHECK(cuGraphDestroy(graph));
    CHECK(cuStreamDestroy_v2(stream));
}

static int is(const char *argument, const char *word)
{
    return strcmp(argument, word) == 0;
}

int main(int argc, char **argv)
{
    /* Some steps wait for what only the test can do. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    make_context();
    load_kernels();
    for (int i = 1; i < argc; i++) {
        if (is(argv[i], "take"))
            for (int left = atoi(argv[++i]); left > 0; left--)
                take();
        else if (is(argv[i], "give"))
            give();
        else if (is(argv[i], "say"))
            puts(argv[++i]), fflush(stdout);
        else if (is(argv[i], "wait"))
            wait_for(argv[++i]);
        else if (is(argv[i], "churn"))
            churn(argv[++i]);
        else if (is(argv[i], "busy"))
            busy(argv[++i]);
        else if (is(argv[i], "launch"))
            launch(argv[++i]);
        else if (is(argv[i], "ask"))
            ask();
        else if (is(argv[i], "copy"))
            copy(strtoul(argv[++i], NULL, 10));
        else if (is(argv[i], "hold"))
            CHECK(launch_spin(20000000000ull, NULL));
        else if (is(argv[i], "fork"))
            fork_child();
        else if (is(argv[i], "leave"))
            leave();
        else if (is(argv[i], "capture"))
            capture(argv[++i]);
        else
            return 2;
    }
    return 0;
}

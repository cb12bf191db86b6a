/* Works until SIGTERM without a launch: operations of so many KIB on memory, waiting for them after every EVERYth (0: never) and then pausing for so many
 * MICROSECONDS. What they do: "set" and "copy" memory of the device, copy "to" it and "from" it from and to page-locked memory, "to_now" and "from_now" with calls
 * that wait from and to pageable memory; "refused" sets more than there is. */
#include "program.h"
#include <signal.h>

static volatile sig_atomic_t stop;

static void on_term(int unused)
{
    (void)unused;
    stop = 1;
}

int main(int argc, char **argv)
{
    const char *what = argv[1];
    size_t bytes = strtoull(argv[2], NULL, 10) << 10;
    int every = atoi(argv[3]), pause_us = atoi(argv[4]);
    CUdeviceptr memory, other;
    void *pinned, *pageable = malloc(bytes);
    CUstream stream;

    (void)argc;
    signal(SIGTERM, on_term);
    make_context();
    CHECK(cuStreamCreate(&stream, 1));
    CHECK(cuMemAlloc_v2(&memory, bytes));
    CHECK(cuMemAlloc_v2(&other, bytes));
    CHECK(cuMemHostAlloc(&pinned, bytes, 0));
    memset(pinned, 1, bytes);
    memset(pageable, 2, bytes);
    for (int i = 1; !stop; i++) {
        if (strcmp(what, "set") == 0)
            CHECK(cuMemsetD32Async(memory, i, bytes / 4, stream));
        else if (strcmp(what, "copy") == 0)
            CHECK(cuMemcpyDtoDAsync_v2(memory, other, bytes, stream));
        else if (strcmp(what, "to") == 0)
            CHECK(cuMemcpyHtoDAsync_v2(memory, pinned, bytes, stream));
        else if (strcmp(what, "from") == 0)
            CHECK(cuMemcpyDtoHAsync_v2(pinned, memory, bytes, stream));
        else if (strcmp(what, "refused") == 0)
            ASSERT(cuMemsetD32Async(memory, i, (size_t)1 << 44, stream) != 0);
        else if (strcmp(what, "to_now") == 0)
            CHECK(cuMemcpyHtoD_v2(memory, pageable, bytes));
        else
            CHECK(cuMemcpyDtoH_v2(pageable, memory, bytes));
        if (every != 0 && i % every == 0) {
            CHECK(cuStreamSynchronize(stream));
            if (pause_us != 0)
                usleep(pause_us);
        }
    }
    CHECK(cuCtxSynchronize());
    puts("done");
    return 0;
}

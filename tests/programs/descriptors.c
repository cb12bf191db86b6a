/* Closes descriptors behind everybody's back and goes on: "late" and "early" close 3 to 1000 after or before the
 * context, "streams" closes the standard ones after it, "streams early" before it; "data" makes descriptor 2 a file of
 * data; "lowest" closes 3 to 1000 and asks for the lowest free descriptor again and again until SIGTERM, and tells how often it
 * was another. What it has to say goes to the file named in the second argument. */
#include "program.h"
#include <fcntl.h>
#include <signal.h>

static void close_range_of(int from, int to)
{
    for (int descriptor = from; descriptor <= to; descriptor++)
        close(descriptor);
}

static void compute(void)
{
    enum { N = 5000 };
    CUdeviceptr a = device_floats(N, 1), b = device_floats(N, 2), sum = device_floats(N, 0);
    float *pinned;

    CHECK(cuMemHostAlloc((void **)&pinned, N * sizeof *pinned, 0));
    for (int i = 0; i < 50; i++)
        CHECK(launch_add(a, b, sum, N, NULL));
    CHECK(cuMemcpyDtoHAsync_v2(pinned, sum, N * sizeof *pinned, NULL));
    CHECK(cuCtxSynchronize());
    for (int i = 0; i < N; i++)
        ASSERT(pinned[i] == 3);
    CHECK(cuMemFreeHost(pinned));
}

/* The lowest three free descriptors: what a file gets that is opened now. */
static void report(const char *file, int outcome)
{
    int descriptors[3], length;
    char text[100];
    int to;

    for (int i = 0; i < 3; i++)
        descriptors[i] = open("/dev/null", O_RDONLY);
    length = snprintf(text, sizeof text, "%d, next descriptors %d %d %d\n", outcome, descriptors[0], descriptors[1],
                      descriptors[2]);
    to = open(file, O_WRONLY | O_CREAT | O_APPEND, 0600);
    ASSERT(write(to, text, length) == length);
}

static volatile sig_atomic_t stop;

static void on_term(int unused)
{
    (void)unused;
    stop = 1;
}

static void watch_lowest(void)
{
    int lowest, others = 0;

    signal(SIGTERM, on_term);
    /* Until what is done once is done. */
    usleep(500 * 1000);
    close_range_of(3, 1000);
    lowest = dup(0);
    close(lowest);
    printf("watching\n");
    fflush(stdout);
    while (!stop) {
        for (int i = 0; i < 2000; i++) {
            int descriptor = dup(0);

            others += descriptor != lowest;
            close(descriptor);
        }
        close_range_of(3, 1000);
        CHECK(cuCtxSynchronize());
    }
    printf("%d others\n", others);
}

int main(int argc, char **argv)
{
    const char *when = argv[1], *file = argv[2];

    if (strcmp(when, "early") == 0)
        close_range_of(3, 1000);
    if (strcmp(when, "streams early") == 0)
        close_range_of(0, 2);
    if (strcmp(when, "data") == 0) {
        close(2);
        ASSERT(open(argv[3], O_WRONLY | O_CREAT, 0600) == 2);
        ASSERT(write(2, "data", 4) == 4);
    }
    make_context();
    if (strcmp(when, "late") == 0)
        close_range_of(3, 1000);
    if (strcmp(when, "streams") == 0)
        close_range_of(0, 2);
    load_kernels();
    compute();
    if (strcmp(when, "lowest") == 0)
        watch_lowest();
    (void)argc;
    report(file, 1);
    return 5;
}

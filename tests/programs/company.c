/* Works until SIGTERM: launches of so many NANOSECONDS, waiting for them after every EVERYth (0: never) and then pausing for so many
 * MICROSECONDS. */
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
    unsigned long long ns = strtoull(argv[1], NULL, 10);
    int every = atoi(argv[2]), pause_us = atoi(argv[3]);
    CUstream stream;

    (void)argc;
    signal(SIGTERM, on_term);
    make_context();
    load_kernels();
    CHECK(cuStreamCreate(&stream, 1));
    for (int i = 1; !stop; i++) {
        CHECK(launch_spin(ns, stream));
        if (every != 0 && i % every == 0) {
            CHECK(cuStreamSynchronize(stream));
            if (pause_us != 0)
                usleep(pause_us);
        }
    }
    CHECK(cuStreamSynchronize(stream));
    puts("done");
    return 0;
}

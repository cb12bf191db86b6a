/* At SIGUSR1 queues 300 launches of 1 ms each on four streams and leaves them there: "exits" at once, or first "destroys" its context, or a "stream"; "waits" for them; or
 * it "forks" a child that exits, and waits then; with "other" another context is current meanwhile, which ends before it waits. */
#include "program.h"
#include <signal.h>
#include <sys/wait.h>

static volatile sig_atomic_t is_told;

static void on_signal(int unused)
{
    (void)unused;
    is_told = 1;
}

int main(int argc, char **argv)
{
    const char *how = argc > 1 ? argv[1] : "exits";
    CUcontext other = NULL;
    CUstream stream[4] = {NULL, (CUstream)1, (CUstream)2, NULL};

    signal(SIGUSR1, on_signal);
    make_context();
    load_kernels();
    CHECK(cuStreamCreate(&stream[0], 1));
    CHECK(cuStreamCreate(&stream[3], 0));
    CHECK(launch_spin(1000, stream[0]));
    CHECK(cuStreamSynchronize(stream[0]));
    puts("ready");
    fflush(stdout);
    while (!is_told)
        usleep(1000);
    if (strcmp(how, "other") == 0) {
        CHECK(cuCtxCreate_v2(&other, 0, 0));
        /* Its default streams are the other's. */
        stream[1] = stream[2] = stream[0];
    }
    for (int i = 0; i < 300; i++)
        CHECK(launch_spin(1000000, stream[i % 4]));
    puts("queued");
    fflush(stdout);
    if (strcmp(how, "destroys") == 0)
        CHECK(cuDevicePrimaryCtxReset_v2(0));
    if (strcmp(how, "stream") == 0)
        CHECK(cuStreamDestroy_v2(stream[0]));
    if (strcmp(how, "forks") == 0) {
        pid_t child = fork();
        int status;

        if (child == 0)
            exit(3);
        ASSERT(waitpid(child, &status, 0) == child);
        ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 3);
        puts("forked");
        fflush(stdout);
    }
    if (other != NULL) {
        CHECK(cuCtxDestroy_v2(other));
        CHECK(cuCtxSetCurrent(context));
    }
    if (strcmp(how, "waits") == 0 || other != NULL || strcmp(how, "forks") == 0)
        CHECK(cuCtxSynchronize());
    puts("done");
    return 0;
}

/* Ends with work on the GPU, in the way the first argument says. */
#include "program.h"
#include <pthread.h>
#include <signal.h>

static char said[4096];

/* Straight to the descriptor: half of these endings flush nothing. */
static void say(const char *what, int value)
{
    int length = snprintf(said, sizeof said, "%s %d\n", what, value);

    ASSERT(write(1, said, length) == length);
}

static void handler_before(void)
{
    say("handler from before the context", (int)launch_spin(0, NULL));
}

static void handler_after(void)
{
    say("handler from after the context", (int)launch_spin(0, NULL));
}

__attribute__((destructor)) static void destructor(void)
{
    if (spin != NULL)
        say("destructor", (int)launch_spin(0, NULL));
}

static void *outlive(void *unused)
{
    CHECK(cuCtxSetCurrent(context));
    for (int i = 0; i < 50; i++) {
        CHECK(launch_spin(0, NULL));
        usleep(1000);
    }
    (void)unused;
    exit(25); /* the driver has threads of its own, so the process would not end by itself */
}

int main(int argc, char **argv)
{
    const char *how = argv[1];
    pthread_t thread;
    void *pinned;

    (void)argc;
    atexit(handler_before);
    make_context();
    atexit(handler_after);
    load_kernels();
    /* a pool, if there is one, begins to grow in the background */
    CHECK(cuMemHostAlloc(&pinned, 4096, 0));
    for (int i = 0; i < 5; i++)
        CHECK(launch_spin(50000000, NULL));
    if (strcmp(how, "_exit") == 0)
        _exit(21);
    if (strcmp(how, "quick_exit") == 0)
        quick_exit(22);
    if (strcmp(how, "abort") == 0)
        abort();
    if (strcmp(how, "kill") == 0)
        raise(SIGKILL);
    if (strcmp(how, "fault") == 0)
        raise(SIGSEGV);
    if (strcmp(how, "terminate") == 0)
        raise(SIGTERM);
    if (strcmp(how, "exit") == 0)
        exit(23);
    if (strcmp(how, "main thread first") == 0) {
        pthread_create(&thread, NULL, outlive, NULL);
        pthread_exit(NULL);
    }
    return 24;
}

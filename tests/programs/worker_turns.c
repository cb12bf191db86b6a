/* Threads that begin, launch a few times and end, one after another and some at once: TURNS AT_ONCE LAUNCHES. */
#include "program.h"
#include <pthread.h>

static int launches;

static void *work(void *unused)
{
    CHECK(cuCtxSetCurrent(context));
    for (int i = 0; i < launches; i++)
        CHECK(launch_spin(0, NULL));
    return unused;
}

int main(int argc, char **argv)
{
    int turns = atoi(argv[1]), at_once = atoi(argv[2]);
    pthread_t thread[64];

    (void)argc;
    launches = atoi(argv[3]);
    make_context();
    load_kernels();
    for (int turn = 0; turn < turns; turn++) {
        for (int i = 0; i < at_once; i++)
            ASSERT(pthread_create(&thread[i], NULL, work, NULL) == 0);
        for (int i = 0; i < at_once; i++)
            pthread_join(thread[i], NULL);
    }
    CHECK(cuCtxSynchronize());
    puts("right");
    return 0;
}

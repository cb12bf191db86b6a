/* Threads of unusual kinds, on fakecuda. "small": the context, launches and page-locked memory in threads whose stacks
 * are small (64 KiB; a driver needs some of it). "late": launches from destructors of thread-specific data, again and again while the
 * thread ends. "born": forks while another thread makes the first context; the child must not wait for it. */
#include "program.h"
#include <pthread.h>
#include <sys/wait.h>

static long launched;
static pthread_key_t key;

static void launch(void)
{
    CHECK(cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    __atomic_fetch_add(&launched, 1, __ATOMIC_RELAXED);
}

static void *small(void *unused)
{
    void *pinned;

    make_context();
    for (int i = 0; i < 200; i++)
        launch();
    CHECK(cuMemHostAlloc(&pinned, 4096, 0));
    CHECK(cuMemFreeHost(pinned));
    return unused;
}

static void in_small_threads(void)
{
    pthread_attr_t attributes;
    pthread_t thread;

    pthread_attr_init(&attributes);
    ASSERT(pthread_attr_setstacksize(&attributes, 64 << 10) == 0);
    for (int i = 0; i < 3; i++) {
        ASSERT(pthread_create(&thread, &attributes, small, NULL) == 0);
        pthread_join(thread, NULL);
    }
}

static void at_the_end(void *rounds)
{
    launch();
    if ((size_t)rounds > 1)
        pthread_setspecific(key, (void *)((size_t)rounds - 1));
}

static void *late(void *rounds)
{
    CHECK(cuCtxSetCurrent(context));
    launch();
    pthread_setspecific(key, rounds);
    return NULL;
}

static void late_launches(void)
{
    pthread_t thread;

    pthread_key_create(&key, at_the_end);
    make_context();
    for (size_t i = 0; i < 60; i++) {
        ASSERT(pthread_create(&thread, NULL, late, (void *)(1 + i % 3)) == 0);
        pthread_join(thread, NULL);
    }
}

static void *first_context(void *unused)
{
    make_context();
    launch();
    return unused;
}

/* The child of a fork in the middle of somebody else's beginning only ends. */
static void while_being_born(void)
{
    pthread_t thread;
    int status;

    ASSERT(pthread_create(&thread, NULL, first_context, NULL) == 0);
    for (int i = 0; i < 40; i++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(20);
            make_context();
            exit(8);
        }
        ASSERT(waitpid(child, &status, 0) == child);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 8)
            printf("child %d ended with %x\n", i, status);
    }
    pthread_join(thread, NULL);
}

int main(int argc, char **argv)
{
    (void)argc;
    if (strcmp(argv[1], "small") == 0)
        in_small_threads();
    else if (strcmp(argv[1], "late") == 0)
        late_launches();
    else
        while_being_born();
    printf("%ld\n", launched);
    return 0;
}

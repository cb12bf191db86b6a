/* A program under wrapper.c, from eight threads: allocations and files go through the wrapper, launches are right. */
#include "program.h"
#include <fcntl.h>
#include <pthread.h>

static CUdeviceptr a, b;

static void *work(void *unused)
{
    CUdeviceptr sum = device_floats(500, 0);

    CHECK(cuCtxSetCurrent(context));
    for (int i = 0; i < 400; i++) {
        char *volatile block = malloc(i + 1);
        int file = open("/dev/null", O_RDONLY);
        ASSERT(block != NULL && file >= 0);
        block[i] = 1;
        free(block);
        close(file);
        if (i % 10 == 0)
            CHECK(launch_add(a, b, sum, 500, (CUstream)PER_THREAD));
        if (i % 50 == 0)
            ASSERT(dlsym(RTLD_NEXT, "malloc") != NULL && dlsym(RTLD_DEFAULT, "cuNoSuchThing") == NULL);
    }
    CHECK(cuStreamSynchronize((CUstream)PER_THREAD));
    ASSERT(all_are(sum, 500, 3));
    return unused;
}

static void *bound(void *unused)
{
    CHECK(cuCtxSetCurrent(context));
    return work(unused);
}

int main(void)
{
    unsigned long *calls = dlsym(RTLD_DEFAULT, "wrapper_calls"), *launches = dlsym(RTLD_DEFAULT, "wrapper_launches");
    pthread_t thread[8];

    make_context();
    load_kernels();
    a = device_floats(500, 1);
    b = device_floats(500, 2);
    for (int i = 0; i < 8; i++)
        pthread_create(&thread[i], NULL, bound, NULL);
    for (int i = 0; i < 8; i++)
        pthread_join(thread[i], NULL);
    ASSERT(calls != NULL && *calls >= 8 * 400 * 2);
    printf("right, %lu launches wrapped\n", *launches);
    return 0;
}

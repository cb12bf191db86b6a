/* An ordinary program: computes, uses pinned memory, ends with code 6. The first argument changes its circumstances
 * first: "uid N" makes it another user, "fsize N" sets RLIMIT_FSIZE, "nofile N" RLIMIT_NOFILE. With -DBARE it computes
 * nothing and calls only what fakecuda has, which needs no files itself. */
#include "program.h"
#include <sys/resource.h>

static void limit(int which, const char *to)
{
    struct rlimit both = {strtoul(to, NULL, 10), strtoul(to, NULL, 10)};

    ASSERT(setrlimit(which, &both) == 0);
}

static void change(const char *what, const char *to)
{
    if (strcmp(what, "uid") == 0)
        ASSERT(setgid(atoi(to)) == 0 && setuid(atoi(to)) == 0);
    else if (strcmp(what, "fsize") == 0)
        limit(RLIMIT_FSIZE, to);
    else if (strcmp(what, "nofile") == 0)
        limit(RLIMIT_NOFILE, to);
}

#ifdef BARE
static void compute(void)
{
    CHECK(cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
}
#else
enum { N = 2000, BLOCKS = 40 };

static void pin(float **pinned)
{
    for (int i = 0; i < BLOCKS; i++) {
        CUresult given = cuMemHostAlloc((void **)&pinned[i], 1 << 20, 0);
        if (given != 0)
            pinned[i] = NULL;
        if (given == 2)
            usleep(5000); /* whoever else asks the driver for more does so now */
        else
            CHECK(given);
    }
}

static void compute(void)
{
    CUdeviceptr a, b, sum;
    float *pinned[BLOCKS];

    load_kernels();
    a = device_floats(N, 1);
    b = device_floats(N, 2);
    sum = device_floats(N, 0);
    pin(pinned);
    CHECK(launch_add(a, b, sum, N, NULL));
    if (pinned[0] != NULL) {
        CHECK(cuMemcpyDtoHAsync_v2(pinned[0], sum, N * sizeof(float), NULL));
        CHECK(cuCtxSynchronize());
        ASSERT(pinned[0][0] == 3 && pinned[0][N - 1] == 3);
    }
    for (int i = 0; i < BLOCKS; i++)
        if (pinned[i] != NULL)
            CHECK(cuMemFreeHost(pinned[i]));
    ASSERT(all_are(sum, N, 3));
}
#endif

int main(int argc, char **argv)
{
    if (argc > 2)
        change(argv[1], argv[2]);
    make_context();
    compute();
    return 6;
}

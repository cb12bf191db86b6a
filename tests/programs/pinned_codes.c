/* What the calls on page-locked memory answer, in words that do not depend on addresses: a pool in between must answer
 * as the driver does. */
#include "program.h"

static unsigned flags_of(void *memory)
{
    unsigned flags = 99;
    CUresult status = cuMemHostGetFlags(&flags, memory);

    return status == 0 ? flags : 1000 + status;
}

static void frees(void)
{
    char *block, other[64], *foreign = malloc(8192);
    CUresult first, second, inside, whole;

    CHECK(cuMemHostAlloc((void **)&block, 8192, 0));
    inside = cuMemFreeHost(block + 4096);
    whole = cuMemFreeHost(block);
    printf("free: inside %u, whole %u, again %u\n", inside, whole, (unsigned)cuMemFreeHost(block));
    CHECK(cuMemHostAlloc((void **)&block, 100, 0));
    printf("free: odd address %u\n", (unsigned)cuMemFreeHost(block + 1));
    first = cuMemFreeHost(block);
    second = cuMemFreeHost(block);
    printf("free: once %u, twice %u\n", first, second);
    printf("free: null %u, foreign %u, stack %u\n", (unsigned)cuMemFreeHost(NULL), (unsigned)cuMemFreeHost(foreign),
           (unsigned)cuMemFreeHost(other));
    printf("flags of a freed block: %u\n", flags_of(block));
}

static void sizes(void)
{
    const size_t bytes[] = {0, 1, 4095, 4096, 4097, 1 << 20, (1 << 20) + 1, 40 << 20, (size_t)1 << 45, (size_t)-1};

    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
        char *block = (char *)1;
        CUresult status = cuMemHostAlloc((void **)&block, bytes[i], 0);
        if (status == 0 && bytes[i] > 0) {
            block[0] = block[bytes[i] - 1] = 1;
            ASSERT((size_t)block % 4096 == 0);
            CHECK(cuMemFreeHost(block));
        }
        printf("%zu bytes: %u\n", bytes[i], status);
    }
    printf("no place for the answer: %u, %u\n", (unsigned)cuMemHostAlloc(NULL, 4096, 0),
           (unsigned)cuMemAllocHost_v2(NULL, 4096));
}

static void flags(void)
{
    for (unsigned flags = 0; flags < 10; flags++) {
        char *block;
        CUresult status = cuMemHostAlloc((void **)&block, 10000, flags);
        if (status == 0) {
            printf("flags %u read back %u, inside %u, past the end %u\n", flags, flags_of(block), flags_of(block + 5000),
                   flags_of(block + 12288) > 1000 || 1);
            CHECK(cuMemFreeHost(block));
        } else {
            printf("flags %u: %u\n", flags, status);
        }
    }
}

static void registered(void)
{
    char *block, *own = aligned_alloc(4096, 65536);

    CHECK(cuMemAllocHost_v2((void **)&block, 65536));
    printf("a block: register %u, unregister %u\n", (unsigned)cuMemHostRegister_v2(block, 4096, 0),
           (unsigned)cuMemHostUnregister(block));
    CHECK(cuMemFreeHost(block));
    CHECK(cuMemHostRegister_v2(own, 65536, 0));
    printf("own memory: free %u, register again %u\n", (unsigned)cuMemFreeHost(own),
           (unsigned)cuMemHostRegister_v2(own, 65536, 0));
    CHECK(cuMemHostUnregister(own));
    printf("unregister again %u\n", (unsigned)cuMemHostUnregister(own));
}

static void contexts(void)
{
    char *mine, *others;
    CUcontext other;
    CUdevice device;

    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuMemHostAlloc((void **)&mine, 4096, 0));
    CHECK(cuCtxCreate_v2(&other, 0, device));
    CHECK(cuMemHostAlloc((void **)&others, 4096, PORTABLE));
    CHECK(cuCtxDestroy_v2(other));
    CHECK(cuCtxSetCurrent(context));
    printf("of a context that is gone: free %u, flags %u\n", (unsigned)cuMemFreeHost(others), flags_of(others));
    CHECK(cuDevicePrimaryCtxReset_v2(device));
    printf("after a reset: free %u, flags %u\n", (unsigned)cuMemFreeHost(mine), flags_of(mine));
    CHECK(cuCtxSetCurrent(NULL));
    printf("without a context: %u\n", (unsigned)cuMemHostAlloc((void **)&mine, 4096, 0));
    make_context();
    CHECK(cuMemHostAlloc((void **)&mine, 4096, 0));
    memset(mine, 1, 4096);
    printf("anew: free %u\n", (unsigned)cuMemFreeHost(mine));
}

int main(void)
{
    make_context();
    frees();
    sizes();
    flags();
    registered();
    contexts();
    return 0;
}

/* Device memory of every kind, taken and given back in every order, with the books kept beside it; the books go to
 * stdout, and a test compares them with somebody else's. */
#include "program.h"

static size_t device, peak, managed;

static void add(size_t bytes)
{
    device += bytes;
    peak = device > peak ? device : peak;
}

static CUdeviceptr take(size_t bytes)
{
    CUdeviceptr memory;

    CHECK(cuMemAlloc_v2(&memory, bytes));
    add(bytes);
    return memory;
}

static void give_back(CUdeviceptr memory, size_t bytes)
{
    CHECK(cuMemFree_v2(memory));
    device -= bytes;
}

static void plain(void)
{
    CUdeviceptr one = take(1 << 20), two = take(2 << 20), odd = take(12345), never;

    give_back(one, 1 << 20);
    one = take(4 << 20);
    ASSERT(cuMemAlloc_v2(&never, (size_t)1 << 50) == 2);
    ASSERT(cuMemAlloc_v2(&never, 0) != 0);
    ASSERT(cuMemAlloc_v2(NULL, 4096) == 1);
    ASSERT(cuMemFree_v2(two + 4096) != 0);
    give_back(two, 2 << 20);
    ASSERT(cuMemFree_v2(two) != 0);
    CHECK(cuMemFree_v2(0));
    give_back(one, 4 << 20);
    give_back(odd, 12345);
}

static void pitched(void)
{
    CUdeviceptr memory;
    size_t pitch;

    CHECK(cuMemAllocPitch_v2(&memory, &pitch, 1000, 300, 4));
    ASSERT(pitch >= 1000);
    add(pitch * 300);
    give_back(memory, pitch * 300);
}

static void ordered(void)
{
    CUdeviceptr memory, later;
    CUstream stream;

    CHECK(cuStreamCreate(&stream, 1));
    CHECK(cuMemAllocAsync(&memory, 3 << 20, stream));
    add(3 << 20);
    CHECK(cuMemAllocAsync(&later, 5 << 20, stream));
    add(5 << 20);
    CHECK(cuMemFreeAsync(memory, stream));
    device -= 3 << 20;
    CHECK(cuStreamSynchronize(stream));
    give_back(later, 5 << 20); /* an ordinary free of it is allowed */
    CHECK(cuStreamDestroy_v2(stream));
}

static void of_both(void)
{
    CUdeviceptr one, two;

    CHECK(cuMemAllocManaged(&one, 6 << 20, 1));
    CHECK(cuMemAllocManaged(&two, 7 << 20, 1));
    CHECK(cuMemFree_v2(one));
    managed = 7 << 20; /* the second stays until the end */
}

/* Physical memory is in use until its handle is released and nothing maps it any more, in whichever order. */
static void virtual_memory(int release_first)
{
    CUmemAllocationProp properties = {.type = 1, .location = {.type = 1, .id = 0}};
    CUmemAccessDesc access = {.location = {.type = 1, .id = 0}, .flags = 3};
    const size_t bytes = 4 << 20;
    CUmemGenericAllocationHandle handle;
    CUdeviceptr address;

    CHECK(cuMemCreate(&handle, bytes, &properties, 0));
    add(bytes);
    CHECK(cuMemAddressReserve(&address, 2 * bytes, 0, 0, 0));
    CHECK(cuMemMap(address, bytes, 0, handle, 0));
    CHECK(cuMemMap(address + bytes, bytes, 0, handle, 0));
    CHECK(cuMemSetAccess(address, 2 * bytes, &access, 1));
    if (release_first)
        CHECK(cuMemRelease(handle));
    CHECK(cuMemsetD8_v2(address, 1, bytes));
    CHECK(cuCtxSynchronize());
    CHECK(cuMemUnmap(address, bytes));
    CHECK(cuMemUnmap(address + bytes, bytes));
    if (!release_first)
        CHECK(cuMemRelease(handle));
    device -= bytes;
    CHECK(cuMemAddressFree(address, 2 * bytes));
}

/* What a context holds goes with it. */
static void with_context(void)
{
    CUcontext own;

    CHECK(cuCtxCreate_v2(&own, 0, 0));
    (void)take(10 << 20);
    (void)take(11 << 20);
    CHECK(cuCtxDestroy_v2(own));
    device -= 21 << 20;
    CHECK(cuCtxSetCurrent(context));
}

int main(int argc, char **argv)
{
    make_context();
    for (int i = 0; i < 3; i++) {
        plain();
        pitched();
        ordered();
        virtual_memory(0);
        virtual_memory(1);
        with_context();
    }
    of_both();
    (void)take(777);
    if (argc > 1 && strcmp(argv[1], "reset") == 0) {
        CHECK(cuDevicePrimaryCtxReset_v2(0));
        device = managed = 0;
    }
    printf("%zu %zu %zu\n", device, peak, managed);
    return 0;
}

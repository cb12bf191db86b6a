/* What pinned blocks hold. "again": blocks are filled, freed and taken again; how many had the address of the one freed
 * before, and how many bytes of all were not zero. "freed": what a freed block, which is still mapped where it is the
 * pool's, holds while a copy from it is on its way, and after that. */
#include "program.h"
#include <stdint.h>

enum { BYTES = 64 << 10, MARK = 0x5a, ATTEMPTS = 1000 };

static uint8_t *pinned(size_t bytes)
{
    void *block;

    CHECK(cuMemHostAlloc(&block, bytes, 0));
    return block;
}

static size_t others(const uint8_t *block, size_t bytes, uint8_t value)
{
    size_t count = 0;

    for (size_t i = 0; i < bytes; i++)
        count += block[i] != value;
    return count;
}

static void again(void)
{
    static const size_t SIZES[] = {1, 4096, 5000, 64 << 10, 1 << 20, 3 << 20};
    size_t same = 0, not_zero = 0;

    for (int i = 0; i < 20; i++)
        for (size_t size = 0; size < sizeof SIZES / sizeof *SIZES; size++) {
            uint8_t *first = pinned(SIZES[size]), *second;
            memset(first, MARK, SIZES[size]);
            CHECK(cuMemFreeHost(first));
            CHECK(cuCtxSynchronize());
            second = pinned(SIZES[size]);
            same += second == first;
            not_zero += others(second, SIZES[size], 0);
            CHECK(cuMemFreeHost(second));
        }
    printf("%zu %zu\n", same, not_zero);
}

/* True when what was looked at behind the free was looked at in time, before the copy was done. */
static int look_behind_a_free(CUdeviceptr memory, CUstream stream, const uint8_t **freed, size_t *changed)
{
    uint8_t *block = pinned(BYTES);

    memset(block, MARK, BYTES);
    CHECK(launch_spin(300000000, stream));
    CHECK(cuMemcpyHtoDAsync_v2(memory, block, BYTES, stream));
    CHECK(cuMemFreeHost(block));
    *changed = others(block, BYTES, MARK);
    *freed = block;
    return cuStreamQuery(stream) == 600; /* not ready */
}

static void freed(void)
{
    static uint8_t arrived[BYTES];
    const uint8_t *block;
    size_t changed;
    CUdeviceptr memory;
    CUstream stream;
    int attempts = 0, is_changed = 0;

    CHECK(cuStreamCreate(&stream, 1));
    CHECK(cuMemAlloc_v2(&memory, BYTES));
    while (!look_behind_a_free(memory, stream, &block, &changed)) {
        ASSERT(++attempts < ATTEMPTS);
        CHECK(cuStreamSynchronize(stream));
    }
    for (int i = 0; i < 10 && !is_changed; i++) {
        CHECK(cuStreamSynchronize(stream));
        is_changed = block[0] != MARK;
        usleep(10000);
    }
    CHECK(cuMemcpyDtoH_v2(arrived, memory, BYTES));
    printf("behind the free %zu changed, %zu wrong arrived; then 0x%02x, %zu others\n", changed,
           others(arrived, BYTES, MARK), block[0], others(block, BYTES, block[0]));
}

int main(int argc, char **argv)
{
    (void)argc;
    make_context();
    load_kernels();
    if (strcmp(argv[1], "again") == 0)
        again();
    else
        freed();
    return 0;
}

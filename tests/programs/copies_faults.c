/* Copies of pageable memory of which a page cannot be had: "mended" by the program's own handler, "protected" and
 * "truncated" without one, "unmapped" by another thread in the middle of copies. */
#include "program.h"
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>

enum { MIB = 1 << 20, BYTES = 24 * MIB, PAGE = 4096 };

static CUdeviceptr memory;

static void begin(void)
{
    char *from = calloc(128, MIB);

    make_context();
    CHECK(cuMemAlloc_v2(&memory, 128 * MIB));
    CHECK(cuMemcpyHtoD_v2(memory, from, 128 * MIB)); /* from here on copies are staged */
    free(from);
}

static unsigned char *pages(void)
{
    unsigned char *made = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    for (size_t i = 0; i < BYTES; i++)
        made[i] = i * 7 + (i >> 12);
    return made;
}

static int faults;

static void mend(int number, siginfo_t *info, void *unused)
{
    (void)number, (void)unused;
    /* On several threads at once. */
    __atomic_fetch_add(&faults, 1, __ATOMIC_RELAXED);
    if (mprotect((void *)((uintptr_t)info->si_addr & ~(uintptr_t)(PAGE - 1)), PAGE, PROT_READ | PROT_WRITE) != 0)
        _exit(13);
}

/* Every 37th page of the source, then of the destination, faults, on whatever thread comes there. */
static void mended(void)
{
    struct sigaction action = {.sa_sigaction = mend, .sa_flags = SA_SIGINFO};
    unsigned char *from = pages(), *to = pages();
    int wanted = 0;

    sigaction(SIGSEGV, &action, NULL);
    for (size_t at = 0; at < BYTES; at += 37 * PAGE, wanted++) {
        ASSERT(mprotect(from + at, PAGE, PROT_NONE) == 0);
        ASSERT(mprotect(to + at, PAGE, PROT_READ) == 0);
    }
    CHECK(cuMemcpyHtoD_v2(memory, from, BYTES));
    memset(from, 0, PAGE);
    CHECK(cuMemcpyHtoDAsync_v2(memory, from, PAGE, NULL));
    CHECK(cuMemcpyDtoH_v2(to, memory, BYTES));
    printf("%s, faults %s\n", memcmp(from, to, BYTES) == 0 ? "right" : "wrong",
           __atomic_load_n(&faults, __ATOMIC_RELAXED) >= 2 * wanted ? "seen" : "missed");
}

static void protect(void)
{
    unsigned char *from = pages();

    ASSERT(mprotect(from + BYTES / 2, PAGE, PROT_NONE) == 0);
    printf("%u\n", cuMemcpyHtoD_v2(memory, from, BYTES));
}

static void truncated(const char *path)
{
    FILE *file = fopen(path, "w+");
    unsigned char *from;

    ASSERT(ftruncate(fileno(file), BYTES) == 0);
    from = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, fileno(file), 0);
    ASSERT(ftruncate(fileno(file), BYTES / 2) == 0);
    printf("%u\n", cuMemcpyHtoD_v2(memory, from, BYTES));
}

/* Such a program is wrong, and may end by the fault; what must not be is that anything else breaks or hangs. */
static unsigned char *volatile shared;

static void *unmap_soon(void *unused)
{
    usleep(3000);
    munmap(shared, BYTES);
    return unused;
}

static void unmapped(void)
{
    pthread_t thread;

    shared = pages();
    pthread_create(&thread, NULL, unmap_soon, NULL);
    for (int i = 0; i < 100; i++)
        CHECK(cuMemcpyHtoDAsync_v2(memory, shared, BYTES, NULL));
    pthread_join(thread, NULL);
}

int main(int argc, char **argv)
{
    begin();
    if (strcmp(argv[1], "mended") == 0)
        mended();
    else if (strcmp(argv[1], "protected") == 0)
        protect();
    else if (strcmp(argv[1], "truncated") == 0)
        truncated(argv[2]);
    else if (strcmp(argv[1], "unmapped") == 0)
        unmapped();
    (void)argc;
    return 0;
}

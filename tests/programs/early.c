/* Work on the GPU before main: a library that makes the context, launches and page-locks memory in its constructor
 * (-DLIBRARY), and a program linked to it. */
#ifdef LIBRARY
#include "program.h"

int early_launches(void);

static int launched;

__attribute__((constructor)) static void early(void)
{
    void *pinned;

    make_context();
    for (; launched < 300; launched++)
        CHECK(cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    CHECK(cuMemHostAlloc(&pinned, 4096, 0));
    CHECK(cuMemFreeHost(pinned));
}

int early_launches(void)
{
    return launched;
}
#else
#include <stdio.h>

int early_launches(void);

int main(void)
{
    printf("%d\n", early_launches());
    return 0;
}
#endif

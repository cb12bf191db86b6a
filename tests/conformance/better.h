/* Cases whose answer is another under the shim, and why that one is better for the program. `conformance --better` lists
 * them for those who compare the columns. */
struct Better { const char *name; long long value; const char *why; };
#define NO_WAIT "a free never waits for the GPU; the block is kept aside instead"
#define CAPTURE_GOES_ON "the block is freed and the capture goes on; the driver refuses the one and ends the other"
#define FREED "the block is freed; the driver refuses, and a program that does not free again has lost the memory"
static const struct Better better[] = {
    {"host_free_waits", 0, NO_WAIT},
    {"capture_free_host", 0, CAPTURE_GOES_ON},
    {"capture_free_host_thread_local", 0, CAPTURE_GOES_ON},
    {"capture_other_thread_free_host_global", 0, CAPTURE_GOES_ON},
    {"capture_free_host_inside", 1000, "refused as outside of captures, and the capture goes on; the driver ends it"},
    {"host_function_free_host", 0, FREED},
};

/* Initialisation, devices, contexts, modules, launches. */

ALONE(before_init_device_count, 3) { int n; return d.cuDeviceGetCount(&n); }
ALONE(before_init_current_context, 3) { Handle c; return d.cuCtxGetCurrent(&c); }
ALONE(before_init_alloc, 3) { Address a; return d.cuMemAlloc_v2(&a, 16); }
ALONE(before_init_version, 0) { int v; return d.cuDriverGetVersion(&v); }
ALONE(before_init_error_name, 0) { const char *t; return d.cuGetErrorName(2, &t); }
ALONE(before_init_proc_address, 0) { void *f; int s; return d.cuGetProcAddress_v2("cuInit", &f, 12000, 0, &s); }
ALONE(before_init_fork_then_init, 0) {
    pid_t child = fork();
    if (child == 0) _exit(d.cuInit(0));
    int status = 0;
    waitpid(child, &status, 0);
    return WEXITSTATUS(status);
}
static long long in_child(Result (*call)(void)) {
    pid_t child = fork();
    if (child == 0) _exit(call());
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100000 + WTERMSIG(status);
}
static Result child_init(void) { return d.cuInit(0); }
static Result child_count(void) { int n; return d.cuDeviceGetCount(&n); }
static Result child_sync(void) { return d.cuCtxSynchronize(); }
static Result child_alloc(void) { Address a; return d.cuMemAlloc_v2(&a, 16); }
static Result child_host(void) { void *p; return d.cuMemHostAlloc(&p, 16, 0); }
static Result child_version(void) { int v; return d.cuDriverGetVersion(&v); }
ALONE(before_init_init_fork_init, 3) { d.cuInit(0); return in_child(child_init); }
ALONE(fork_after_context_init, 3) { return in_child(child_init); }
ALONE(fork_after_context_count, 3) { return in_child(child_count); }
ALONE(fork_after_context_sync, 3) { return in_child(child_sync); }
ALONE(fork_after_context_alloc, 3) { return in_child(child_alloc); }
ALONE(fork_after_context_host_alloc, 3) { return in_child(child_host); }
ALONE(fork_after_context_version, 0) { return in_child(child_version); }

CASE(init_again, 0) { return d.cuInit(0); }
CASE(init_flags, 1) { return d.cuInit(1); }
CASE(version_is_12_or_newer, 1) { int v = 0; d.cuDriverGetVersion(&v); return v >= 12000; }
CASE(version_null, 1) { return d.cuDriverGetVersion(NULL); }
CASE(error_name, 0) { const char *t = ""; d.cuGetErrorName(900, &t); return strcmp(t, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"); }
CASE(error_text, 0) { const char *t = ""; d.cuGetErrorString(2, &t); return strcmp(t, "out of memory"); }
CASE(error_text_700, 0) { const char *t = ""; d.cuGetErrorString(700, &t); return strcmp(t, "an illegal memory access was encountered"); }
CASE(error_name_unknown, 1) { const char *t = "x"; Result r = d.cuGetErrorName(12345, &t); return t ? 2 : r; }
NOTED(export_table_unknown, 1, "the simulator has no tables at all and says not found") { unsigned char id[16] = {1}; const void *t = &t; return d.cuGetExportTable(&t, id); }

/* cuGetProcAddress: what it finds, against what dlsym finds. */
static long long same(const char *name, int version, U64 flags, const char *symbol) {
    void *found = NULL;
    int status = -1;
    Result result = d.cuGetProcAddress_v2(name, &found, version, flags, &status);
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    return result ? -result : status ? -status : found == dlsym(library, symbol);
}
static long long miss(const char *name, int version, U64 flags) {
    void *found = &found;
    int status = -1;
    Result result = d.cuGetProcAddress_v2(name, &found, version, flags, &status);
    return found ? -1 : both(result, status);
}
CASE(proc_alloc_3020, 1) { return same("cuMemAlloc", 3020, 0, "cuMemAlloc_v2"); }
CASE(proc_alloc_12000, 1) { return same("cuMemAlloc", 12000, 0, "cuMemAlloc_v2"); }
CASE(proc_launch_default, 1) { return same("cuLaunchKernel", 7000, 0, "cuLaunchKernel"); }
CASE(proc_launch_legacy, 1) { return same("cuLaunchKernel", 7000, 1, "cuLaunchKernel"); }
CASE(proc_launch_per_thread, 1) { return same("cuLaunchKernel", 7000, 2, "cuLaunchKernel_ptsz"); }
CASE(proc_copy_per_thread, 1) { return same("cuMemcpyHtoD", 7000, 2, "cuMemcpyHtoD_v2_ptds"); }
CASE(proc_alloc_per_thread, 1) { return same("cuMemAlloc", 7000, 2, "cuMemAlloc_v2"); }
CASE(proc_proc_12000, 1) { return same("cuGetProcAddress", 12000, 0, "cuGetProcAddress_v2"); }
CASE(proc_proc_11030, 1) { return same("cuGetProcAddress", 11030, 0, "cuGetProcAddress"); }
CASE(proc_sync_12000, 1) { return same("cuCtxSynchronize", 12000, 0, "cuCtxSynchronize"); }
NOTED(proc_sync_13000, 1, "a driver before 13.0 has no second form") { return same("cuCtxSynchronize", 13000, 0, "cuCtxSynchronize_v2"); }
CASE(proc_capture_10000, 1) { return same("cuStreamBeginCapture", 10000, 0, "cuStreamBeginCapture"); }
CASE(proc_capture_12000, 1) { return same("cuStreamBeginCapture", 12000, 0, "cuStreamBeginCapture_v2"); }
CASE(proc_write_value_per_thread, 1) { return same("cuStreamWriteValue32", 12000, 2, "cuStreamWriteValue32_v2_ptsz"); }
CASE(proc_unknown, 1) { return miss("cuNoSuchFunction", 12000, 0); }
CASE(proc_versioned_name, 1) { return miss("cuMemAlloc_v2", 12000, 0); }
CASE(proc_too_old, 2) { return miss("cuLibraryLoadData", 11000, 0); }
CASE(proc_empty, 1) { return miss("", 12000, 0); }
CASE(proc_flags, 1) { void *f; int s; return d.cuGetProcAddress_v2("cuInit", &f, 12000, 8, &s); }
static long long bare_miss(const char *name, bool first) {
    void *found = &found;
    return first ? d.cuGetProcAddress(name, &found, 12000, 0) : d.cuGetProcAddress_v2(name, &found, 12000, 0, NULL);
}
CASE(proc_unknown_without_status, 0) { return bare_miss("cuNoSuchFunction", false); }
CASE(proc_unknown_first_form, 500) { return bare_miss("cuNoSuchFunction", true); }
CASE(proc_empty_without_status, 0) { return bare_miss("", false); }
NOTED(proc_alloc_2000, 1, "the simulator has no 32-bit forms") { return same("cuMemAlloc", 2000, 0, "cuMemAlloc"); }
CASE(proc_instantiate_12000, 1) { return same("cuGraphInstantiate", 12000, 0, "cuGraphInstantiate_v2"); }
CASE(proc_instantiate_11000, 1) { return same("cuGraphInstantiate", 11000, 0, "cuGraphInstantiate_v2"); }
CASE(proc_launch_6000_per_thread, 2) { return miss("cuLaunchKernel", 6000, 2); }
CASE(proc_alloc_6000_per_thread, 1) { return same("cuMemAlloc", 6000, 2, "cuMemAlloc_v2"); }
CASE(proc_graph_launch_10000_per_thread, 1) { return same("cuGraphLaunch", 10000, 2, "cuGraphLaunch_ptsz"); }
CASE(proc_version_zero, 2) { return miss("cuInit", 0, 0); }
CASE(proc_newer_than_driver, 1) { void *f = NULL; int s = -1; return d.cuGetProcAddress_v2("cuMemAlloc", &f, 99000, 0, &s); }
CASE(proc_of_the_driver, 1) { int v = 0; d.cuDriverGetVersion(&v); return same("cuMemAlloc", v, 0, "cuMemAlloc_v2"); }
CASE(proc_a_little_newer, 1) { int v = 0; d.cuDriverGetVersion(&v); void *f = NULL; int s = -1; return d.cuGetProcAddress_v2("cuMemAlloc", &f, v + 10, 0, &s); }
CASE(proc_null_status, 0) { void *f; return d.cuGetProcAddress_v2("cuInit", &f, 12000, 0, NULL); }
CASE(proc_first_form, 0) { void *f; return d.cuGetProcAddress("cuInit", &f, 12000, 0); }

CASE(device_count_null, 1) { return d.cuDeviceGetCount(NULL); }
CASE(device_first, 0) { int v = -1; return d.cuDeviceGet(&v, 0) + v; }
CASE(device_unknown, 101) { int v; return d.cuDeviceGet(&v, 99); }
CASE(device_negative, 101) { int v; return d.cuDeviceGet(&v, -1); }
CASE(device_name_cut, 3) { char t[4]; d.cuDeviceGetName(t, 4, 0); return (long long)strlen(t); }
CASE(device_uuids_agree, 0) { char a[16], b[16]; d.cuDeviceGetUuid(a, 0); d.cuDeviceGetUuid_v2(b, 0); return memcmp(a, b, 16); }
CASE(device_total_null, 1) { return d.cuDeviceTotalMem_v2(NULL, 0); }
CASE(device_total_unknown, 101) { size_t n; return d.cuDeviceTotalMem_v2(&n, 99); }
CASE(device_pci_id_length, 12) { char t[20]; d.cuDeviceGetPCIBusId(t, 20, 0); return (long long)strlen(t); }
CASE(attribute_zero, 1) { int v; return d.cuDeviceGetAttribute(&v, 0, 0); }
CASE(attribute_unknown, 1) { int v; return d.cuDeviceGetAttribute(&v, 99999, 0); }
CASE(attribute_device_unknown, 101) { int v; return d.cuDeviceGetAttribute(&v, 75, 99); }
CASE(attribute_threads_per_block, 1024) { return attribute(1); }
CASE(attribute_warp, 32) { return attribute(10); }
NOTED(attribute_multiprocessors, 132, "an H200's") { return attribute(16); }
NOTED(attribute_capability, 90, "an H200's") { return attribute(75) * 10 + attribute(76); }
CASE(attribute_unified_addressing, 1) { return attribute(41); }
CASE(attribute_managed_memory, 1) { return attribute(83); }
CASE(attribute_host_native_atomic, 0) { return attribute(86); }
CASE(attribute_concurrent_managed, 1) { return attribute(89); }
NOTED(attribute_host_pointer_registered, 1, "differs with the platform") { return attribute(91); }
CASE(attribute_pageable_page_tables, 0) { return attribute(100); }
CASE(attribute_virtual_memory, 1) { return attribute(102); }
CASE(attribute_memory_pools, 1) { return attribute(115); }
NOTED(attribute_host_numa, -1, "the node of the machine; -1 where it has but one or the driver does not say") { return attribute(134); }
CASE(attribute_priorities, 1) { return attribute(78); }
CASE(attribute_cooperative, 1) { return attribute(95); }
NOTED(attribute_shared_per_block, 227 << 10, "an H200's") { return attribute(97); }
NOTED(attribute_copy_engines, 3, "an H200 has more copy engines than the simulator's two") { return attribute(40); }

CASE(primary_is_one, 1) { Handle c; d.cuDevicePrimaryCtxRetain(&c, 0); d.cuDevicePrimaryCtxRelease_v2(0); return c == context; }
CASE(primary_active, 1) { U32 f; int a = 0; d.cuDevicePrimaryCtxGetState(0, &f, &a); return a; }
CASE(primary_unknown_device, 101) { Handle c; return d.cuDevicePrimaryCtxRetain(&c, 99); }
CASE(primary_null, 1) { return d.cuDevicePrimaryCtxRetain(NULL, 0); }
ALONE(primary_release_too_often, 201) { d.cuDevicePrimaryCtxRelease_v2(0); return d.cuDevicePrimaryCtxRelease_v2(0); }
NOTED(primary_destroy, 201, "documented as not allowed") { return d.cuCtxDestroy_v2(context); }
CASE(context_current, 1) { Handle c; d.cuCtxGetCurrent(&c); return c == context; }
CASE(context_device, 0) { int v = -1; return d.cuCtxGetDevice(&v) + v; }
CASE(context_api_version, 1) { U32 v = 0; d.cuCtxGetApiVersion(context, &v); return v >= 3010; }
CASE(context_push_pop, 1) { Handle c; d.cuCtxPushCurrent_v2(context); d.cuCtxPopCurrent_v2(&c); return c == context; }
CASE(context_push_null, 1) { return d.cuCtxPushCurrent_v2(NULL); }
static long long thread_without_context(void *unused) {
    (void)unused;
    Address a;
    d.cuCtxSetCurrent(NULL);
    return d.cuMemAlloc_v2(&a, 16);
}
CASE(context_none_alloc, 201) { return in_thread(thread_without_context, NULL); }
static long long thread_pop_empty(void *unused) { (void)unused; Handle c; d.cuCtxSetCurrent(NULL); return d.cuCtxPopCurrent_v2(&c); }
CASE(context_pop_empty, 201) { return in_thread(thread_pop_empty, NULL); }
static long long thread_sync_none(void *unused) { (void)unused; d.cuCtxSetCurrent(NULL); return d.cuCtxSynchronize(); }
CASE(context_none_sync, 201) { return in_thread(thread_sync_none, NULL); }
static long long thread_stream_none(void *unused) { (void)unused; Handle s; d.cuCtxSetCurrent(NULL); return d.cuStreamCreate(&s, 0); }
CASE(context_none_stream, 201) { return in_thread(thread_stream_none, NULL); }
static long long thread_info_none(void *unused) { (void)unused; size_t a, b; d.cuCtxSetCurrent(NULL); return d.cuMemGetInfo_v2(&a, &b); }
CASE(context_none_mem_info, 201) { return in_thread(thread_info_none, NULL); }
static long long thread_default_stream_none(void *unused) { (void)unused; d.cuCtxSetCurrent(NULL); return d.cuStreamSynchronize(NULL); }
CASE(context_none_default_stream, 201) { return in_thread(thread_default_stream_none, NULL); }
ALONE(context_own, 0) {
    Handle own, current;
    Result result = d.cuCtxCreate_v2(&own, 0, 0);
    d.cuCtxGetCurrent(&current);
    if (result || current != own) return -1;
    Address a = device(1024);
    Handle s = stream_of(0);
    result = d.cuMemsetD8Async(a, 1, 1024, s);
    if (!result) result = d.cuCtxSynchronize();
    if (!result) result = d.cuCtxDestroy_v2(own);
    d.cuCtxGetCurrent(&current);
    return result ? result : current != context;
}
ALONE_NOTED(context_destroyed_set_current, 0, "the simulator notices") {
    Handle own;
    d.cuCtxCreate_v2(&own, 0, 0);
    d.cuCtxDestroy_v2(own);
    return d.cuCtxSetCurrent(own);
}
ALONE(context_flags_unknown, 1) { Handle own; return d.cuCtxCreate_v2(&own, 0x10000, 0); }
CASE(context_limit_unknown, 1) { size_t v; return d.cuCtxGetLimit(&v, 99); }
CASE(context_limit_stack, 1) { size_t v = 0; d.cuCtxGetLimit(&v, 0); return v >= 1024; }
CASE(context_ids_positive, 1) { U64 id = 0; d.cuCtxGetId(context, &id); return id > 0; }
CASE(priority_range, 5) { int l = 9, g = 9; d.cuCtxGetStreamPriorityRange(&l, &g); return l - g; }

CASE(module_load_unload, 0) { Handle m; Result r = d.cuModuleLoadData(&m, PTX); return r ? r : d.cuModuleUnload(m); }
CASE(module_not_an_image, 200) { Handle m; return d.cuModuleLoadData(&m, "this is no image"); }
CASE(module_broken_ptx, 218) { Handle m; return d.cuModuleLoadData(&m, ".version 7.0\n.target sm_70\n.address_size 64\n.visible .entry spin(.param .u129 x) { ret; }"); }
CASE(module_load_null, 1) { Handle m; return d.cuModuleLoadData(&m, NULL); }
CASE(module_file_missing, 301) { Handle m; return d.cuModuleLoad(&m, "/no/such/file.ptx"); }
CASE(module_function_missing, 500) { Handle f; return d.cuModuleGetFunction(&f, module, "nothing"); }
CASE(module_global_missing, 500) { Address a; size_t n; return d.cuModuleGetGlobal_v2(&a, &n, module, "nothing"); }
ALONE(module_function_null_module, 400) { Handle f; return d.cuModuleGetFunction(&f, NULL, "spin"); }
CASE(library_kernel, 0) {
    Handle library, kernel, function;
    Result result = d.cuLibraryLoadData(&library, PTX, NULL, NULL, 0, NULL, NULL, 0);
    if (!result) result = d.cuLibraryGetKernel(&kernel, library, "spin");
    if (!result) result = d.cuKernelGetFunction(&function, kernel);
    U64 ns = 1000;
    void *parameters[] = {&ns};
    if (!result) result = d.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL);
    if (!result) result = d.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL);
    if (!result) result = d.cuCtxSynchronize();
    return result ? result : d.cuLibraryUnload(library);
}
CASE(library_kernel_missing, 500) {
    Handle library, kernel;
    d.cuLibraryLoadData(&library, PTX, NULL, NULL, 0, NULL, NULL, 0);
    Result result = d.cuLibraryGetKernel(&kernel, library, "nothing");
    d.cuLibraryUnload(library);
    return result;
}
CASE(function_threads, 1024) { int v = 0; d.cuFuncGetAttribute(&v, 0, spin); return v; }
CASE(function_attribute_unknown, 1) { int v; return d.cuFuncGetAttribute(&v, 99, spin); }
CASE(function_shared_attribute, 0) { return d.cuFuncSetAttribute(saxpy, 8, 64 << 10); }
CASE(function_shared_too_much, 1) { return d.cuFuncSetAttribute(saxpy, 8, 1 << 20); }
CASE(function_name, 0) { const char *t = ""; d.cuFuncGetName(&t, spin); return strcmp(t, "spin"); }
CASE(function_occupancy, 1) { int v = 0; d.cuOccupancyMaxActiveBlocksPerMultiprocessor(&v, spin, 256, 0); return v >= 1; }

static long long added(Result (*launch)(Address, Address, Address, U32)) {
    enum { N = 1000 };
    float x[N], y[N], z[N];
    for (int i = 0; i < N; i++) x[i] = i, y[i] = 2 * i, z[i] = -1;
    Address a = device(sizeof x), b = device(sizeof y), c = device(sizeof z);
    d.cuMemcpyHtoD_v2(a, x, sizeof x);
    d.cuMemcpyHtoD_v2(b, y, sizeof y);
    Result result = launch(a, b, c, N);
    if (!result) result = d.cuMemcpyDtoH_v2(z, c, sizeof z);
    int wrong = 0;
    for (int i = 0; i < N; i++) wrong += z[i] != 3.0f * i;
    d.cuMemFree_v2(a), d.cuMemFree_v2(b), d.cuMemFree_v2(c);
    return result ? result : wrong;
}
static Result add_plain(Address a, Address b, Address c, U32 n) { return launch_add(NULL, a, b, c, n); }
static Result add_per_thread(Address a, Address b, Address c, U32 n) {
    void *parameters[] = {&a, &b, &c, &n};
    return d.cuLaunchKernel_ptsz(vector_add, 4, 1, 1, 256, 1, 1, 0, NULL, parameters, NULL);
}
static Result add_packed(Address a, Address b, Address c, U32 n) {
    struct { Address a, b, c; U32 n; } buffer = {a, b, c, n};
    size_t bytes = 28;
    void *extra[] = {(void *)1, &buffer, (void *)2, &bytes, (void *)0};
    return d.cuLaunchKernel(vector_add, 4, 1, 1, 256, 1, 1, 0, NULL, NULL, extra);
}
static Result add_by_config(Address a, Address b, Address c, U32 n) {
    LaunchConfig config = {4, 1, 1, 256, 1, 1, 0, NULL, NULL, 0};
    void *parameters[] = {&a, &b, &c, &n};
    return d.cuLaunchKernelEx(&config, vector_add, parameters, NULL);
}
static Result add_cooperative(Address a, Address b, Address c, U32 n) {
    void *parameters[] = {&a, &b, &c, &n};
    return d.cuLaunchCooperativeKernel(vector_add, 4, 1, 1, 256, 1, 1, 0, NULL, parameters);
}
CASE(launch_adds, 0) { return added(add_plain); }
CASE(launch_adds_per_thread, 0) { return added(add_per_thread); }
CASE(launch_adds_packed, 0) { return added(add_packed); }
CASE(launch_adds_by_config, 0) { return added(add_by_config); }
CASE(launch_adds_cooperative, 0) { return added(add_cooperative); }
CASE(launch_saxpy, 7) {
    float x = 2, y = 1, a = 3;
    Address dx = device(4), dy = device(4);
    d.cuMemcpyHtoD_v2(dx, &x, 4), d.cuMemcpyHtoD_v2(dy, &y, 4);
    U32 n = 1;
    void *parameters[] = {&a, &dx, &dy, &n};
    d.cuLaunchKernel(saxpy, 1, 1, 1, 32, 1, 1, 0, NULL, parameters, NULL);
    d.cuMemcpyDtoH_v2(&y, dy, 4);
    d.cuMemFree_v2(dx), d.cuMemFree_v2(dy);
    return (long long)y;
}
static Result shaped(Handle function, U32 grid, U32 block, U32 shared) {
    U64 ns = 0;
    void *parameters[] = {&ns};
    return d.cuLaunchKernel(function, grid, 1, 1, block, 1, 1, shared, NULL, parameters, NULL);
}
CASE(launch_no_grid, 1) { return shaped(spin, 0, 1, 0); }
CASE(launch_no_block, 1) { return shaped(spin, 1, 0, 0); }
CASE(launch_block_too_large, 1) { return shaped(spin, 1, 2048, 0); }
CASE(launch_shared_too_large, 1) { return shaped(spin, 1, 1, 1 << 20); }
CASE(launch_shared_not_asked_for, 1) { return shaped(spin, 1, 1, 100 << 10); }
ALONE(launch_null_function, 400) { return shaped(NULL, 1, 1, 0); }
ALONE(launch_null_parameters, 1) { return d.cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL); }
CASE(launch_config_null, 1) { U64 ns = 0; void *p[] = {&ns}; return d.cuLaunchKernelEx(NULL, spin, p, NULL); }
CASE(launch_both_forms, 1) {
    U64 ns = 0;
    size_t bytes = 8;
    void *p[] = {&ns}, *extra[] = {(void *)1, &ns, (void *)2, &bytes, (void *)0};
    return d.cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, NULL, p, extra);
}
CASE(launch_cooperative_too_large, 720) {
    U64 ns = 0;
    void *parameters[] = {&ns};
    return d.cuLaunchCooperativeKernel(spin, 1 << 20, 1, 1, 1024, 1, 1, 0, NULL, parameters);
}
ALONE(launch_illegal_address, 700) { launch_add(NULL, 256, 512, 1024, 16); return d.cuCtxSynchronize(); }
ALONE(launch_illegal_address_is_sticky, 700) {
    launch_add(NULL, 256, 512, 1024, 16);
    d.cuCtxSynchronize();
    Address a;
    return d.cuMemAlloc_v2(&a, 16);
}
ALONE(launch_illegal_address_event, 700) {
    Handle e = event_of(0);
    launch_add(NULL, 256, 512, 1024, 16);
    d.cuCtxSynchronize();
    return d.cuEventQuery(e);
}

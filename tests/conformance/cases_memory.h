/* Device, pooled, virtual and host memory; pointers; copies and fills. */

CASE(alloc_nothing, 1) { Address a; return d.cuMemAlloc_v2(&a, 0); }
CASE(alloc_null, 1) { return d.cuMemAlloc_v2(NULL, 16); }
CASE(alloc_far_too_much, 2) { Address a; return d.cuMemAlloc_v2(&a, (size_t)1 << 46); }
CASE(free_nothing, 0) { return d.cuMemFree_v2(0); }
CASE(free_twice, 1) { Address a = device(4096); d.cuMemFree_v2(a); return d.cuMemFree_v2(a); }
CASE(free_inside, 1) { Address a = device(4096); Result r = d.cuMemFree_v2(a + 256); d.cuMemFree_v2(a); return r; }
CASE(alloc_is_aligned, 0) { Address a = device(1), b = device(1); long long r = a % 256 + b % 256; d.cuMemFree_v2(a), d.cuMemFree_v2(b); return r; }
CASE(free_waits, 1) {
    Address a = device(4096);
    double start = now_ms();
    launch_spin(NULL, SPIN_NS);
    d.cuMemFree_v2(a);
    double took = now_ms() - start;
    d.cuCtxSynchronize();
    return took >= 19;
}
CASE(alloc_does_not_wait, 1) {
    Handle s = stream_of(1);
    launch_spin(s, 3 * SPIN_NS);
    Address a = device(4096);
    Result r = d.cuStreamQuery(s);
    drop_stream(s), d.cuMemFree_v2(a);
    return r == 600;
}
CASE(range_of_inside, 4096) { Address a = device(4096), b = 0; size_t n = 0; d.cuMemGetAddressRange_v2(&b, &n, a + 100); d.cuMemFree_v2(a); return b == a ? (long long)n : -1; }
CASE(range_of_pinned, 4096) { void *p = pinned(4096); Address b = 0; size_t n = 0; Result r = d.cuMemGetAddressRange_v2(&b, &n, (Address)p + 8); d.cuMemFreeHost(p); return r ? -r : (long long)n; }
CASE(range_of_nothing, 500) { int on_stack; Address b; size_t n; return d.cuMemGetAddressRange_v2(&b, &n, (Address)&on_stack); }
CASE(pitch, 512) { Address a; size_t p = 0; d.cuMemAllocPitch_v2(&a, &p, 100, 3, 4); d.cuMemFree_v2(a); return p; }
CASE(pitch_element, 1) { Address a; size_t p; return d.cuMemAllocPitch_v2(&a, &p, 100, 3, 3); }
CASE(managed_flags, 1) { Address a; return d.cuMemAllocManaged(&a, 4096, 0); }
CASE(managed_is_host_memory, 9) {
    Address a;
    if (d.cuMemAllocManaged(&a, 4096, 1)) return -1;
    d.cuMemsetD8_v2(a, 9, 4096);
    d.cuCtxSynchronize();
    int v = *(unsigned char *)(uintptr_t)a;
    d.cuMemFree_v2(a);
    return v;
}
CASE(mem_info, 1) { size_t f = 0, t = 0; d.cuMemGetInfo_v2(&f, &t); return f > 0 && f <= t; }
CASE(mem_info_null, 0) { size_t t; return d.cuMemGetInfo_v2(NULL, &t); }
CASE(mem_info_shrinks, 1) {
    size_t before, after, t;
    d.cuMemGetInfo_v2(&before, &t);
    Address a = device(64 * MIB);
    d.cuMemGetInfo_v2(&after, &t);
    d.cuMemFree_v2(a);
    return before - after >= 64 * MIB;
}

CASE(async_alloc_and_free, 0) {
    Handle s = stream_of(1);
    Address a = 0;
    Result r = d.cuMemAllocAsync(&a, 4096, s);
    if (!r) r = d.cuMemsetD8Async(a, 3, 4096, s);
    if (!r) r = d.cuMemFreeAsync(a, s);
    drop_stream(s);
    return r;
}
CASE(async_alloc_nothing, 0) { Address a = 1; Result r = d.cuMemAllocAsync(&a, 0, NULL); return r ? r : (long long)a; }
CASE(async_free_twice, 1) {
    Address a = 0;
    d.cuMemAllocAsync(&a, 4096, NULL);
    d.cuMemFreeAsync(a, NULL);
    Result r = d.cuMemFreeAsync(a, NULL);
    d.cuCtxSynchronize();
    return r;
}
CASE(async_alloc_sync_free, 0) { Address a = 0; d.cuMemAllocAsync(&a, 4096, NULL); return d.cuMemFree_v2(a); }
CASE(async_free_of_plain, 0) { Address a = device(4096); Result r = d.cuMemFreeAsync(a, NULL); d.cuCtxSynchronize(); return r; }
CASE(pool_default_in_use, 1) { Handle a, b; d.cuDeviceGetDefaultMemPool(&a, 0); d.cuDeviceGetMemPool(&b, 0); return a == b; }
CASE(pool_threshold, 12345) {
    Handle pool;
    U64 v = 12345, none = 0, read = 0;
    d.cuDeviceGetDefaultMemPool(&pool, 0);
    d.cuMemPoolSetAttribute(pool, 4, &v);
    d.cuMemPoolGetAttribute(pool, 4, &read);
    d.cuMemPoolSetAttribute(pool, 4, &none);
    return read;
}
CASE(pool_reuse_default, 1) { Handle p; int v = 9; d.cuDeviceGetDefaultMemPool(&p, 0); d.cuMemPoolGetAttribute(p, 2, &v); return v; }
CASE(pool_attribute_unknown, 1) { Handle p; U64 v; d.cuDeviceGetDefaultMemPool(&p, 0); return d.cuMemPoolGetAttribute(p, 99, &v); }
CASE(pool_own, 111) {
    PoolProps props;
    memset(&props, 0, sizeof props);
    props.kind = 1, props.location = (Location){1, 0};
    Handle pool = NULL;
    U64 during = 0, after = 9;
    Address a = 0;
    Result r = d.cuMemPoolCreate(&pool, &props);
    if (!r) r = d.cuMemAllocFromPoolAsync(&a, MIB, pool, NULL);
    if (r) return -r;
    d.cuMemPoolGetAttribute(pool, 7, &during);
    d.cuMemFreeAsync(a, NULL);
    d.cuCtxSynchronize();
    d.cuMemPoolGetAttribute(pool, 7, &after);
    r = d.cuMemPoolTrimTo(pool, 0);
    return (during >= MIB) * 100 + (after == 0) * 10 + (d.cuMemPoolDestroy(pool) == 0 && !r);
}
CASE(pool_destroy_default, 1) { Handle p; d.cuDeviceGetDefaultMemPool(&p, 0); return d.cuMemPoolDestroy(p); }

enum { CHUNK = 2 * MIB };
static Result map_at(Address at, U64 handle) {
    AccessDesc access = {{1, 0}, 3};
    Result r = d.cuMemMap(at, CHUNK, 0, handle, 0);
    return r ? r : d.cuMemSetAccess(at, CHUNK, &access, 1);
}
CASE(vmm_granularity, CHUNK) { AllocationProp p = on_device(); size_t n = 0; d.cuMemGetAllocationGranularity(&n, &p, 0); return n; }
CASE(vmm_reserve_nothing, 1) { Address a; return d.cuMemAddressReserve(&a, 0, 0, 0, 0); }
CASE(vmm_create_odd_size, 1) { AllocationProp p = on_device(); U64 h; return d.cuMemCreate(&h, 4096, &p, 0); }
CASE(vmm_map_twice_is_one_memory, 6) {
    AllocationProp p = on_device();
    Address at = 0;
    U64 handle = 0;
    unsigned char v = 0;
    Result r = d.cuMemAddressReserve(&at, 2 * CHUNK, 0, 0, 0);
    if (!r) r = d.cuMemCreate(&handle, CHUNK, &p, 0);
    if (!r) r = map_at(at, handle);
    if (!r) r = map_at(at + CHUNK, handle);
    if (r) return -r;
    d.cuMemsetD8_v2(at, 6, CHUNK);
    d.cuCtxSynchronize();
    d.cuMemcpyDtoH_v2(&v, at + CHUNK + 1000, 1);
    d.cuMemUnmap(at, 2 * CHUNK);
    d.cuMemRelease(handle);
    r = d.cuMemAddressFree(at, 2 * CHUNK);
    return r ? -r : v;
}
CASE(vmm_released_while_mapped, 4) {
    AllocationProp p = on_device();
    Address at;
    U64 handle;
    unsigned char v = 0;
    d.cuMemAddressReserve(&at, CHUNK, 0, 0, 0);
    d.cuMemCreate(&handle, CHUNK, &p, 0);
    map_at(at, handle);
    d.cuMemRelease(handle);
    d.cuMemsetD8_v2(at, 4, CHUNK);
    d.cuMemcpyDtoH_v2(&v, at, 1);
    d.cuMemUnmap(at, CHUNK);
    d.cuMemAddressFree(at, CHUNK);
    return v;
}
CASE(vmm_retain, 0) {
    AllocationProp p = on_device();
    Address at;
    U64 handle, again = 0;
    d.cuMemAddressReserve(&at, CHUNK, 0, 0, 0);
    d.cuMemCreate(&handle, CHUNK, &p, 0);
    map_at(at, handle);
    Result r = d.cuMemRetainAllocationHandle(&again, (void *)(uintptr_t)at);
    if (!r) d.cuMemRelease(again);
    d.cuMemUnmap(at, CHUNK);
    d.cuMemRelease(handle);
    d.cuMemAddressFree(at, CHUNK);
    return r;
}
CASE(vmm_copy_without_access, 1) {
    AllocationProp p = on_device();
    Address at;
    U64 handle;
    char byte = 1;
    d.cuMemAddressReserve(&at, CHUNK, 0, 0, 0);
    d.cuMemCreate(&handle, CHUNK, &p, 0);
    d.cuMemMap(at, CHUNK, 0, handle, 0);
    Result r = d.cuMemcpyHtoD_v2(at, &byte, 1);
    d.cuMemUnmap(at, CHUNK);
    d.cuMemRelease(handle);
    d.cuMemAddressFree(at, CHUNK);
    return r;
}
CASE(vmm_map_unreserved, 1) {
    AllocationProp p = on_device();
    U64 handle;
    d.cuMemCreate(&handle, CHUNK, &p, 0);
    Result r = d.cuMemMap(CHUNK, CHUNK, 0, handle, 0);
    d.cuMemRelease(handle);
    return r;
}
CASE(vmm_unmap_nothing, 0) { Address at; d.cuMemAddressReserve(&at, CHUNK, 0, 0, 0); Result r = d.cuMemUnmap(at, CHUNK); d.cuMemAddressFree(at, CHUNK); return r; }

CASE(host_alloc_nothing, 0) { void *p = &p; Result r = d.cuMemHostAlloc(&p, 0, 0); return r ? r : p != NULL; }
CASE(host_alloc_null, 1) { return d.cuMemHostAlloc(NULL, 16, 0); }
CASE(host_alloc_flags, 1) { void *p; return d.cuMemHostAlloc(&p, 16, 0x100); }
static long long flags_of(U32 flags) { void *p = NULL; U32 f = 99; d.cuMemHostAlloc(&p, 4096, flags); d.cuMemHostGetFlags(&f, p); d.cuMemFreeHost(p); return f; }
CASE(host_flags_none, 2) { return flags_of(0); }
CASE(host_flags_portable, 2) { return flags_of(1); }
CASE(host_flags_write_combined, 6) { return flags_of(4); }
CASE(host_flags_of_old_form, 2) { void *p; U32 f = 99; d.cuMemAllocHost_v2(&p, 4096); d.cuMemHostGetFlags(&f, p); d.cuMemFreeHost(p); return f; }
CASE(host_flags_inside, 2) { char *p = pinned(4096); U32 f = 99; Result r = d.cuMemHostGetFlags(&f, p + 100); d.cuMemFreeHost(p); return r ? -r : (int)f; }
CASE(host_flags_of_pageable, 1) { U32 f; return d.cuMemHostGetFlags(&f, &f); }
CASE(host_device_pointer, 1) { void *p = pinned(4096); Address a = 0; d.cuMemHostGetDevicePointer_v2(&a, p, 0); d.cuMemFreeHost(p); return a == (Address)p; }
CASE(host_device_pointer_inside, 1) { char *p = pinned(4096); Address a = 0; d.cuMemHostGetDevicePointer_v2(&a, p + 64, 0); d.cuMemFreeHost(p); return a == (Address)p + 64; }
CASE(host_device_pointer_of_pageable, 1) { Address a; int on_stack; return d.cuMemHostGetDevicePointer_v2(&a, &on_stack, 0); }
CASE(host_free_inside, 1) { char *p = pinned(4096); Result r = d.cuMemFreeHost(p + 64); d.cuMemFreeHost(p); return r; }
CASE(host_free_twice, 1) { char *p = pinned(4096); d.cuMemFreeHost(p); return d.cuMemFreeHost(p); }
CASE(host_free_null, 0) { return d.cuMemFreeHost(NULL); }
CASE(host_free_pageable, 1) { static char bytes[16]; return d.cuMemFreeHost(bytes); }
CASE(host_unregister_allocated, 1) { void *p = pinned(4096); Result r = d.cuMemHostUnregister(p); d.cuMemFreeHost(p); return r; }
CASE(host_free_waits, 1) {
    void *p = pinned(4096);
    double start = now_ms();
    launch_spin(NULL, SPIN_NS);
    d.cuMemFreeHost(p);
    double took = now_ms() - start;
    d.cuCtxSynchronize();
    return took >= 19;
}
/* The same while another context has the work: does the free of a block of the current context wait for that, and the free
 * of a block of the busy one? */
static long long free_waits_for_other_context(bool is_block_the_others) {
    Handle other, module_there = NULL, spin_there = NULL;
    U64 no_ns = 0, spin_ns = SPIN_NS;
    void *briefly[] = {&no_ns}, *long_enough[] = {&spin_ns};
    void *own = pinned(4096);
    if (d.cuCtxCreate_v2(&other, 0, 0)) return -999;
    void *others = pinned(4096);
    d.cuModuleLoadData(&module_there, PTX);
    d.cuModuleGetFunction(&spin_there, module_there, "spin");
    d.cuLaunchKernel(spin_there, 1, 1, 1, 1, 1, 1, 0, NULL, briefly, NULL); /* the first launch may have to load */
    d.cuCtxSynchronize();
    double start = now_ms();
    Result r = d.cuLaunchKernel(spin_there, 1, 1, 1, 1, 1, 1, 0, NULL, long_enough, NULL);
    d.cuCtxSetCurrent(context);
    if (!r) r = d.cuMemFreeHost(is_block_the_others ? others : own);
    double took = now_ms() - start;
    d.cuMemFreeHost(is_block_the_others ? own : others);
    d.cuCtxDestroy_v2(other);
    d.cuCtxSetCurrent(context);
    return r ? -r : took >= 19;
}
RECORDS(host_free_other_context_waits, 0) { return free_waits_for_other_context(false); }
RECORDS(host_free_of_other_context_waits, 1) { return free_waits_for_other_context(true); }
CASE(host_alloc_does_not_wait, 1) {
    Handle s = stream_of(1);
    launch_spin(s, 3 * SPIN_NS);
    void *p = pinned(4096);
    Result r = d.cuStreamQuery(s);
    drop_stream(s), d.cuMemFreeHost(p);
    return r == 600;
}
static char *own_pages(void) { return mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }
CASE(register_and_unregister, 0) { char *p = own_pages(); Result r = d.cuMemHostRegister_v2(p, MIB, 0); return both(r, d.cuMemHostUnregister(p)); }
CASE(register_twice, 712) { char *p = own_pages(); d.cuMemHostRegister_v2(p, MIB, 0); Result r = d.cuMemHostRegister_v2(p, MIB, 0); d.cuMemHostUnregister(p); return r; }
CASE(register_overlapping, 712) { char *p = own_pages(); d.cuMemHostRegister_v2(p, MIB / 2, 0); Result r = d.cuMemHostRegister_v2(p + MIB / 4, MIB / 2, 0); d.cuMemHostUnregister(p); return r; }
CASE(register_nothing, 1) { char *p = own_pages(); return d.cuMemHostRegister_v2(p, 0, 0); }
CASE(register_null, 1) { return d.cuMemHostRegister_v2(NULL, 4096, 0); }
CASE(register_flags, 1) { char *p = own_pages(); return d.cuMemHostRegister_v2(p, MIB, 0x100); }
CASE(unregister_unknown, 713) { char *p = own_pages(); return d.cuMemHostUnregister(p); }
CASE(unregister_inside, 1) { char *p = own_pages(); d.cuMemHostRegister_v2(p, MIB, 0); Result r = d.cuMemHostUnregister(p + 4096); d.cuMemHostUnregister(p); return r; }
CASE(registered_flags, 2) { char *p = own_pages(); U32 f = 0; d.cuMemHostRegister_v2(p, MIB, 0); Result r = d.cuMemHostGetFlags(&f, p); d.cuMemHostUnregister(p); return r ? -r : (int)f; }
CASE(registered_free_host, 1) { char *p = own_pages(); d.cuMemHostRegister_v2(p, MIB, 0); Result r = d.cuMemFreeHost(p); d.cuMemHostUnregister(p); return r; }

static long long pointer_fact(int number, Address a) { U64 v = 0; Result r = d.cuPointerGetAttribute(&v, number, a); return r ? -r : (long long)v; }
static long long device_fact(int number) { Address a = device(4096); long long v = pointer_fact(number, a + 8); d.cuMemFree_v2(a); return v; }
static long long pinned_fact(int number) { char *p = pinned(4096); long long v = pointer_fact(number, (Address)p + 8); d.cuMemFreeHost(p); return v; }
CASE(pointer_type_device, 2) { return device_fact(2); }
CASE(pointer_type_pinned, 1) { return pinned_fact(2); }
CASE(pointer_type_pageable, -1) { int on_stack; return pointer_fact(2, (Address)&on_stack); }
CASE(pointer_context_device, 1) { return device_fact(1) == (long long)(uintptr_t)context; }
CASE(pointer_context_pinned, 1) { return pinned_fact(1) == (long long)(uintptr_t)context; }
CASE(pointer_host_of_device, -1) { return device_fact(4); }
CASE(pointer_managed_device, 0) { return device_fact(8); }
CASE(pointer_ordinal_device, 0) { return device_fact(9); }
CASE(pointer_range_device, 4096) { return device_fact(12); }
CASE(pointer_range_pinned, 4096) { return pinned_fact(12); }
CASE(pointer_mapped_device, 1) { return device_fact(13); }
CASE(pointer_mapped_pinned, 1) { return pinned_fact(13); }
CASE(pointer_attribute_unknown, -1) { return device_fact(999); }
CASE(pointer_range_start_pinned, 1) { char *p = pinned(4096); long long v = pointer_fact(11, (Address)p + 8); d.cuMemFreeHost(p); return v == (long long)(uintptr_t)p; }
CASE(pointer_type_managed, 2) { Address a; d.cuMemAllocManaged(&a, 4096, 1); long long v = pointer_fact(2, a) * 10 + pointer_fact(8, a); d.cuMemFree_v2(a); return v == 21 ? 2 : v; }
CASE(pointer_type_registered, 1) { char *p = own_pages(); d.cuMemHostRegister_v2(p, MIB, 0); long long v = pointer_fact(2, (Address)p); d.cuMemHostUnregister(p); return v; }
CASE(pointer_buffer_ids_differ, 1) { Address a = device(64), b = device(64); long long r = pointer_fact(7, a) != pointer_fact(7, b); d.cuMemFree_v2(a), d.cuMemFree_v2(b); return r; }
CASE(pointer_attributes_pageable, 0) {
    int on_stack, type = 9, numbers[] = {2};
    void *values[] = {&type};
    Result r = d.cuPointerGetAttributes(1, numbers, values, (Address)&on_stack);
    return r ? -r : type;
}
CASE(pointer_attributes_device, 21) {
    Address a = device(4096);
    int type = 9, ordinal = 9, numbers[] = {2, 9};
    void *values[] = {&type, &ordinal};
    d.cuPointerGetAttributes(2, numbers, values, a);
    d.cuMemFree_v2(a);
    return type * 10 + (ordinal == 0);
}
CASE(pointer_sync_memops, 1) { Address a = device(4096); U32 v = 1; Result r = d.cuPointerSetAttribute(&v, 6, a); long long got = pointer_fact(6, a); d.cuMemFree_v2(a); return r ? -r : got; }

static int wrong_bytes(const unsigned char *bytes, size_t count, int value) { int n = 0; for (size_t i = 0; i < count; i++) n += bytes[i] != value; return n; }
CASE(copy_there_and_back, 0) {
    enum { N = 3 * MIB };
    unsigned char *from = malloc(N), *to = calloc(N, 1);
    for (int i = 0; i < N; i++) from[i] = i * 7;
    Address a = device(N), b = device(N);
    Result r = d.cuMemcpyHtoD_v2(a, from, N);
    if (!r) r = d.cuMemcpyDtoD_v2(b, a, N);
    if (!r) r = d.cuMemcpyDtoH_v2(to, b, N);
    int differs = memcmp(from, to, N) != 0;
    d.cuMemFree_v2(a), d.cuMemFree_v2(b), free(from), free(to);
    return r ? r : differs;
}
CASE(copy_unified, 0) {
    unsigned char from[100], to[100] = {0};
    memset(from, 5, 100);
    Address a = device(100);
    Result r = d.cuMemcpy(a, (Address)from, 100);
    if (!r) r = d.cuMemcpy((Address)to, a, 100);
    d.cuMemFree_v2(a);
    return r ? r : wrong_bytes(to, 100, 5);
}
CASE(copy_nothing, 0) { Address a = device(16); char c; Result r = d.cuMemcpyHtoD_v2(a, &c, 0); d.cuMemFree_v2(a); return r; }
CASE(copy_beyond_the_end, 1) { Address a = device(4096); static char bytes[4 * MIB]; Result r = d.cuMemcpyHtoD_v2(a, bytes, sizeof bytes); d.cuMemFree_v2(a); return r; }
CASE(copy_to_pageable_as_device, 1) { static char bytes[64]; char c[64] = {0}; return d.cuMemcpyHtoD_v2((Address)bytes, c, 64); }
CASE(copy_to_pinned_as_device, 0) { char *p = pinned(64), c[64]; memset(c, 3, 64); Result r = d.cuMemcpyHtoD_v2((Address)p, c, 64); int wrong = wrong_bytes((void *)p, 64, 3); d.cuMemFreeHost(p); return r ? r : wrong; }
CASE(copy_null_device, 1) { char c[16] = {0}; return d.cuMemcpyHtoD_v2(0, c, 16); }
CASE(copy_between_pageable, 0) { char from[64], to[64]; memset(from, 4, 64); Result r = d.cuMemcpy((Address)to, (Address)from, 64); return r ? r : wrong_bytes((void *)to, 64, 4); }
CASE(copy_peer, 0) { Address a = device(64), b = device(64); Result r = d.cuMemcpyPeer(a, context, b, context, 64); d.cuMemFree_v2(a), d.cuMemFree_v2(b); return r; }
CASE(copy_peer_async, 0) { Address a = device(64), b = device(64); Result r = d.cuMemcpyPeerAsync(a, context, b, context, 64, NULL); d.cuMemFree_v2(a), d.cuMemFree_v2(b); return r; }

/* Whether a copy's call returns while a spin before it on the stream still runs. */
enum Kind { TO_DEVICE, FROM_DEVICE };
static long long returns_early(enum Kind kind, bool is_pinned, size_t bytes) {
    Handle s = stream_of(1);
    Address a = device(bytes);
    void *p = is_pinned ? pinned(bytes) : calloc(bytes, 1);
    launch_spin(s, 10 * SPIN_NS);
    double start = now_ms();
    if (kind == TO_DEVICE) d.cuMemcpyHtoDAsync_v2(a, p, bytes, s);
    else d.cuMemcpyDtoHAsync_v2(p, a, bytes, s);
    double took = now_ms() - start;
    drop_stream(s);
    if (is_pinned) d.cuMemFreeHost(p); else free(p);
    d.cuMemFree_v2(a);
    return took < 100;
}
CASE(copy_async_pinned_to_device, 1) { return returns_early(TO_DEVICE, true, 4 * MIB); }
CASE(copy_async_pinned_from_device, 1) { return returns_early(FROM_DEVICE, true, 4 * MIB); }
CASE(copy_async_pageable_to_device_small, 1) { return returns_early(TO_DEVICE, false, 16 << 10); }
CASE(copy_async_pageable_to_device_64k, 1) { return returns_early(TO_DEVICE, false, 64 << 10); }
NOTED(copy_async_pageable_to_device_256k, 1, "the size from which a driver waits is its own") { return returns_early(TO_DEVICE, false, 256 << 10); }
NOTED(copy_async_pageable_to_device_1m, 1, "the size from which a driver waits is its own") { return returns_early(TO_DEVICE, false, MIB); }
NOTED(copy_async_pageable_to_device_4m, 0, "the size from which a driver waits is its own") { return returns_early(TO_DEVICE, false, 4 * MIB); }
CASE(copy_async_pageable_to_device_64m, 0) { return returns_early(TO_DEVICE, false, 64 * MIB); }
CASE(copy_async_pageable_from_device_small, 0) { return returns_early(FROM_DEVICE, false, 4096); }
CASE(copy_async_pageable_from_device, 0) { return returns_early(FROM_DEVICE, false, 4 * MIB); }
CASE(copy_async_pageable_source_is_taken, 1) {
    static char from[4096];
    char to[4096] = {0};
    Handle s = stream_of(1);
    Address a = device(4096);
    memset(from, 1, sizeof from);
    launch_spin(s, SPIN_NS);
    d.cuMemcpyHtoDAsync_v2(a, from, sizeof from, s);
    memset(from, 2, sizeof from);
    d.cuStreamSynchronize(s);
    d.cuMemcpyDtoH_v2(to, a, sizeof to);
    drop_stream(s), d.cuMemFree_v2(a);
    return to[4095];
}
/* How much of a pageable source a driver reads before earlier work on the stream, which writes it, is done: in bytes. */
struct Source { int *words; size_t count; };
static void sleep_then_write(void *data) {
    struct Source *source = data;
    usleep(20000);
    for (size_t i = 0; i < source->count; i++) source->words[i] = 42;
}
static long long bytes_read_early(size_t bytes) {
    struct Source source = {calloc(bytes, 1), bytes / 4};
    int *copied = malloc(bytes);
    Handle s = stream_of(1);
    Address a = device(bytes);
    d.cuLaunchHostFunc(s, sleep_then_write, &source);
    d.cuMemcpyHtoDAsync_v2(a, source.words, bytes, s);
    d.cuStreamSynchronize(s);
    d.cuMemcpyDtoH_v2(copied, a, bytes);
    size_t early = 0;
    while (early < source.count && copied[early] == 0) early++;
    drop_stream(s), d.cuMemFree_v2(a), free(source.words), free(copied);
    return (long long)early * 4;
}
CASE(copy_read_early_of_16k, 16 << 10) { return bytes_read_early(16 << 10); }
CASE(copy_read_early_of_64k, 64 << 10) { return bytes_read_early(64 << 10); }
NOTED(copy_read_early_of_1m, MIB, "how much a driver stages at once is its own") { return bytes_read_early(MIB); }
NOTED(copy_read_early_of_4m, 2 * MIB, "how much a driver stages at once is its own") { return bytes_read_early(4 * MIB); }
NOTED(copy_read_early_of_64m, 2 * MIB, "how much a driver stages at once is its own") { return bytes_read_early(64 * MIB); }
/* Whether the synchronous form returns with the copy done, or with its source read and the rest under way. */
NOTED(copy_sync_pageable_to_device_is_done, 0, "only reading the source is promised") {
    void *from = calloc(64 * MIB, 1);
    Address a = device(64 * MIB);
    d.cuCtxSynchronize();
    d.cuMemcpyHtoD_v2(a, from, 64 * MIB);
    Result r = d.cuStreamQuery(NULL);
    d.cuCtxSynchronize();
    d.cuMemFree_v2(a), free(from);
    return r;
}
/* A large copy of which one page in the middle of the host's side cannot be had, or ends with its file. */
enum Fault { PROTECTED_SOURCE, PROTECTED_TARGET, TRUNCATED_SOURCE };
static long long copy_with_fault(enum Fault fault) {
    enum { BYTES = 32 * MIB };
    FILE *file = tmpfile();
    if (!file || ftruncate(fileno(file), BYTES)) return ABSENT;
    char *host = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fileno(file), 0);
    Address a = device(BYTES);
    if (fault == PROTECTED_SOURCE) mprotect(host + BYTES / 2, 4096, PROT_NONE);
    if (fault == PROTECTED_TARGET) mprotect(host + BYTES / 2, 4096, PROT_READ);
    if (fault == TRUNCATED_SOURCE && ftruncate(fileno(file), BYTES / 2)) return ABSENT;
    return fault == PROTECTED_TARGET ? d.cuMemcpyDtoH_v2(host, a, BYTES) : d.cuMemcpyHtoD_v2(a, host, BYTES);
}
#define FAULT_NOTE "a driver may answer with an error where another takes the signal"
ALONE_NOTED(copy_from_protected_page, 100011, FAULT_NOTE) { return copy_with_fault(PROTECTED_SOURCE); }
ALONE_NOTED(copy_to_protected_page, 100011, FAULT_NOTE) { return copy_with_fault(PROTECTED_TARGET); }
ALONE_NOTED(copy_from_truncated_file, 100007, FAULT_NOTE) { return copy_with_fault(TRUNCATED_SOURCE); }
/* A capture on a blocking stream that begins while another thread is in a long copy on the default stream, with which
 * such a stream is ordered: the copy's result and the capture's. */
static long long capture_in_a_moment(void *unused) {
    (void)unused;
    Handle s = stream_of(0);
    usleep(1500);
    Result begun = d.cuStreamBeginCapture_v2(s, 0);
    usleep(3000);
    Result ended = begun ? begun : end_capture(s);
    d.cuStreamDestroy_v2(s);
    return ended;
}
CASE(copy_before_a_capture_beside_it, 0) {
    void *from = calloc(64 * MIB, 1);
    Address a = device(64 * MIB);
    struct Thread thread = {capture_in_a_moment, NULL, 0};
    pthread_t id;
    pthread_create(&id, NULL, thread_main, &thread);
    Result r = d.cuMemcpyHtoD_v2(a, from, 64 * MIB);
    pthread_join(id, NULL);
    d.cuMemFree_v2(a), free(from);
    return both(r, thread.result);
}
CASE(copy_within_device_does_not_wait, 1) {
    Address a = device(64), b = device(64);
    launch_spin(NULL, 3 * SPIN_NS);
    d.cuMemcpyDtoD_v2(a, b, 64);
    Result r = d.cuStreamQuery(NULL);
    d.cuCtxSynchronize();
    d.cuMemFree_v2(a), d.cuMemFree_v2(b);
    return r == 600;
}

CASE(copy_2d, 0) {
    unsigned char from[3][10], to[3][16] = {{0}};
    memset(from, 8, sizeof from);
    Address a;
    size_t pitch;
    d.cuMemAllocPitch_v2(&a, &pitch, 10, 3, 4);
    Copy2D copy = rectangle();
    copy.src_kind = 1, copy.src_host = from, copy.src_pitch = 10;
    copy.dst_kind = 2, copy.dst_device = a, copy.dst_pitch = pitch, copy.width = 10, copy.height = 3;
    Result r = d.cuMemcpy2D_v2(&copy);
    copy = rectangle();
    copy.src_kind = 2, copy.src_device = a, copy.src_pitch = pitch;
    copy.dst_kind = 1, copy.dst_host = to, copy.dst_pitch = 16, copy.dst_x = 2, copy.width = 10, copy.height = 3;
    if (!r) r = d.cuMemcpy2DAsync_v2(&copy, NULL);
    d.cuCtxSynchronize();
    d.cuMemFree_v2(a);
    int wrong = 0;
    for (int y = 0; y < 3; y++) wrong += wrong_bytes(to[y] + 2, 10, 8) + to[y][0] + to[y][12];
    return r ? r : wrong;
}
CASE(copy_2d_pitch_too_small, 1) {
    char from[64];
    Address a = device(64);
    Copy2D copy = rectangle();
    copy.src_kind = 1, copy.src_host = from, copy.src_pitch = 4, copy.dst_kind = 2, copy.dst_device = a, copy.dst_pitch = 16;
    copy.width = 16, copy.height = 2;
    Result r = d.cuMemcpy2D_v2(&copy);
    d.cuMemFree_v2(a);
    return r;
}
CASE(copy_2d_kind_unknown, 1) { Copy2D copy = rectangle(); copy.src_kind = 9, copy.dst_kind = 2, copy.width = copy.height = 1; return d.cuMemcpy2D_v2(&copy); }
CASE(copy_3d, 0) {
    unsigned char from[2 * 3 * 8], to[2 * 3 * 8] = {0};
    for (size_t i = 0; i < sizeof from; i++) from[i] = i;
    Address a = device(4096);
    Copy3D copy;
    memset(&copy, 0, sizeof copy);
    copy.src_kind = 1, copy.src_host = from, copy.src_pitch = 8, copy.src_height = 3;
    copy.dst_kind = 2, copy.dst_device = a, copy.dst_pitch = 16, copy.dst_height = 4;
    copy.width = 8, copy.height = 3, copy.depth = 2;
    Result r = d.cuMemcpy3D_v2(&copy);
    memset(&copy, 0, sizeof copy);
    copy.src_kind = 2, copy.src_device = a, copy.src_pitch = 16, copy.src_height = 4;
    copy.dst_kind = 1, copy.dst_host = to, copy.dst_pitch = 8, copy.dst_height = 3;
    copy.width = 8, copy.height = 3, copy.depth = 2;
    if (!r) r = d.cuMemcpy3DAsync_v2(&copy, NULL);
    d.cuCtxSynchronize();
    d.cuMemFree_v2(a);
    return r ? r : memcmp(from, to, sizeof from) != 0;
}
static long long batch_on(Handle s) {
    if (!d.cuMemcpyBatchAsync) return ABSENT;
    /* Only a 12.8 or newer driver has the first form. */
    unsigned char *p = pinned(128), *q = pinned(128);
    memset(p, 6, 128), memset(q, 0, 128);
    Address a = device(128), to[] = {a, a + 64}, from[] = {(Address)p, (Address)p + 64};
    size_t bytes[] = {64, 64}, starts[] = {0}, failed = 0;
    CopyAttributes attributes = {1, {0, 0}, {0, 0}, 0};
    Result r = d.cuMemcpyBatchAsync(to, from, bytes, 2, &attributes, starts, 1, &failed, s);
    d.cuCtxSynchronize();
    d.cuMemcpyDtoH_v2(q, a, 128);
    int wrong = wrong_bytes(q, 128, 6);
    d.cuMemFree_v2(a), d.cuMemFreeHost(p), d.cuMemFreeHost(q);
    return r ? r : wrong;
}
NOTED(copy_batch, 0, "needs a driver of 12.8 or newer") { Handle s = stream_of(1); long long r = batch_on(s); drop_stream(s); return r; }
NOTED(copy_batch_on_null, 1, "needs a driver of 12.8 or newer") { return batch_on(NULL); }

CASE(fill_8, 0) { unsigned char v[100]; Address a = device(100); d.cuMemsetD8_v2(a, 7, 100); d.cuMemcpyDtoH_v2(v, a, 100); d.cuMemFree_v2(a); return wrong_bytes(v, 100, 7); }
CASE(fill_16, 0x1234) { unsigned short v[10]; Address a = device(20); d.cuMemsetD16_v2(a, 0x1234, 10); d.cuMemcpyDtoH_v2(v, a, 20); d.cuMemFree_v2(a); return v[9]; }
CASE(fill_32, 0x12345678) { U32 v[10]; Address a = device(40); d.cuMemsetD32_v2(a, 0x12345678, 10); d.cuMemcpyDtoH_v2(v, a, 40); d.cuMemFree_v2(a); return v[9]; }
CASE(fill_async, 0x1234) { unsigned short v[10]; Address a = device(20); d.cuMemsetD16Async(a, 0x1234, 10, NULL); d.cuMemcpyDtoH_v2(v, a, 20); d.cuMemFree_v2(a); return v[9]; }
CASE(fill_2d, 0) {
    unsigned char v[64];
    Address a = device(64);
    d.cuMemsetD8_v2(a, 0, 64), d.cuMemsetD2D8_v2(a, 16, 9, 10, 4), d.cuMemcpyDtoH_v2(v, a, 64);
    d.cuMemFree_v2(a);
    int wrong = 0;
    for (int y = 0; y < 4; y++) wrong += wrong_bytes(v + 16 * y, 10, 9) + wrong_bytes(v + 16 * y + 10, 6, 0);
    return wrong;
}
CASE(fill_misaligned, 1) { Address a = device(64); Result r = d.cuMemsetD32_v2(a + 2, 0, 4); d.cuMemFree_v2(a); return r; }
CASE(fill_beyond_the_end, 1) { Address a = device(4096); Result r = d.cuMemsetD8_v2(a, 0, 4 * MIB); d.cuMemFree_v2(a); return r; }
CASE(fill_pageable, 1) { static char bytes[64]; return d.cuMemsetD8_v2((Address)bytes, 0, 64); }
CASE(fill_pinned, 0) { unsigned char *p = pinned(64); if (d.cuMemsetD8_v2((Address)p, 2, 64)) return -1; int wrong = wrong_bytes(p, 64, 2); d.cuMemFreeHost(p); return wrong; }
CASE(fill_nothing, 0) { Address a = device(64); Result r = d.cuMemsetD8_v2(a, 0, 0); d.cuMemFree_v2(a); return r; }
CASE(fill_does_not_wait, 1) {
    Address a = device(64);
    launch_spin(NULL, 3 * SPIN_NS);
    d.cuMemsetD8_v2(a, 1, 64);
    Result r = d.cuStreamQuery(NULL);
    d.cuCtxSynchronize(), d.cuMemFree_v2(a);
    return r == 600;
}

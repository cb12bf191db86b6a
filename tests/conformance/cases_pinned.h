/* All that can be asked about page-locked memory and done to it: what a pool in between has to answer as the driver does.
 * Whatever the driver hands out natively, it must not be told apart from what it is under the shim (better.h). */

/* ---- attributes, one at a time ---- */

enum { CONTEXT = 1, MEMORY_TYPE, DEVICE_POINTER, HOST_POINTER, SYNC_MEMOPS = 6, BUFFER_ID, IS_MANAGED, ORDINAL, LEGACY_IPC,
       RANGE_START, RANGE_SIZE, MAPPED, HANDLE_TYPES, GPUDIRECT, ACCESS, MEMPOOL, MAPPING_SIZE, MAPPING_START, BLOCK_ID,
       DECOMPRESS };

/* An attribute of the byte `offset` of a block of `bytes`; minus the error where there is one. */
static long long fact_of(size_t bytes, size_t offset, int number) {
    char *p = pinned(bytes);
    long long value = pointer_fact(number, (Address)p + offset);
    d.cuMemFreeHost(p);
    return value;
}
static long long is_start(int number) { char *p = pinned(5000); long long v = pointer_fact(number, (Address)p + 4500); d.cuMemFreeHost(p); return v == (long long)(uintptr_t)p; }
static long long is_itself(int number) { char *p = pinned(5000); long long v = pointer_fact(number, (Address)p + 4500); d.cuMemFreeHost(p); return v == (long long)(uintptr_t)p + 4500; }
CASE(pinned_device_pointer_attribute, 1) { return is_itself(DEVICE_POINTER); }
CASE(pinned_host_pointer_attribute, 1) { return is_itself(HOST_POINTER); }
CASE(pinned_start_of_5000, 1) { return is_start(RANGE_START); }
/* Beside another block, so that it is not the first of its mapping. */
CASE(pinned_mapping_start_of_5000, 0) { char *p = pinned(64); long long v = is_start(MAPPING_START); d.cuMemFreeHost(p); return v; }
CASE(pinned_size_of_1, 1) { return fact_of(1, 0, RANGE_SIZE); }
CASE(pinned_size_of_100, 100) { return fact_of(100, 99, RANGE_SIZE); }
CASE(pinned_size_of_5000, 5000) { return fact_of(5000, 4999, RANGE_SIZE); }
CASE(pinned_size_of_3m, 3 * MIB) { return fact_of(3 * MIB, 2 * MIB, RANGE_SIZE); }
CASE(pinned_size_of_20m_and_1, 20 * MIB + 1) { return fact_of(20 * MIB + 1, 20 * MIB, RANGE_SIZE); }
CASE(pinned_mapping_size_of_100, 2 * MIB) { return fact_of(100, 0, MAPPING_SIZE); }
CASE(pinned_mapping_size_of_4096, 2 * MIB) { return fact_of(4096, 0, MAPPING_SIZE); }
/* A driver says 4 MiB; a block of a pool may lie across one more page of 2 MiB. */
CASE(pinned_mapping_of_3m_is_of_4m_or_6m, 1) { long long v = fact_of(3 * MIB, 0, MAPPING_SIZE); return v == 4 * MIB || v == 6 * MIB; }
/* Whether the mapping begins and ends at multiples of 2 MiB, and holds the block. */
static long long lies_in_large_pages(size_t bytes) {
    char *p = pinned(bytes);
    Address at = (Address)p, start = (Address)pointer_fact(MAPPING_START, at), end = start + (Address)pointer_fact(MAPPING_SIZE, at);
    d.cuMemFreeHost(p);
    return start % (2 * MIB) == 0 && end % (2 * MIB) == 0 && start <= at && at + bytes <= end;
}
CASE(pinned_mapping_of_100_in_large_pages, 1) { return lies_in_large_pages(100); }
CASE(pinned_mapping_of_3m_in_large_pages, 1) { return lies_in_large_pages(3 * MIB); }
CASE(pinned_type_behind_100, -1) { return fact_of(100, 100, MEMORY_TYPE); }
CASE(pinned_size_behind_100, -1) { return fact_of(100, 100, RANGE_SIZE); }
CASE(pinned_managed, 0) { return fact_of(4096, 8, IS_MANAGED); }
CASE(pinned_ordinal, 0) { return fact_of(4096, 8, ORDINAL); }
CASE(pinned_legacy_ipc, 0) { return fact_of(4096, 8, LEGACY_IPC); }
CASE(pinned_handle_types, 0) { return fact_of(4096, 8, HANDLE_TYPES); }
CASE(pinned_gpudirect, 0) { return fact_of(4096, 8, GPUDIRECT); }
CASE(pinned_access, 3) { return fact_of(4096, 8, ACCESS); }
CASE(pinned_mempool, 0) { return fact_of(4096, 8, MEMPOOL); }
CASE(pinned_decompress, 0) { return fact_of(4096, 8, DECOMPRESS); }
CASE(pinned_attribute_0, -1) { return fact_of(4096, 8, 0); }
CASE(pinned_attribute_999, -1) { return fact_of(4096, 8, 999); }
CASE(pinned_attribute_without_place, 1) { char *p = pinned(4096); Result r = d.cuPointerGetAttribute(NULL, RANGE_SIZE, (Address)p); d.cuMemFreeHost(p); return r; }

/* How many bytes an answer has. */
static long long width_of(int number) {
    unsigned char answer[16];
    char *p = pinned(4096);
    memset(answer, 0xa5, sizeof answer);
    Result r = d.cuPointerGetAttribute(answer, number, (Address)p);
    d.cuMemFreeHost(p);
    int bytes = 16;
    while (bytes > 0 && answer[bytes - 1] == 0xa5) bytes--;
    return r ? -r : bytes;
}
CASE(pinned_width_of_sync_memops, 4) { return width_of(SYNC_MEMOPS); }
CASE(pinned_width_of_buffer_id, 8) { return width_of(BUFFER_ID); }
CASE(pinned_width_of_range_size, 8) { return width_of(RANGE_SIZE); }
CASE(pinned_width_of_mapping_size, 8) { return width_of(MAPPING_SIZE); }
CASE(pinned_width_of_block_id, 8) { return width_of(BLOCK_ID); }

/* ---- identities ---- */

static U64 id_of(void *p, int number) { U64 id = 0; d.cuPointerGetAttribute(&id, number, (Address)p); return id; }
static long long ids_differ(int number) { char *p = pinned(64), *q = pinned(64); U64 a = id_of(p, number), b = id_of(q, number); d.cuMemFreeHost(p), d.cuMemFreeHost(q); return a && b && a != b; }
static long long ids_of_successors_differ(int number) {
    enum { N = 32 };
    U64 ids[N];
    for (int i = 0; i < N; i++) {
        char *p = pinned(64);
        ids[i] = id_of(p, number);
        d.cuMemFreeHost(p);
        for (int j = 0; j < i; j++) if (ids[i] == ids[j]) return 0;
    }
    return 1;
}
CASE(pinned_buffer_ids_differ, 1) { return ids_differ(BUFFER_ID); }
CASE(pinned_buffer_id_is_kept, 1) { char *p = pinned(9000); U64 a = id_of(p, BUFFER_ID), b = id_of(p + 8999, BUFFER_ID); d.cuMemFreeHost(p); return a == b; }
CASE(pinned_buffer_ids_of_successors_differ, 1) { return ids_of_successors_differ(BUFFER_ID); }
CASE(pinned_buffer_id_is_no_device_memorys, 1) {
    char *p = pinned(64);
    int same = 0;
    for (int i = 0; i < 16; i++) { Address a = device(64); same += id_of(p, BUFFER_ID) == id_of((void *)a, BUFFER_ID); d.cuMemFree_v2(a); }
    d.cuMemFreeHost(p);
    return same == 0;
}
CASE(pinned_block_ids_differ, 0) { return ids_differ(BLOCK_ID); }
CASE(pinned_block_id_is_kept, 1) { char *p = pinned(9000); U64 a = id_of(p, BLOCK_ID), b = id_of(p + 8999, BLOCK_ID); d.cuMemFreeHost(p); return a == b; }
CASE(pinned_block_ids_of_successors_differ, 0) { return ids_of_successors_differ(BLOCK_ID); }
CASE(pinned_block_id_is_buffer_id, 0) { char *p = pinned(64); U64 a = id_of(p, BLOCK_ID), b = id_of(p, BUFFER_ID); d.cuMemFreeHost(p); return a == b; }

/* ---- attributes, several at a time ---- */

/* How many of these answer together as they do alone. */
CASE(pinned_attributes_together, 15) {
    int numbers[] = {CONTEXT, MEMORY_TYPE, DEVICE_POINTER, HOST_POINTER, SYNC_MEMOPS, BUFFER_ID, IS_MANAGED, ORDINAL, RANGE_START,
                     RANGE_SIZE, MAPPED, ACCESS, MAPPING_SIZE, MAPPING_START, BLOCK_ID};
    enum { N = sizeof numbers / sizeof *numbers };
    U64 answers[N] = {0};
    void *values[N];
    char *p = pinned(5000);
    for (int i = 0; i < N; i++) values[i] = &answers[i];
    Result r = d.cuPointerGetAttributes(N, numbers, values, (Address)p + 4096);
    int same = 0;
    for (int i = 0; i < N; i++) same += (long long)answers[i] == pointer_fact(numbers[i], (Address)p + 4096);
    d.cuMemFreeHost(p);
    return r ? -r : same;
}
/* Range size, and something that is no attribute, before or behind it: the result, and whether the size was told. */
static long long with_unknown(bool is_first) {
    int numbers[] = {is_first ? 999 : RANGE_SIZE, is_first ? RANGE_SIZE : 999};
    U64 answers[] = {7, 7};
    void *values[] = {&answers[0], &answers[1]};
    char *p = pinned(100);
    Result r = d.cuPointerGetAttributes(2, numbers, values, (Address)p);
    d.cuMemFreeHost(p);
    return 1000LL * r + (long long)answers[is_first];
}
CASE(pinned_attributes_unknown_first, 1007) { return with_unknown(true); }
CASE(pinned_attributes_unknown_last, 1100) { return with_unknown(false); }
CASE(pinned_attributes_none, 1) { int number = 2; void *value = &number; char *p = pinned(64); Result r = d.cuPointerGetAttributes(0, &number, &value, (Address)p); d.cuMemFreeHost(p); return r; }
ALONE(pinned_attributes_without_place, 1) { int number = 2; void *value = NULL; return d.cuPointerGetAttributes(1, &number, &value, (Address)pinned(64)); }
ALONE(pinned_attributes_without_places, 1) { int number = 2; return d.cuPointerGetAttributes(1, &number, NULL, (Address)pinned(64)); }

/* ---- SYNC_MEMOPS ---- */

static Result set_sync(void *p, U32 value) { return d.cuPointerSetAttribute(&value, SYNC_MEMOPS, (Address)p); }
CASE(pinned_sync_memops_unset, 0) { return fact_of(4096, 8, SYNC_MEMOPS); }
CASE(pinned_sync_memops_set, 1) { char *p = pinned(4096); Result r = set_sync(p, 1); long long v = pointer_fact(SYNC_MEMOPS, (Address)p + 8); d.cuMemFreeHost(p); return r ? -r : v; }
CASE(pinned_sync_memops_set_inside, 1) { char *p = pinned(9000); Result r = set_sync(p + 8192, 1); long long v = pointer_fact(SYNC_MEMOPS, (Address)p); d.cuMemFreeHost(p); return r ? -r : v; }
CASE(pinned_sync_memops_unset_again, 0) { char *p = pinned(4096); set_sync(p, 1); Result r = set_sync(p, 0); long long v = pointer_fact(SYNC_MEMOPS, (Address)p); d.cuMemFreeHost(p); return r ? -r : v; }
/* Of two blocks, the first alone set; then the second too and the first unset: 10 and 01. */
CASE(pinned_sync_memops_of_two, 1001) {
    char *p = pinned(4096), *q = pinned(4096);
    set_sync(p, 1);
    long long before = 10 * pointer_fact(SYNC_MEMOPS, (Address)p) + pointer_fact(SYNC_MEMOPS, (Address)q);
    set_sync(q, 1), set_sync(p, 0);
    long long after = 10 * pointer_fact(SYNC_MEMOPS, (Address)p) + pointer_fact(SYNC_MEMOPS, (Address)q);
    d.cuMemFreeHost(p), d.cuMemFreeHost(q);
    return 100 * before + after;
}
CASE(pinned_sync_memops_of_successors, 0) {
    long long set = 0;
    for (int i = 0; i < 8; i++) { char *p = pinned(4096); set += pointer_fact(SYNC_MEMOPS, (Address)p); set_sync(p, 1); d.cuMemFreeHost(p); }
    return set;
}
CASE(pinned_sync_memops_without_value, 1) { char *p = pinned(64); Result r = d.cuPointerSetAttribute(NULL, SYNC_MEMOPS, (Address)p); d.cuMemFreeHost(p); return r; }
CASE(pinned_set_another_attribute, 1) { char *p = pinned(64); U64 v = 1; Result r = d.cuPointerSetAttribute(&v, BUFFER_ID, (Address)p); d.cuMemFreeHost(p); return r; }
CASE(pageable_sync_memops, 1) { static char byte; return set_sync(&byte, 1); }

/* ---- ranges ---- */

static long long range_in(size_t bytes, size_t offset) {
    char *p = pinned(bytes);
    Address start = 0;
    size_t size = 0;
    Result r = d.cuMemGetAddressRange_v2(&start, &size, (Address)p + offset);
    d.cuMemFreeHost(p);
    return r ? -r : start == (Address)p ? (long long)size : -1000;
}
CASE(pinned_range_of_100, 100) { return range_in(100, 99); }
CASE(pinned_range_of_5000, 5000) { return range_in(5000, 4500); }
CASE(pinned_range_of_3m, 3 * MIB) { return range_in(3 * MIB, 3 * MIB - 1); }
CASE(pinned_range_behind_100, -500) { return range_in(100, 100); }
CASE(pinned_range_without_start, 4096) { char *p = pinned(4096); size_t n = 0; Result r = d.cuMemGetAddressRange_v2(NULL, &n, (Address)p); d.cuMemFreeHost(p); return r ? -r : (long long)n; }
CASE(pinned_range_without_size, 1) { char *p = pinned(4096); Address a = 0; Result r = d.cuMemGetAddressRange_v2(&a, NULL, (Address)p); d.cuMemFreeHost(p); return r ? -r : a == (Address)p; }

/* ---- flags and device pointers ---- */

static long long flags_told_of(size_t bytes, U32 flags) { void *p = NULL; U32 f = 99; Result r = d.cuMemHostAlloc(&p, bytes, flags); if (r) return -r; r = d.cuMemHostGetFlags(&f, p); d.cuMemFreeHost(p); return r ? -r : (int)f; }
static long long flags_told(U32 flags) { return flags_told_of(4096, flags); }
CASE(pinned_flags_2, 2) { return flags_told(2); }
CASE(pinned_flags_3, 2) { return flags_told(3); }
CASE(pinned_flags_5, 7) { return flags_told(5); }
CASE(pinned_flags_6, 6) { return flags_told(6); }
CASE(pinned_flags_7, 7) { return flags_told(7); }
CASE(pinned_flags_8, -1) { return flags_told(8); }
/* PORTABLE is not told of small blocks; it was of one of 16 MiB. */
CASE(pinned_flags_0_of_4m, 2) { return flags_told_of(4 * MIB, 0); }
CASE(pinned_flags_1_of_4m, 3) { return flags_told_of(4 * MIB, 1); }
CASE(pinned_flags_3_of_4m, 3) { return flags_told_of(4 * MIB, 3); }
CASE(pinned_flags_without_place, 1) { char *p = pinned(64); Result r = d.cuMemHostGetFlags(NULL, p); d.cuMemFreeHost(p); return r; }
CASE(pinned_flags_behind_100, 1) { char *p = pinned(100); U32 f; Result r = d.cuMemHostGetFlags(&f, p + 100); d.cuMemFreeHost(p); return r; }
CASE(pinned_write_combined_size, 100) { void *p = NULL; d.cuMemHostAlloc(&p, 100, 4); long long v = pointer_fact(RANGE_SIZE, (Address)p); d.cuMemFreeHost(p); return v; }
CASE(pinned_device_pointer_behind_100, 1) { char *p = pinned(100); Address a; Result r = d.cuMemHostGetDevicePointer_v2(&a, p + 100, 0); d.cuMemFreeHost(p); return r; }
CASE(pinned_device_pointer_flags, 1) { char *p = pinned(100); Address a; Result r = d.cuMemHostGetDevicePointer_v2(&a, p, 1); d.cuMemFreeHost(p); return r; }
CASE(pinned_device_pointer_without_place, 1) { char *p = pinned(100); Result r = d.cuMemHostGetDevicePointer_v2(NULL, p, 0); d.cuMemFreeHost(p); return r; }
CASE(pinned_nothing_in_the_old_form, 0) { void *p = &p; Result r = d.cuMemAllocHost_v2(&p, 0); return r ? r : p != NULL; }

/* ---- what was freed ---- */

static char *freed(void) { char *p = pinned(8192); d.cuMemFreeHost(p); return p; }
CASE(freed_flags, 1) { U32 f; return d.cuMemHostGetFlags(&f, freed()); }
CASE(freed_flags_inside, 1) { U32 f; return d.cuMemHostGetFlags(&f, freed() + 4096); }
CASE(freed_device_pointer, 1) { Address a; return d.cuMemHostGetDevicePointer_v2(&a, freed(), 0); }
CASE(freed_range, 500) { Address a; size_t n; return d.cuMemGetAddressRange_v2(&a, &n, (Address)freed()); }
CASE(freed_type, -1) { return pointer_fact(MEMORY_TYPE, (Address)freed()); }
CASE(freed_buffer_id, -1) { return pointer_fact(BUFFER_ID, (Address)freed() + 64); }
CASE(freed_attributes, 9) {
    int type = 9, numbers[] = {MEMORY_TYPE, RANGE_SIZE};
    size_t size = 9;
    void *values[] = {&type, &size};
    Result r = d.cuPointerGetAttributes(2, numbers, values, (Address)freed());
    return r ? -r : type * 100 + (int)size;
}
/* Of an address the driver does not know: which attributes are written, and which are refused; bit N stands for attribute
 * N. All from 1 to 21 are written but three: P2P_TOKENS (5) and the range's start and size (11 and 12). */
static long long attributes_of_freed(bool is_refused) {
    char *p = freed();
    long long numbers = 0;
    for (int number = 1; number <= 21; number++) {
        unsigned char answer[16];
        void *value = answer;
        memset(answer, 0xa5, sizeof answer);
        Result r = d.cuPointerGetAttributes(1, &number, &value, (Address)p);
        if (is_refused ? r != 0 : r == 0 && answer[0] != 0xa5) numbers |= 1LL << number;
    }
    return numbers;
}
CASE(freed_attributes_written, 0x3fe7de) { return attributes_of_freed(false); }
RECORDS(freed_attributes_refused, 0) { return attributes_of_freed(true); }
CASE(freed_sync_memops, 1) { return set_sync(freed(), 1); }
CASE(freed_unregister, 713) { return d.cuMemHostUnregister(freed()); }
CASE(freed_free_inside, 1) { return d.cuMemFreeHost(freed() + 4096); }

/* ---- frees and registration ---- */

CASE(pinned_free_of_a_page_inside, 10) { char *p = pinned(8192); Result r = d.cuMemFreeHost(p + 4096); return 10 * r + d.cuMemFreeHost(p); }
CASE(pinned_free_odd, 10) { char *p = pinned(8192); Result r = d.cuMemFreeHost(p + 1); return 10 * r + d.cuMemFreeHost(p); }
CASE(pinned_free_behind_100, 10) { char *p = pinned(100); Result r = d.cuMemFreeHost(p + 100); return 10 * r + d.cuMemFreeHost(p); }
ALONE(pinned_free_as_device_memory, 1) { return d.cuMemFree_v2((Address)pinned(4096)); }
CASE(pinned_unregister_inside, 1) { char *p = pinned(8192); Result r = d.cuMemHostUnregister(p + 4096); d.cuMemFreeHost(p); return r; }
/* Registered again as a whole, in part, and beyond its end; 10 * that + whether it can still be freed. */
static long long registered_again(size_t offset, size_t bytes) {
    char *p = pinned(8192);
    Result r = d.cuMemHostRegister_v2(p + offset, bytes, 0);
    if (!r) d.cuMemHostUnregister(p + offset);
    return 10 * r + d.cuMemFreeHost(p);
}
CASE(pinned_register_whole, 10) { return registered_again(0, 8192); }
CASE(pinned_register_part, 10) { return registered_again(4096, 4096); }

/* ---- in a host function ---- */

static void *subject;
static void free_subject(void *data) { atomic_store((atomic_int *)data, d.cuMemFreeHost(subject)); }
static void ask_subject(void *data) { U32 f; atomic_store((atomic_int *)data, d.cuMemHostGetFlags(&f, subject)); }
static void type_subject(void *data) { U64 v; atomic_store((atomic_int *)data, d.cuPointerGetAttribute(&v, MEMORY_TYPE, (Address)subject)); }
static void alloc_subject(void *data) { void *p = NULL; atomic_store((atomic_int *)data, d.cuMemHostAlloc(&p, 4096, 0)); }
static void ask_context(void *data) { Handle c; atomic_store((atomic_int *)data, d.cuCtxGetCurrent(&c)); }
/* What a function on a stream was answered; each in a process of its own, since a driver may also never answer there. */
static long long on_stream(HostFunction function) {
    Handle s = stream_of(0);
    seen = -1;
    d.cuLaunchHostFunc(s, function, &seen);
    drop_stream(s);
    return seen;
}
ALONE(host_function_current_context, 800) { return on_stream(ask_context); }
ALONE(host_function_host_alloc, 800) { return on_stream(alloc_subject); }
ALONE(host_function_free_host, 800) { subject = pinned(4096); long long r = on_stream(free_subject); if (r) d.cuMemFreeHost(subject); return r; }
ALONE(host_function_flags, 800) { subject = pinned(4096); long long r = on_stream(ask_subject); d.cuMemFreeHost(subject); return r; }
ALONE(host_function_attribute, 800) { subject = pinned(4096); long long r = on_stream(type_subject); d.cuMemFreeHost(subject); return r; }
ALONE(host_function_flags_of_freed, 800) { subject = freed(); return on_stream(ask_subject); }

/* ---- with another context current, or none ---- */

typedef long long (*Question)(void *);
static long long ask_flags(void *p) { U32 f = 0; Result r = d.cuMemHostGetFlags(&f, p); return r ? -r : (int)f; }
static long long ask_device_pointer(void *p) { Address a = 0; Result r = d.cuMemHostGetDevicePointer_v2(&a, p, 0); return r ? -r : a == (Address)p; }
static long long ask_range(void *p) { Address a = 0; size_t n = 0; Result r = d.cuMemGetAddressRange_v2(&a, &n, (Address)p); return r ? -r : (long long)n; }
static long long ask_type(void *p) { return pointer_fact(MEMORY_TYPE, (Address)p); }
static long long ask_size(void *p) { return pointer_fact(RANGE_SIZE, (Address)p); }
static long long ask_owner(void *p) { return pointer_fact(CONTEXT, (Address)p) == (long long)(uintptr_t)context; }
static long long ask_types(void *p) { int type = 9, number = MEMORY_TYPE; void *value = &type; Result r = d.cuPointerGetAttributes(1, &number, &value, (Address)p); return r ? -r : type; }
static long long ask_sync(void *p) { return -set_sync(p, 1); }
static long long ask_unregister(void *p) { return -d.cuMemHostUnregister(p); }
static long long ask_free(void *p) { return -d.cuMemFreeHost(p); }
static long long ask_alloc(void *unused) { (void)unused; void *p = NULL; Result r = d.cuMemHostAlloc(&p, 4096, 0); if (!r) d.cuMemFreeHost(p); return -r; }

struct Asked { Question question; void *about; };
static long long thread_asks_without(void *argument) {
    struct Asked *asked = argument;
    d.cuCtxSetCurrent(NULL);
    return asked->question(asked->about);
}
static long long without_context(Question question) {
    struct Asked asked = {question, pinned(4096)};
    long long r = in_thread(thread_asks_without, &asked);
    if (question != ask_free || r) d.cuMemFreeHost(asked.about);
    return r;
}
CASE(no_context_flags, -201) { return without_context(ask_flags); }
CASE(no_context_device_pointer, -201) { return without_context(ask_device_pointer); }
CASE(no_context_range, -201) { return without_context(ask_range); }
CASE(no_context_type, 1) { return without_context(ask_type); }
CASE(no_context_size, 4096) { return without_context(ask_size); }
CASE(no_context_types, 1) { return without_context(ask_types); }
CASE(no_context_sync_memops, 0) { return without_context(ask_sync); }
CASE(no_context_unregister, -1) { return without_context(ask_unregister); }
CASE(no_context_host_alloc, -201) { return without_context(ask_alloc); }
CASE(no_context_free_host, 0) { return without_context(ask_free); }
static long long without_context_of_freed(Question question) { struct Asked asked = {question, freed()}; return in_thread(thread_asks_without, &asked); }
CASE(no_context_flags_of_freed, -201) { return without_context_of_freed(ask_flags); }
CASE(no_context_range_of_freed, -201) { return without_context_of_freed(ask_range); }
CASE(no_context_type_of_freed, -1) { return without_context_of_freed(ask_type); }

/* About memory of the primary context while another one is current, and the other way round. */
static long long with_other_context(Question question, bool is_the_others) {
    Handle other;
    char *first = pinned(4096);
    if (d.cuCtxCreate_v2(&other, 0, 0)) return -999;
    char *second = pinned(4096);
    if (is_the_others) d.cuCtxSetCurrent(context);
    long long r = question(is_the_others ? second : first);
    d.cuCtxDestroy_v2(other);
    d.cuCtxSetCurrent(context);
    if (question != ask_free || is_the_others || r) d.cuMemFreeHost(first);
    return r;
}
CASE(other_context_flags, 2) { return with_other_context(ask_flags, false); }
CASE(other_context_device_pointer, 1) { return with_other_context(ask_device_pointer, false); }
CASE(other_context_range, 4096) { return with_other_context(ask_range, false); }
CASE(other_context_size, 4096) { return with_other_context(ask_size, false); }
CASE(other_context_owner, 1) { return with_other_context(ask_owner, false); }
CASE(other_context_free, 0) { return with_other_context(ask_free, false); }
CASE(others_memory_flags, 2) { return with_other_context(ask_flags, true); }
CASE(others_memory_size, 4096) { return with_other_context(ask_size, true); }
CASE(others_memory_owner, 0) { return with_other_context(ask_owner, true); }
CASE(others_memory_free, 0) { return with_other_context(ask_free, true); }

/* A block of a context that has been destroyed, reset or released, asked about in another or in the one that came after. */
enum End { DESTROYED, RESET, RELEASED };
static long long after_end(enum End end, Question question) {
    Handle own = NULL;
    if (end == DESTROYED && d.cuCtxCreate_v2(&own, 0, 0)) return -999;
    char *p = pinned(4096);
    Result r = end == DESTROYED ? d.cuCtxDestroy_v2(own) : end == RESET ? d.cuDevicePrimaryCtxReset_v2(0) : d.cuDevicePrimaryCtxRelease_v2(0);
    if (r) return -1000 - r;
    if (end != DESTROYED) d.cuDevicePrimaryCtxRetain(&context, 0);
    d.cuCtxSetCurrent(context);
    return question(p);
}
ALONE(destroyed_context_flags, -1) { return after_end(DESTROYED, ask_flags); }
ALONE(destroyed_context_range, -500) { return after_end(DESTROYED, ask_range); }
ALONE(destroyed_context_type, -1) { return after_end(DESTROYED, ask_type); }
ALONE(destroyed_context_free, -1) { return after_end(DESTROYED, ask_free); }
ALONE(reset_context_flags, -1) { return after_end(RESET, ask_flags); }
ALONE(reset_context_type, -1) { return after_end(RESET, ask_type); }
ALONE(reset_context_free, -1) { return after_end(RESET, ask_free); }
ALONE(reset_context_alloc, 0) { return after_end(RESET, ask_alloc); }
ALONE(released_context_flags, -1) { return after_end(RELEASED, ask_flags); }
ALONE(released_context_free, -1) { return after_end(RELEASED, ask_free); }
ALONE(released_context_alloc, 0) { return after_end(RELEASED, ask_alloc); }
/* Between a reset and the next retain the thread's context is gone. */
static long long in_reset(Question question) { char *p = pinned(4096); d.cuDevicePrimaryCtxReset_v2(0); return question(p); }
ALONE(in_reset_context_flags, -709) { return in_reset(ask_flags); }
ALONE(in_reset_context_type, -1) { return in_reset(ask_type); }
ALONE(in_reset_context_free, -709) { return in_reset(ask_free); }
ALONE(in_reset_context_alloc, -709) { return in_reset(ask_alloc); }

/* Memory of the second device's primary context, asked about in the first's. */
static long long of_second_device(Question question) {
    Handle second;
    int count = 0;
    d.cuDeviceGetCount(&count);
    if (count < 2) return ABSENT;
    if (d.cuDevicePrimaryCtxRetain(&second, 1)) return -999;
    char *first = pinned(4096);
    (void)first;
    d.cuCtxSetCurrent(second);
    char *p = pinned(4096);
    d.cuCtxSetCurrent(context);
    return question(p);
}
static long long ask_ordinal(void *p) { return pointer_fact(ORDINAL, (Address)p); }
#define TWO_DEVICES "needs two devices; not yet observed on a real driver"
ALONE_NOTED(two_devices_flags, 2, TWO_DEVICES) { return of_second_device(ask_flags); }
ALONE_NOTED(two_devices_ordinal, 1, TWO_DEVICES) { return of_second_device(ask_ordinal); }
ALONE_NOTED(two_devices_range, 4096, TWO_DEVICES) { return of_second_device(ask_range); }
ALONE_NOTED(two_devices_free, 0, TWO_DEVICES) { return of_second_device(ask_free); }

/* ---- while a capture is open ---- */

static Result call_range(Handle s) { (void)s; Address a; size_t n; return d.cuMemGetAddressRange_v2(&a, &n, (Address)pinned_area); }
static Result call_device_pointer(Handle s) { (void)s; Address a; return d.cuMemHostGetDevicePointer_v2(&a, pinned_area, 0); }
static Result call_pinned_attribute(Handle s) { (void)s; U64 v; return d.cuPointerGetAttribute(&v, BUFFER_ID, (Address)pinned_area); }
static Result call_sync_memops(Handle s) { (void)s; return set_sync(pinned_area, 0); }
static Result call_unregister_pinned(Handle s) { (void)s; return d.cuMemHostUnregister(pinned_area); }
static Result call_free_inside(Handle s) { (void)s; return d.cuMemFreeHost((char *)pinned_area + 64); }
static Result call_free_null(Handle s) { (void)s; return d.cuMemFreeHost(NULL); }
CASE(capture_range, 0) { return while_capturing(GLOBAL, call_range); }
CASE(capture_device_pointer, 0) { return while_capturing(GLOBAL, call_device_pointer); }
CASE(capture_pinned_attribute, 0) { return while_capturing(GLOBAL, call_pinned_attribute); }
CASE(capture_sync_memops, 900901) { return while_capturing(GLOBAL, call_sync_memops); }
CASE(capture_sync_memops_relaxed, 0) { return while_capturing(RELAXED, call_sync_memops); }
CASE(capture_unregister_pinned, 900901) { return while_capturing(GLOBAL, call_unregister_pinned); }
CASE(capture_free_host_inside, 900901) { return while_capturing(GLOBAL, call_free_inside); }
CASE(capture_free_host_null, 900901) { return while_capturing(GLOBAL, call_free_null); }

static long long free_while_capturing(int mode) { spare_pinned = pinned(64); long long r = while_capturing(mode, call_free_host); if (r / 1000) d.cuMemFreeHost(spare_pinned); return r; }
CASE(capture_free_host_thread_local, 900901) { return free_while_capturing(THREAD_LOCAL); }
/* The same from a thread that captures nothing. */
static long long thread_calls(void *argument) { return ((Result (*)(Handle))(uintptr_t)argument)(NULL); }
static long long in_other_thread(int mode, Result (*call)(Handle)) {
    need_areas();
    Handle s = stream_of(1);
    d.cuStreamBeginCapture_v2(s, mode);
    long long result = in_thread(thread_calls, (void *)(uintptr_t)call);
    Result end = end_capture(s);
    drop_stream(s);
    return both(result, end);
}
static long long free_in_other_thread(int mode) { spare_pinned = pinned(64); long long r = in_other_thread(mode, call_free_host); if (r / 1000) d.cuMemFreeHost(spare_pinned); return r; }
CASE(capture_other_thread_host_alloc_global, 900901) { return in_other_thread(GLOBAL, call_host_alloc); }
CASE(capture_other_thread_host_alloc_thread_local, 0) { return in_other_thread(THREAD_LOCAL, call_host_alloc); }
CASE(capture_other_thread_host_alloc_relaxed, 0) { return in_other_thread(RELAXED, call_host_alloc); }
CASE(capture_other_thread_free_host_global, 900901) { return free_in_other_thread(GLOBAL); }
CASE(capture_other_thread_free_host_thread_local, 0) { return free_in_other_thread(THREAD_LOCAL); }
CASE(capture_other_thread_free_host_relaxed, 0) { return free_in_other_thread(RELAXED); }
CASE(capture_other_thread_attribute_global, 0) { return in_other_thread(GLOBAL, call_pinned_attribute); }

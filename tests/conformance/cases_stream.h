/* Streams, default-stream order, host functions, stream memory operations, events. */

CASE(stream_flags_unknown, 1) { Handle s; return d.cuStreamCreate(&s, 0x100); }
CASE(stream_create_null, 1) { return d.cuStreamCreate(NULL, 0); }
CASE(stream_flags_read, 1) { Handle s = stream_of(1); U32 f = 9; d.cuStreamGetFlags(s, &f); drop_stream(s); return f; }
CASE(stream_default_flags, 0) { U32 f = 9; d.cuStreamGetFlags(NULL, &f); return f; }
CASE(stream_priority_kept, -3) { Handle s; int p = 9; d.cuStreamCreateWithPriority(&s, 0, -3); d.cuStreamGetPriority(s, &p); drop_stream(s); return p; }
CASE(stream_priority_clamped, -5) { Handle s; int p = 9; d.cuStreamCreateWithPriority(&s, 0, -99); d.cuStreamGetPriority(s, &p); drop_stream(s); return p; }
CASE(stream_priority_positive, 0) { Handle s; int p = 9; d.cuStreamCreateWithPriority(&s, 0, 7); d.cuStreamGetPriority(s, &p); drop_stream(s); return p; }
CASE(stream_context, 1) { Handle s = stream_of(0), c = NULL; d.cuStreamGetCtx(s, &c); drop_stream(s); return c == context; }
CASE(stream_ids_differ, 1) {
    Handle s = stream_of(0), t = stream_of(0);
    U64 a = 0, b = 0;
    d.cuStreamGetId(s, &a), d.cuStreamGetId(t, &b);
    drop_stream(s), drop_stream(t);
    return a != b;
}
CASE(stream_query_idle, 0) { Handle s = stream_of(0); Result r = d.cuStreamQuery(s); drop_stream(s); return r; }
CASE(stream_query_busy, 600) { Handle s = stream_of(0); launch_spin(s, SPIN_NS); Result r = d.cuStreamQuery(s); drop_stream(s); return r; }
CASE(stream_sync_waits, 1) {
    Handle s = stream_of(0);
    double start = now_ms();
    launch_spin(s, SPIN_NS);
    d.cuStreamSynchronize(s);
    double took = now_ms() - start;
    drop_stream(s);
    return took >= 19;
}
CASE(stream_launch_returns_at_once, 1) {
    Handle s = stream_of(0);
    double start = now_ms();
    launch_spin(s, 5 * SPIN_NS);
    double took = now_ms() - start;
    drop_stream(s);
    return took < 50;
}
CASE(stream_destroy_busy, 0) { Handle s = stream_of(0); launch_spin(s, SPIN_NS); Result r = d.cuStreamDestroy_v2(s); d.cuCtxSynchronize(); return r; }
CASE(context_sync_waits, 1) {
    Handle s = stream_of(1);
    double start = now_ms();
    launch_spin(s, SPIN_NS);
    d.cuCtxSynchronize();
    double took = now_ms() - start;
    drop_stream(s);
    return took >= 19;
}

/* Whether a spin on one stream holds back an event recorded on another afterwards. */
static long long held_back(Handle first, Handle second) {
    Handle e = event_of(2);
    launch_spin(first, SPIN_NS);
    d.cuEventRecord(e, second);
    usleep(5000);
    Result result = d.cuEventQuery(e);
    d.cuCtxSynchronize();
    d.cuEventDestroy_v2(e);
    return result;
}
static long long order(U32 first_flags, Handle second) { Handle s = stream_of(first_flags); long long r = held_back(s, second); drop_stream(s); return r; }
static long long order_back(Handle first, U32 second_flags) { Handle s = stream_of(second_flags); long long r = held_back(first, s); drop_stream(s); return r; }
#define LEGACY ((Handle)1)
#define PER_THREAD ((Handle)2)
CASE(order_blocking_then_null, 600) { return order(0, NULL); }
CASE(order_blocking_then_legacy, 600) { return order(0, LEGACY); }
CASE(order_non_blocking_then_null, 0) { return order(1, NULL); }
CASE(order_null_then_blocking, 600) { return order_back(NULL, 0); }
CASE(order_null_then_non_blocking, 0) { return order_back(NULL, 1); }
CASE(order_per_thread_then_null, 600) { return held_back(PER_THREAD, NULL); }
CASE(order_null_then_per_thread, 600) { return held_back(NULL, PER_THREAD); }
CASE(order_two_blocking, 0) { Handle s = stream_of(0), t = stream_of(0); long long r = held_back(s, t); drop_stream(s), drop_stream(t); return r; }
CASE(order_blocking_then_per_thread, 0) { return order(0, PER_THREAD); }
static long long thread_per_thread(void *argument) { (void)argument; return held_back(PER_THREAD, NULL); }
CASE(order_other_threads_default, 600) { return in_thread(thread_per_thread, NULL); }
static long long thread_own_stream(void *event) {
    Handle e = event;
    d.cuEventRecord(e, PER_THREAD);
    usleep(5000);
    return d.cuEventQuery(e);
}
CASE(order_per_thread_streams_differ, 0) {
    Handle e = event_of(2);
    launch_spin(PER_THREAD, SPIN_NS);
    long long r = in_thread(thread_own_stream, e);
    d.cuCtxSynchronize();
    d.cuEventDestroy_v2(e);
    return r;
}

static atomic_int seen;
static void set_seven(void *data) { atomic_store((atomic_int *)data, 7); }
static void set_eight(Handle stream, Result result, void *data) { (void)stream; atomic_store((atomic_int *)data, 8 + result); }
static void call_driver(void *data) { Address a; atomic_store((atomic_int *)data, d.cuMemAlloc_v2(&a, 16)); }
CASE(host_function_runs, 7) { Handle s = stream_of(0); seen = 0; d.cuLaunchHostFunc(s, set_seven, &seen); drop_stream(s); return seen; }
CASE(host_function_waits_its_turn, 0) {
    Handle s = stream_of(0);
    seen = 0;
    launch_spin(s, SPIN_NS);
    d.cuLaunchHostFunc(s, set_seven, &seen);
    int early = seen;
    drop_stream(s);
    return early;
}
CASE(host_function_null, 1) { return d.cuLaunchHostFunc(NULL, NULL, NULL); }
CASE(host_function_calls_driver, 800) { Handle s = stream_of(0); seen = 0; d.cuLaunchHostFunc(s, call_driver, &seen); drop_stream(s); return seen; }
CASE(callback_runs, 8) { Handle s = stream_of(0); seen = 0; d.cuStreamAddCallback(s, set_eight, &seen, 0); drop_stream(s); return seen; }
CASE(callback_flags, 1) { return d.cuStreamAddCallback(NULL, set_eight, &seen, 1); }

CASE(write_value_32, 77) {
    Handle s = stream_of(0);
    Address a = device(64);
    int v = 0;
    d.cuStreamWriteValue32_v2(s, a, 77, 0);
    d.cuStreamSynchronize(s);
    d.cuMemcpyDtoH_v2(&v, a, 4);
    drop_stream(s), d.cuMemFree_v2(a);
    return v;
}
CASE(write_value_64, 1) {
    Handle s = stream_of(0);
    Address a = device(64);
    U64 v = 0;
    d.cuStreamWriteValue64_v2(s, a, 1ull << 40, 0);
    d.cuStreamSynchronize(s);
    d.cuMemcpyDtoH_v2(&v, a, 8);
    drop_stream(s), d.cuMemFree_v2(a);
    return v == 1ull << 40;
}
CASE(wait_value_holds_the_stream, 600000) {
    Handle s = stream_of(1), t = stream_of(1);
    Address a = device(64);
    d.cuMemsetD32_v2(a, 0, 16);
    d.cuCtxSynchronize();
    d.cuStreamWaitValue32_v2(s, a, 5, 0);
    usleep(2000);
    Result before = d.cuStreamQuery(s);
    d.cuStreamWriteValue32_v2(t, a, 5, 0);
    Result after = d.cuStreamSynchronize(s);
    drop_stream(s), drop_stream(t), d.cuMemFree_v2(a);
    return both(before, after);
}
CASE(wait_value_equal_64, 0) {
    Handle s = stream_of(1);
    Address a = device(64);
    d.cuMemsetD32_v2(a, 0, 16);
    Result r = d.cuStreamWaitValue64_v2(s, a, 0, 1);
    drop_stream(s), d.cuMemFree_v2(a);
    return r;
}
CASE(wait_value_flags, 1) { Address a = device(64); Result r = d.cuStreamWaitValue32_v2(NULL, a, 0, 0x100); d.cuMemFree_v2(a); return r; }
CASE(write_value_misaligned, 1) { Address a = device(64); Result r = d.cuStreamWriteValue32_v2(NULL, a + 2, 0, 0); d.cuMemFree_v2(a); return r; }

CASE(write_value_without_barrier, 1) { Address a = device(64); Result r = d.cuStreamWriteValue32_v2(NULL, a, 0, 1); d.cuCtxSynchronize(), d.cuMemFree_v2(a); return r; }

/* ---- batches of memory operations ---- */

enum { WAIT_32 = 1, WRITE_32, FLUSH_REMOTE_WRITES, WAIT_64, WRITE_64, BARRIER };
static Result put_batch(Handle s, U32 count, BatchMemOp first) {
    BatchMemOp operations[300];
    for (U32 i = 0; i < 300; i++) operations[i] = first;
    return d.cuStreamBatchMemOp_v2(s, count, operations, 0);
}
static BatchMemOp barrier(U32 type) { BatchMemOp op = {.kind = BARRIER, .barrier_flags = type}; return op; }
static Result batch_of(U32 count, BatchMemOp first) { Handle s = stream_of(1); Result r = put_batch(s, count, first); drop_stream(s); return r; }
CASE(batch_barrier_of_the_system, 0) { return batch_of(1, barrier(0)); }
CASE(batch_barrier_of_the_gpu, 0) { return batch_of(1, barrier(1)); }
CASE(batch_barrier_unknown, 1) { return batch_of(1, barrier(7)); }
CASE(batch_barriers, 0) { return batch_of(48, barrier(0)); }
CASE(batch_barriers_per_thread, 0) { BatchMemOp op = barrier(0); Result r = d.cuStreamBatchMemOp_v2_ptsz(NULL, 1, &op, 0); d.cuCtxSynchronize(); return r; }
CASE(batch_barriers_hold_the_stream, 600000) {
    Handle s = stream_of(1);
    for (int i = 0; i < 8; i++) put_batch(s, 200, barrier(0));
    Result before = d.cuStreamQuery(s);
    d.cuStreamSynchronize(s);
    Result after = d.cuStreamQuery(s);
    drop_stream(s);
    return both(before, after);
}
CASE(batch_of_nothing, 0) { return batch_of(0, barrier(0)); }
CASE(batch_of_255, 0) { return batch_of(255, barrier(0)); }
CASE(batch_of_256, 1) { return batch_of(256, barrier(0)); }
CASE(batch_of_257, 1) { return batch_of(257, barrier(0)); }
CASE(batch_unknown, 1) { BatchMemOp op = {.kind = 99}; return batch_of(1, op); }
CASE(batch_flags, 1) { Handle s = stream_of(1); BatchMemOp op = barrier(0); Result r = d.cuStreamBatchMemOp_v2(s, 1, &op, 1); drop_stream(s); return r; }
CASE(batch_flush_remote_writes, 801) { BatchMemOp op = {.kind = FLUSH_REMOTE_WRITES}; return batch_of(1, op); }
/* What a batch writes, 32 bits and 64 behind a barrier; and whether anything of it when its last operation is unknown. */
static long long batch_writes(bool with_unknown) {
    Handle s = stream_of(1);
    Address a = device(64);
    U64 v[2] = {0, 0};
    d.cuMemsetD32_v2(a, 0, 16);
    d.cuCtxSynchronize();
    BatchMemOp operations[] = {{.kind = WRITE_32, .address = a, .value = 7}, barrier(0), {.kind = WRITE_64, .address = a + 8, .value = 1ull << 40},
                               {.kind = with_unknown ? 99 : WAIT_32, .address = a, .value = 7, .flags = 1}};
    Result r = d.cuStreamBatchMemOp_v2(s, 4, operations, 0);
    d.cuStreamSynchronize(s);
    d.cuMemcpyDtoH_v2(v, a, 16);
    drop_stream(s), d.cuMemFree_v2(a);
    return 100LL * r + 10 * (v[0] == 7) + (v[1] == 1ull << 40);
}
CASE(batch_writes_arrive, 11) { return batch_writes(false); }
CASE(batch_with_unknown_does_nothing, 100) { return batch_writes(true); }
static Result batch_write(Address offset, U32 flags) { Address a = device(64); BatchMemOp op = {.kind = WRITE_32, .address = a + offset, .flags = flags}; Result r = batch_of(1, op); d.cuMemFree_v2(a); return r; }
CASE(batch_write_without_barrier, 1) { return batch_write(0, 1); }
CASE(batch_write_misaligned, 1) { return batch_write(2, 0); }
CASE(batch_wait_holds_the_stream, 600000) {
    Handle s = stream_of(1), t = stream_of(1);
    Address a = device(64);
    d.cuMemsetD32_v2(a, 0, 16);
    d.cuCtxSynchronize();
    BatchMemOp wait = {.kind = WAIT_64, .address = a, .value = 5};
    Result r = put_batch(s, 1, wait);
    usleep(2000);
    Result before = d.cuStreamQuery(s);
    d.cuStreamWriteValue64_v2(t, a, 5, 0);
    d.cuStreamSynchronize(s);
    Result after = d.cuStreamQuery(s);
    drop_stream(s), drop_stream(t), d.cuMemFree_v2(a);
    return r ? -r : both(before, after);
}

CASE(event_flags_unknown, 1) { Handle e; return d.cuEventCreate(&e, 0x100); }
CASE(event_interprocess_needs_no_timing, 1) { Handle e; return d.cuEventCreate(&e, 4); }
CASE(event_create_null, 1) { return d.cuEventCreate(NULL, 0); }
CASE(event_query_new, 0) { Handle e = event_of(0); Result r = d.cuEventQuery(e); d.cuEventDestroy_v2(e); return r; }
CASE(event_sync_new, 0) { Handle e = event_of(0); Result r = d.cuEventSynchronize(e); d.cuEventDestroy_v2(e); return r; }
CASE(event_query_busy, 600) {
    Handle s = stream_of(0), e = event_of(0);
    launch_spin(s, SPIN_NS);
    d.cuEventRecord(e, s);
    Result r = d.cuEventQuery(e);
    drop_stream(s), d.cuEventDestroy_v2(e);
    return r;
}
CASE(event_sync_waits, 1) {
    Handle s = stream_of(0), e = event_of(1);
    double start = now_ms();
    launch_spin(s, SPIN_NS);
    d.cuEventRecord(e, s);
    d.cuEventSynchronize(e);
    double took = now_ms() - start;
    drop_stream(s), d.cuEventDestroy_v2(e);
    return took >= 19;
}
CASE(event_record_with_flags, 0) { Handle e = event_of(0); Result r = d.cuEventRecordWithFlags(e, NULL, 0); d.cuEventDestroy_v2(e); return r; }
CASE(event_record_flags_unknown, 1) { Handle e = event_of(0); Result r = d.cuEventRecordWithFlags(e, NULL, 8); d.cuEventDestroy_v2(e); return r; }
static long long elapsed(U32 first_flags, U32 second_flags, bool record, bool wait) {
    Handle s = stream_of(0), a = event_of(first_flags), b = event_of(second_flags);
    float ms = -1;
    if (record) d.cuEventRecord(a, s);
    launch_spin(s, SPIN_NS);
    if (record) d.cuEventRecord(b, s);
    if (wait) d.cuStreamSynchronize(s);
    Result result = d.cuEventElapsedTime(&ms, a, b);
    drop_stream(s), d.cuEventDestroy_v2(a), d.cuEventDestroy_v2(b);
    return result ? result : (ms >= 19.5 && ms < 60) ? 1 : -1;
}
CASE(elapsed_of_a_spin, 1) { return elapsed(0, 0, true, true); }
CASE(elapsed_untimed, 400) { return elapsed(2, 0, true, true); }
CASE(elapsed_untimed_end, 400) { return elapsed(0, 2, true, true); }
CASE(elapsed_not_recorded, 400) { return elapsed(0, 0, false, true); }
CASE(elapsed_not_ready, 600) { return elapsed(0, 0, true, false); }
CASE(elapsed_null_not_recorded, 400) { Handle e = event_of(0); Result r = d.cuEventElapsedTime(NULL, e, e); d.cuEventDestroy_v2(e); return r; }
CASE(elapsed_null, 400) { Handle e = event_of(0); d.cuEventRecord(e, NULL); d.cuCtxSynchronize(); Result r = d.cuEventElapsedTime(NULL, e, e); d.cuEventDestroy_v2(e); return r; }
CASE(wait_event_holds_the_stream, 600) {
    Handle s = stream_of(1), t = stream_of(1), e = event_of(2);
    launch_spin(s, SPIN_NS);
    d.cuEventRecord(e, s);
    d.cuStreamWaitEvent(t, e, 0);
    usleep(2000);
    Result r = d.cuStreamQuery(t);
    drop_stream(s), drop_stream(t), d.cuEventDestroy_v2(e);
    return r;
}
CASE(wait_event_new, 0) { Handle e = event_of(2); Result r = d.cuStreamWaitEvent(NULL, e, 0); d.cuEventDestroy_v2(e); return r; }
CASE(wait_event_flags, 1) { Handle e = event_of(2); Result r = d.cuStreamWaitEvent(NULL, e, 8); d.cuEventDestroy_v2(e); return r; }
CASE(event_destroyed_while_recorded, 0) {
    Handle s = stream_of(0), e = event_of(0);
    launch_spin(s, SPIN_NS);
    d.cuEventRecord(e, s);
    Result r = d.cuEventDestroy_v2(e);
    drop_stream(s);
    return r;
}
ALONE(event_null, 400) { return d.cuEventQuery(NULL); }

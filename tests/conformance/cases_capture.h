/* Stream capture and graphs. Results of a call and of ending the capture are told as 1000 * call + end. */

enum { GLOBAL, THREAD_LOCAL, RELAXED };

static long long call_while_capturing(int mode, Result (*call)(Handle stream)) {
    Handle s = stream_of(1);
    d.cuStreamBeginCapture_v2(s, mode);
    Result result = call(s);
    Result end = end_capture(s);
    drop_stream(s);
    return both(result, end);
}
static Result call_alloc(Handle s) { (void)s; Address a = 0; Result r = d.cuMemAlloc_v2(&a, 4096); if (!r) d.cuMemFree_v2(a); return r; }
static Result call_host_alloc(Handle s) { (void)s; void *p = NULL; return d.cuMemHostAlloc(&p, 4096, 0); }
static Handle idle_event;
static Result call_event_query(Handle s) { (void)s; return d.cuEventQuery(idle_event); }
static Result call_event_sync(Handle s) { (void)s; return d.cuEventSynchronize(idle_event); }
static Result call_query(Handle s) { return d.cuStreamQuery(s); }
static Result call_sync(Handle s) { return d.cuStreamSynchronize(s); }
static Handle idle_stream;
static Result call_query_other(Handle s) { (void)s; return d.cuStreamQuery(idle_stream); }
static Result call_sync_other(Handle s) { (void)s; return d.cuStreamSynchronize(idle_stream); }
static Result call_context_sync(Handle s) { (void)s; return d.cuCtxSynchronize(); }
static Result call_launch_null(Handle s) { (void)s; return launch_spin(NULL, 100); }
static Result call_launch(Handle s) { return launch_spin(s, 100); }
static Address area;
static void *pinned_area;
static char pageable_area[4096] __attribute__((aligned(4096)));
static Result call_memcpy(Handle s) { (void)s; return d.cuMemcpyHtoD_v2(area, pageable_area, 4096); }
static Result call_copy_pinned(Handle s) { return d.cuMemcpyHtoDAsync_v2(area, pinned_area, 4096, s); }
static Result call_copy_pageable(Handle s) { return d.cuMemcpyHtoDAsync_v2(area, pageable_area, 4096, s); }
static Result call_copy_back_pageable(Handle s) { return d.cuMemcpyDtoHAsync_v2(pageable_area, area, 4096, s); }
static Result call_fill(Handle s) { return d.cuMemsetD8Async(area, 1, 4096, s); }
static Result call_fill_now(Handle s) { (void)s; return d.cuMemsetD8_v2(area, 1, 4096); }
static Result call_host_function(Handle s) { return d.cuLaunchHostFunc(s, set_seven, &seen); }
static Result call_callback(Handle s) { return d.cuStreamAddCallback(s, set_eight, &seen, 0); }
static Result call_write_value(Handle s) { return d.cuStreamWriteValue32_v2(s, area, 1, 0); }
static Result call_batch_write(Handle s) { BatchMemOp op = {.kind = WRITE_32, .address = area, .value = 1}; return d.cuStreamBatchMemOp_v2(s, 1, &op, 0); }
static Result call_batch_barriers(Handle s) { return put_batch(s, 4, barrier(0)); }
static Handle spare_module;
static Result call_module(Handle s) { (void)s; return d.cuModuleLoadData(&spare_module, PTX); }
static Result call_unload(Handle s) { (void)s; return d.cuModuleUnload(spare_module); }
static Address spare;
static void *spare_pinned;
static Result call_free(Handle s) { (void)s; return d.cuMemFree_v2(spare); }
static Result call_free_host(Handle s) { (void)s; return d.cuMemFreeHost(spare_pinned); }
static Result call_register(Handle s) { (void)s; return d.cuMemHostRegister_v2(pageable_area, sizeof pageable_area, 0); }
static Result call_unregister(Handle s) { (void)s; return d.cuMemHostUnregister(pageable_area); }
static Result call_copy_within_now(Handle s) { (void)s; return d.cuMemcpyDtoD_v2(area, area + 2048, 2048); }
static Result call_copy_back_now(Handle s) { (void)s; return d.cuMemcpyDtoH_v2(pageable_area, area, 4096); }
static Result call_create(Handle s) { (void)s; AllocationProp p = on_device(); U64 h = 0; Result r = d.cuMemCreate(&h, 2 * MIB, &p, 0); if (!r) d.cuMemRelease(h); return r; }
static Result call_managed(Handle s) { (void)s; Address a = 0; Result r = d.cuMemAllocManaged(&a, 4096, 1); return r; }
static Result call_mem_info(Handle s) { (void)s; size_t a, b; return d.cuMemGetInfo_v2(&a, &b); }
static Result call_stream_create(Handle s) { (void)s; Handle t; Result r = d.cuStreamCreate(&t, 0); if (!r) d.cuStreamDestroy_v2(t); return r; }
static Result call_event_create(Handle s) { (void)s; Handle e; Result r = d.cuEventCreate(&e, 0); if (!r) d.cuEventDestroy_v2(e); return r; }
static Result call_record(Handle s) { return d.cuEventRecord(idle_event, s); }
static Result call_record_and_query(Handle s) { d.cuEventRecord(idle_event, s); return d.cuEventQuery(idle_event); }
static Result call_record_and_sync(Handle s) { d.cuEventRecord(idle_event, s); return d.cuEventSynchronize(idle_event); }
static Result call_begin(Handle s) { return d.cuStreamBeginCapture_v2(s, GLOBAL); }
static Result call_attributes(Handle s) { (void)s; int v; return d.cuPointerGetAttribute(&v, 2, area); }
static Result call_host_flags(Handle s) { (void)s; U32 v; return d.cuMemHostGetFlags(&v, pinned_area); }
static Result call_alloc_async(Handle s) { Address a; return d.cuMemAllocAsync(&a, 4096, s); }
static Result call_alloc_then_launch(Handle s) { call_alloc(s); return launch_spin(s, 100); }
static void need_areas(void) {
    if (area) return;
    area = device(4096), pinned_area = pinned(4096), idle_event = event_of(0), idle_stream = stream_of(1);
    d.cuEventRecord(idle_event, idle_stream);
    d.cuCtxSynchronize();
}
/* Each with a fresh recording of the event, which calls above may have captured. */
static long long while_capturing(int mode, Result (*call)(Handle)) {
    need_areas();
    d.cuEventRecord(idle_event, idle_stream);
    d.cuCtxSynchronize();
    return call_while_capturing(mode, call);
}
CASE(capture_nothing, 0) { need_areas(); return call_while_capturing(GLOBAL, call_event_create); }
CASE(capture_launch, 0) { return while_capturing(GLOBAL, call_launch); }
CASE(capture_alloc_global, 900901) { return while_capturing(GLOBAL, call_alloc); }
CASE(capture_alloc_thread_local, 900901) { return while_capturing(THREAD_LOCAL, call_alloc); }
CASE(capture_alloc_relaxed, 0) { return while_capturing(RELAXED, call_alloc); }
CASE(capture_host_alloc_global, 900901) { return while_capturing(GLOBAL, call_host_alloc); }
CASE(capture_host_alloc_thread_local, 900901) { return while_capturing(THREAD_LOCAL, call_host_alloc); }
CASE(capture_host_alloc_relaxed, 0) { return while_capturing(RELAXED, call_host_alloc); }
CASE(capture_event_query_global, 900901) { return while_capturing(GLOBAL, call_event_query); }
CASE(capture_event_query_relaxed, 0) { return while_capturing(RELAXED, call_event_query); }
CASE(capture_event_sync_global, 900901) { return while_capturing(GLOBAL, call_event_sync); }
CASE(capture_stream_query, 900901) { return while_capturing(GLOBAL, call_query); }
CASE(capture_stream_sync, 900901) { return while_capturing(GLOBAL, call_sync); }
CASE(capture_stream_query_relaxed, 900901) { return while_capturing(RELAXED, call_query); }
CASE(capture_stream_sync_relaxed, 900901) { return while_capturing(RELAXED, call_sync); }
CASE(capture_query_other_stream, 900901) { return while_capturing(GLOBAL, call_query_other); }
CASE(capture_sync_other_stream, 900901) { return while_capturing(GLOBAL, call_sync_other); }
CASE(capture_query_other_stream_relaxed, 0) { return while_capturing(RELAXED, call_query_other); }
CASE(capture_context_sync, 900901) { return while_capturing(GLOBAL, call_context_sync); }
CASE(capture_context_sync_relaxed, 900901) { return while_capturing(RELAXED, call_context_sync); }
CASE(capture_launch_on_null, 0) { return while_capturing(GLOBAL, call_launch_null); }
CASE(capture_memcpy, 0) { return while_capturing(GLOBAL, call_memcpy); }
CASE(capture_memcpy_relaxed, 0) { return while_capturing(RELAXED, call_memcpy); }
CASE(capture_fill_now, 0) { return while_capturing(GLOBAL, call_fill_now); }
CASE(capture_copy_pinned, 0) { return while_capturing(GLOBAL, call_copy_pinned); }
CASE(capture_copy_pageable, 0) { return while_capturing(GLOBAL, call_copy_pageable); }
CASE(capture_copy_back_pageable, 0) { return while_capturing(GLOBAL, call_copy_back_pageable); }
CASE(capture_fill, 0) { return while_capturing(GLOBAL, call_fill); }
CASE(capture_host_function, 0) { return while_capturing(GLOBAL, call_host_function); }
CASE(capture_callback, 900901) { return while_capturing(GLOBAL, call_callback); }
CASE(capture_write_value, 0) { return while_capturing(GLOBAL, call_write_value); }
CASE(capture_batch_write, 0) { return while_capturing(GLOBAL, call_batch_write); }
CASE(capture_batch_barriers, 0) { return while_capturing(GLOBAL, call_batch_barriers); }
CASE(capture_copy_within_now, 0) { return while_capturing(GLOBAL, call_copy_within_now); }
CASE(capture_copy_back_now, 0) { return while_capturing(GLOBAL, call_copy_back_now); }
CASE(capture_module_load, 0) { long long r = while_capturing(GLOBAL, call_module); d.cuModuleUnload(spare_module); return r; }
CASE(capture_module_unload, 900901) {
    d.cuModuleLoadData(&spare_module, PTX);
    long long r = while_capturing(GLOBAL, call_unload);
    if (r) d.cuModuleUnload(spare_module);
    return r;
}
CASE(capture_free, 900901) { spare = device(64); long long r = while_capturing(GLOBAL, call_free); if (r) d.cuMemFree_v2(spare); return r; }
CASE(capture_free_relaxed, 0) { spare = device(64); return while_capturing(RELAXED, call_free); }
CASE(capture_free_host, 900901) { spare_pinned = pinned(64); long long r = while_capturing(GLOBAL, call_free_host); if (r) d.cuMemFreeHost(spare_pinned); return r; }
CASE(capture_free_host_relaxed, 0) { spare_pinned = pinned(64); return while_capturing(RELAXED, call_free_host); }
CASE(capture_register, 900901) { long long r = while_capturing(GLOBAL, call_register); if (!(r / 1000)) d.cuMemHostUnregister(pageable_area); return r; }
CASE(capture_unregister, 900901) {
    d.cuMemHostRegister_v2(pageable_area, sizeof pageable_area, 0);
    long long r = while_capturing(GLOBAL, call_unregister);
    if (r / 1000) d.cuMemHostUnregister(pageable_area);
    return r;
}
CASE(capture_create, 0) { return while_capturing(GLOBAL, call_create); }
CASE(capture_managed, 900901) { return while_capturing(GLOBAL, call_managed); }
CASE(capture_mem_info, 0) { return while_capturing(GLOBAL, call_mem_info); }
CASE(capture_stream_create, 0) { return while_capturing(GLOBAL, call_stream_create); }
CASE(capture_record, 0) { return while_capturing(GLOBAL, call_record); }
CASE(capture_query_of_captured_event, 907901) { return while_capturing(RELAXED, call_record_and_query); }
CASE(capture_sync_of_captured_event, 907901) { return while_capturing(RELAXED, call_record_and_sync); }
CASE(capture_begin_twice, 401000) { return while_capturing(GLOBAL, call_begin); }
CASE(capture_pointer_attribute, 0) { return while_capturing(GLOBAL, call_attributes); }
CASE(capture_host_flags, 0) { return while_capturing(GLOBAL, call_host_flags); }
CASE(capture_launch_after_error, 901901) { return while_capturing(GLOBAL, call_alloc_then_launch); }
NOTED(capture_alloc_async, 0, "the simulator has no allocation nodes") { return while_capturing(GLOBAL, call_alloc_async); }

CASE(capture_legacy_stream, 900) { return d.cuStreamBeginCapture_v2(NULL, GLOBAL); }
CASE(capture_per_thread_stream, 0) { Result r = d.cuStreamBeginCapture_v2(PER_THREAD, GLOBAL); return both(r, end_capture(PER_THREAD)); }
CASE(capture_mode_unknown, 1) { Handle s = stream_of(0); Result r = d.cuStreamBeginCapture_v2(s, 7); drop_stream(s); return r; }
CASE(capture_end_without_begin, 401) { Handle s = stream_of(0), g; Result r = d.cuStreamEndCapture(s, &g); drop_stream(s); return r; }
static long long null_stream_while_blocking_captures(Result (*call)(Handle), int mode) {
    need_areas();
    Handle s = stream_of(0);
    d.cuStreamBeginCapture_v2(s, mode);
    Result result = call(s);
    Result end = end_capture(s);
    drop_stream(s);
    return both(result, end);
}
CASE(capture_blocking_launch_on_null, 906901) { return null_stream_while_blocking_captures(call_launch_null, GLOBAL); }
CASE(capture_blocking_launch_on_null_relaxed, 906901) { return null_stream_while_blocking_captures(call_launch_null, RELAXED); }
CASE(capture_blocking_memcpy, 906901) { return null_stream_while_blocking_captures(call_memcpy, GLOBAL); }
CASE(capture_blocking_memcpy_relaxed, 906901) { return null_stream_while_blocking_captures(call_memcpy, RELAXED); }

static int mode_of_thread = GLOBAL;
static Result (*call_of_thread)(Handle);
static long long thread_call(void *unused) {
    (void)unused;
    int mode = mode_of_thread;
    d.cuThreadExchangeStreamCaptureMode(&mode);
    return call_of_thread(NULL);
}
static long long call_in_other_thread(int capture_mode, int thread_mode, Result (*call)(Handle)) {
    Handle s = stream_of(1);
    mode_of_thread = thread_mode;
    call_of_thread = call;
    d.cuStreamBeginCapture_v2(s, capture_mode);
    long long result = in_thread(thread_call, NULL);
    Result end = end_capture(s);
    drop_stream(s);
    return both(result, end);
}
static long long alloc_in_other_thread(int capture_mode, int thread_mode) {
    return call_in_other_thread(capture_mode, thread_mode, call_alloc);
}
CASE(capture_global_other_thread, 900901) { return alloc_in_other_thread(GLOBAL, GLOBAL); }
CASE(capture_global_other_thread_local, 0) { return alloc_in_other_thread(GLOBAL, THREAD_LOCAL); }
CASE(capture_global_other_relaxed, 0) { return alloc_in_other_thread(GLOBAL, RELAXED); }
/* What the pool's thread may be in the middle of when a capture begins. */
CASE(capture_global_other_relaxed_host_alloc, 0) { return call_in_other_thread(GLOBAL, RELAXED, call_host_alloc); }
CASE(capture_global_other_relaxed_free_host, 0) { spare_pinned = pinned(64); return call_in_other_thread(GLOBAL, RELAXED, call_free_host); }
CASE(capture_thread_local_other_thread, 0) { return alloc_in_other_thread(THREAD_LOCAL, GLOBAL); }
CASE(capture_relaxed_other_thread, 0) { return alloc_in_other_thread(RELAXED, GLOBAL); }
CASE(capture_own_mode_relaxed, 0) {
    int mode = RELAXED;
    d.cuThreadExchangeStreamCaptureMode(&mode);
    long long result = while_capturing(GLOBAL, call_alloc);
    d.cuThreadExchangeStreamCaptureMode(&mode);
    return result;
}
CASE(capture_exchange_gives_the_old_mode, 2) {
    int mode = RELAXED, other;
    d.cuThreadExchangeStreamCaptureMode(&mode);
    other = mode;
    d.cuThreadExchangeStreamCaptureMode(&other);
    return other * 10 + mode == 20 ? 2 : -1;
}
static long long thread_end(void *stream) { return end_capture(stream); }
static long long end_in_other_thread(int mode) {
    Handle s = stream_of(1);
    d.cuStreamBeginCapture_v2(s, mode);
    long long result = in_thread(thread_end, s);
    if (result) end_capture(s);
    drop_stream(s);
    return result;
}
CASE(capture_end_in_other_thread, 908) { return end_in_other_thread(GLOBAL); }
CASE(capture_end_in_other_thread_relaxed, 0) { return end_in_other_thread(RELAXED); }

static int capture_status(Handle s) { int v = -1; Result r = d.cuStreamIsCapturing(s, &v); return r ? -r : v; }
CASE(capture_status_none, 0) { Handle s = stream_of(1); int v = capture_status(s); drop_stream(s); return v; }
CASE(capture_status_active, 1) { Handle s = stream_of(1); d.cuStreamBeginCapture_v2(s, 0); int v = capture_status(s); end_capture(s); drop_stream(s); return v; }
CASE(capture_status_invalidated, 2) { Handle s = stream_of(1); d.cuStreamBeginCapture_v2(s, 0); call_alloc(s); int v = capture_status(s); end_capture(s); drop_stream(s); return v; }
CASE(capture_status_of_null, -906) { Handle s = stream_of(0); d.cuStreamBeginCapture_v2(s, RELAXED); int v = capture_status(NULL); end_capture(s); drop_stream(s); return v; }
CASE(capture_info, 1111) {
    Handle s = stream_of(1), graph = NULL;
    int status = 0;
    U64 id = 0;
    const Handle *nodes = NULL;
    size_t count = 9;
    d.cuStreamBeginCapture_v2(s, GLOBAL);
    launch_spin(s, 100);
    d.cuStreamGetCaptureInfo_v2(s, &status, &id, &graph, &nodes, &count);
    end_capture(s);
    drop_stream(s);
    return (status == 1) * 1000 + (id != 0) * 100 + (graph != NULL) * 10 + (count == 1);
}

/* A second stream joins through an event; `join` brings it back. */
static long long fork_and_join(bool join, size_t *node_count) {
    Handle s = stream_of(1), t = stream_of(1), forked = event_of(2), joined = event_of(2), graph = NULL;
    d.cuStreamBeginCapture_v2(s, GLOBAL);
    launch_spin(s, 100);
    d.cuEventRecord(forked, s);
    d.cuStreamWaitEvent(t, forked, 0);
    launch_spin(t, 100);
    launch_spin(s, 100);
    d.cuEventRecord(joined, t);
    if (join) d.cuStreamWaitEvent(s, joined, 0);
    Result result = d.cuStreamEndCapture(s, &graph);
    if (graph && node_count) d.cuGraphGetNodes(graph, NULL, node_count);
    if (graph) d.cuGraphDestroy(graph);
    drop_stream(s), drop_stream(t), d.cuEventDestroy_v2(forked), d.cuEventDestroy_v2(joined);
    return result;
}
CASE(capture_fork_and_join, 3) { size_t n = 0; long long r = fork_and_join(true, &n); return r ? r : (long long)n; }
CASE(capture_fork_unjoined, 904) { return fork_and_join(false, NULL); }
CASE(capture_wait_for_outside, 905901) {
    Handle s = stream_of(1), t = stream_of(1), e = event_of(2);
    launch_spin(t, 100);
    d.cuEventRecord(e, t);
    d.cuStreamBeginCapture_v2(s, GLOBAL);
    Result r = d.cuStreamWaitEvent(s, e, 0);
    Result end = end_capture(s);
    drop_stream(s), drop_stream(t), d.cuEventDestroy_v2(e);
    return both(r, end);
}
CASE(capture_merge, 902) {
    Handle s = stream_of(1), t = stream_of(1), e = event_of(2);
    d.cuStreamBeginCapture_v2(s, GLOBAL), d.cuStreamBeginCapture_v2(t, GLOBAL);
    launch_spin(s, 100);
    d.cuEventRecord(e, s);
    Result r = d.cuStreamWaitEvent(t, e, 0);
    end_capture(s), end_capture(t);
    drop_stream(s), drop_stream(t), d.cuEventDestroy_v2(e);
    return r;
}
CASE(capture_end_in_joined_stream, 903) {
    Handle s = stream_of(1), t = stream_of(1), e = event_of(2);
    d.cuStreamBeginCapture_v2(s, GLOBAL);
    d.cuEventRecord(e, s);
    d.cuStreamWaitEvent(t, e, 0);
    Result r = end_capture(t);
    end_capture(s);
    drop_stream(s), drop_stream(t), d.cuEventDestroy_v2(e);
    return r;
}

static Handle graph_of_fill(unsigned char value, size_t *nodes) {
    need_areas();
    Handle s = stream_of(1), graph = NULL, exec = NULL;
    d.cuStreamBeginCapture_v2(s, GLOBAL);
    d.cuMemsetD8Async(area, value, 4096, s);
    d.cuMemcpyDtoHAsync_v2(pinned_area, area, 4096, s);
    d.cuStreamEndCapture(s, &graph);
    if (nodes) d.cuGraphGetNodes(graph, NULL, nodes);
    d.cuGraphInstantiateWithFlags(&exec, graph, 0);
    d.cuGraphDestroy(graph);
    drop_stream(s);
    return exec;
}
CASE(graph_nodes, 2) { size_t n = 0; d.cuGraphExecDestroy(graph_of_fill(1, &n)); return n; }
CASE(graph_does_nothing_before_launch, 0) {
    need_areas();
    memset(pinned_area, 0, 4096);
    d.cuGraphExecDestroy(graph_of_fill(9, NULL));
    d.cuCtxSynchronize();
    return ((unsigned char *)pinned_area)[4095];
}
CASE(graph_launch, 5) {
    Handle exec = graph_of_fill(5, NULL);
    memset(pinned_area, 0, 4096);
    Result r = d.cuGraphLaunch(exec, NULL);
    d.cuCtxSynchronize();
    d.cuGraphExecDestroy(exec);
    return r ? r : ((unsigned char *)pinned_area)[4095];
}
CASE(graph_upload, 0) { Handle e = graph_of_fill(5, NULL); Result r = d.cuGraphUpload(e, NULL); d.cuCtxSynchronize(); d.cuGraphExecDestroy(e); return r; }
CASE(graph_instantiate_flags, 1) { Handle g, e; d.cuGraphCreate(&g, 0); Result r = d.cuGraphInstantiateWithFlags(&e, g, 1 << 20); d.cuGraphDestroy(g); return r; }
CASE(graph_instantiate_with_params, 0) {
    Handle g, e = NULL;
    InstantiateParams params;
    memset(&params, 0, sizeof params);
    d.cuGraphCreate(&g, 0);
    Result r = d.cuGraphInstantiateWithParams(&e, g, &params);
    if (e) d.cuGraphExecDestroy(e);
    d.cuGraphDestroy(g);
    return r;
}
CASE(graph_empty_launch, 0) {
    Handle g, e;
    d.cuGraphCreate(&g, 0);
    d.cuGraphInstantiateWithFlags(&e, g, 0);
    Result r = d.cuGraphLaunch(e, NULL);
    d.cuCtxSynchronize();
    d.cuGraphExecDestroy(e), d.cuGraphDestroy(g);
    return r;
}
CASE(graph_create_flags, 1) { Handle g; return d.cuGraphCreate(&g, 1); }
ALONE(graph_launch_null, 1) { return d.cuGraphLaunch(NULL, NULL); }
CASE(graph_launch_in_capture, 900901) {
    Handle exec = graph_of_fill(5, NULL), s = stream_of(1);
    d.cuStreamBeginCapture_v2(s, GLOBAL);
    Result r = d.cuGraphLaunch(exec, s);
    Result end = end_capture(s);
    drop_stream(s), d.cuGraphExecDestroy(exec);
    return both(r, end);
}
CASE(graph_capture_to_graph, 2) {
    if (!d.cuStreamBeginCaptureToGraph) return ABSENT;
    Handle graph, s = stream_of(1), out = NULL;
    size_t nodes = 0;
    d.cuGraphCreate(&graph, 0);
    d.cuStreamBeginCaptureToGraph(s, graph, NULL, NULL, 0, GLOBAL);
    launch_spin(s, 100), launch_spin(s, 100);
    d.cuStreamEndCapture(s, &out);
    d.cuGraphGetNodes(graph, NULL, &nodes);
    d.cuGraphDestroy(graph);
    drop_stream(s);
    return out == graph ? (long long)nodes : -1;
}

/* A kernel that keeps the GPU busy for so many nanoseconds, as PTX: `spin(unsigned long long duration_ns)`. */
#ifndef SPIN_H
#define SPIN_H

static const char SPIN_MODULE[] =
    ".version 7.0\n"
    ".target sm_70\n"
    ".address_size 64\n"
    ".visible .entry spin(.param .u64 duration_ns)\n"
    "{\n"
    "    .reg .pred %again;\n"
    "    .reg .b64 %begin, %now, %span, %duration;\n"
    "    ld.param.u64 %duration, [duration_ns];\n"
    "    mov.u64 %begin, %globaltimer;\n"
    "loop:\n"
    "    mov.u64 %now, %globaltimer;\n"
    "    sub.u64 %span, %now, %begin;\n"
    "    setp.lt.u64 %again, %span, %duration;\n"
    "    @%again bra loop;\n"
    "    ret;\n"
    "}\n";

#endif

/* Makes a peer that asks Linux for AMX go without it: the request fails, everything else is as it was.
 *
 * cc -shared -fPIC -O1 scripts/peers/no_amx.c -o no_amx.so -ldl; LD_PRELOAD=$PWD/no_amx.so bench_llamacpp.py ...
 *
 * llama-cpp-python 0.3.36 ends with an illegal instruction (tileloadd) on its Q4_0 prompts on a machine with AMX. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/syscall.h>

long syscall(long number, ...)
{
    enum { REQUEST_XCOMP_PERMISSION = 0x1023, N_ARGUMENTS = 6 };
    long a[N_ARGUMENTS];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < N_ARGUMENTS; i++) a[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_arch_prctl && a[0] == REQUEST_XCOMP_PERMISSION) return -1;
    static long (*real)(long, ...);
    if (real == NULL) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

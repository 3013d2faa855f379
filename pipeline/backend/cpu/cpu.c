/* The CPU backend: memory, and which kernels this CPU gets. */
#include "backend/cpu/cpu.h"

#include <omp.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

/* ---- memory: host memory, counted ---- */

/* Sits in front of each block handed out, so that free can count. */
typedef struct block_header {
    size_t bytes;
} block_header;

static size_t held_bytes(const qs_cpu *cpu)
{
    return cpu->used_bytes + qs_arena_bytes(cpu->arena) + cpu->engine->held_bytes(cpu->gemm);
}

static void note_peak(qs_cpu *cpu)
{
    size_t bytes = held_bytes(cpu);
    if (bytes > cpu->peak_bytes) cpu->peak_bytes = bytes;
}

static qs_err cpu_alloc(qs_backend *backend, void **out, size_t bytes, const char *what)
{
    char *block;
    *out = NULL;
    if (bytes > SIZE_MAX - QS_MEM_ALIGN) return qs_fail(QS_E_RESOURCE, "allocate %s: size overflows", what);
    qs_err err = qs_mem_alloc(&block, bytes + QS_MEM_ALIGN, what);
    if (err != QS_OK) return err;
    ((block_header *)(void *)block)->bytes = bytes;
    qs_cpu_of(backend)->used_bytes += bytes;
    note_peak(qs_cpu_of(backend));
    *out = block + QS_MEM_ALIGN;
    return QS_OK;
}

static void cpu_free(qs_backend *backend, void *pointer)
{
    char *block = (char *)pointer - QS_MEM_ALIGN;
    qs_cpu_of(backend)->used_bytes -= ((block_header *)(void *)block)->bytes;
    qs_mem_free(block);
}

static qs_err cpu_copy(qs_backend *backend, void *dst, const void *src, size_t bytes)
{
    (void)backend;
    memcpy(dst, src, bytes);
    return QS_OK;
}

static qs_err cpu_sync(qs_backend *backend)
{
    (void)backend;
    return QS_OK;
}

/* There is one stream, that of the calls. */
static qs_err cpu_load_beside(qs_backend *backend, qs_load_step step)
{
    (void)backend;
    (void)step;
    return QS_OK;
}

static void cpu_get_memory(const qs_backend *backend, qs_backend_memory *memory)
{
    qs_cpu *cpu = qs_cpu_of(backend);
    note_peak(cpu);
    *memory = (qs_backend_memory){
        .total_bytes = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE),
        .free_bytes = qs_mem_available_bytes(),
        .used_bytes = held_bytes(cpu),
        .peak_bytes = cpu->peak_bytes,
    };
}

/* ---- what only a device has ---- */

static qs_err no_device(const qs_backend *backend, const char *what)
{
    return qs_fail(QS_E_UNSUPPORTED, "%s: backend %s has no device of its own", what, backend->ops->name);
}

static qs_err cpu_set_budget(qs_backend *backend, size_t bytes)
{
    (void)bytes;
    return no_device(backend, "set memory budget");
}

static qs_err cpu_record_start(qs_backend *backend) { return no_device(backend, "record ops"); }

static qs_err cpu_record_stop(qs_backend *backend, void **out)
{
    (void)out;
    return no_device(backend, "record ops");
}

static qs_err cpu_play(qs_backend *backend, void *recording)
{
    (void)recording;
    return no_device(backend, "play a recording");
}

static void cpu_forget(qs_backend *backend, void *recording)
{
    (void)backend;
    (void)recording;
}

qs_err qs_cpu_reserve(qs_cpu *cpu, qs_cpu_buffer *buffer, size_t bytes, const char *what)
{
    if (bytes <= buffer->bytes) return QS_OK;
    qs_cpu_release(cpu, buffer);
    qs_err err = qs_arena_alloc(cpu->arena, &buffer->data, bytes, what);
    if (err != QS_OK) return err;
    buffer->bytes = bytes;
    note_peak(cpu);
    return QS_OK;
}

void qs_cpu_release(qs_cpu *cpu, qs_cpu_buffer *buffer)
{
    qs_arena_free(cpu->arena, buffer->data);
    *buffer = (qs_cpu_buffer){0};
}

/* ---- creation ---- */

/* "model name : ..." of the first CPU; the kernel's own words. */
static void read_cpu_name(char *name, size_t name_bytes)
{
    (void)snprintf(name, name_bytes, "unknown CPU");
    FILE *file = fopen("/proc/cpuinfo", "re");
    if (file == NULL) return;
    char line[QS_BACKEND_TEXT_BYTES];
    while (fgets(line, sizeof line, file) != NULL) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || colon == NULL) continue;
        line[strcspn(line, "\n")] = '\0';
        (void)snprintf(name, name_bytes, "%s", colon + 1 + strspn(colon + 1, " "));
        break;
    }
    (void)fclose(file);
}

static void cpu_destroy(qs_backend *backend)
{
    qs_cpu *cpu = qs_cpu_of(backend);
    if (cpu == NULL) return;
    if (cpu->gemm != NULL) cpu->engine->destroy(cpu->gemm);
    qs_cpu_buffer *buffers[] = {&cpu->rows, &cpu->x, &cpu->x_row, &cpu->x_sums, &cpu->addend, &cpu->rope_inv_freq,
                                &cpu->rope_cosines, &cpu->rope_sines, &cpu->coded, &cpu->codes16, &cpu->scales,
                                &cpu->outliers, &cpu->columns, &cpu->part, &cpu->unpacked};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) qs_cpu_release(cpu, buffers[i]);
    qs_arena_destroy(cpu->arena);
    qs_team_destroy(cpu->team);
    qs_mem_free(cpu);
}

/* How far up the ladder of instruction sets a backend goes. */
typedef enum kernel_level { LEVEL_REFERENCE, LEVEL_AVX2, LEVEL_AVX512 } kernel_level;

static kernel_level cpu_level(void)
{
#if defined(__x86_64__)
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (avx2) return avx512 ? LEVEL_AVX512 : LEVEL_AVX2;
#endif
    return LEVEL_REFERENCE;
}

static const char *fill_kernels(qs_cpu_kernels *kernels, kernel_level level)
{
    qs_kernels_fill_ref(kernels);
#if defined(__x86_64__)
    if (level >= LEVEL_AVX2) qs_kernels_fill_avx2(kernels);
    if (level >= LEVEL_AVX512) qs_kernels_fill_avx512(kernels);
#endif
    static const char *const names[] = {"reference", "avx2", "avx512"};
    return names[level];
}

static qs_err create_at(qs_backend *backend, int n_threads, kernel_level level, const qs_gemm_engine *engine)
{
    qs_cpu *cpu;
    char products[QS_BACKEND_TEXT_BYTES / 2];
    if (level > cpu_level())
        return qs_fail(QS_E_UNSUPPORTED, "create backend %s: this CPU lacks the instructions", backend->ops->name);
    qs_err err = QS_NEW(cpu, 1, "CPU backend");
    if (err != QS_OK) return err;
    backend->state = cpu;
    backend->n_threads = n_threads > 0 ? n_threads : omp_get_max_threads();
    backend->gemv_rows = QS_GEMV_MAX_ROWS;
    read_cpu_name(backend->device, sizeof backend->device);
    cpu->engine = engine;
    const char *name = fill_kernels(&cpu->kernels, level);
    QS_TRY(qs_arena_create(&cpu->arena));
    QS_TRY(qs_team_create(&cpu->team, backend->n_threads));
    QS_TRY(engine->create(&cpu->gemm, cpu->team, &cpu->kernels, products, sizeof products));
    (void)snprintf(backend->describe, sizeof backend->describe, "%s kernels, %s", name, products);
out:
    return err;
}

static qs_err create_reference(qs_backend *backend, int64_t device, int n_threads)
{
    (void)device;
    return create_at(backend, n_threads, LEVEL_REFERENCE, &qs_gemm_reference);
}

static qs_err create_avx2(qs_backend *backend, int64_t device, int n_threads)
{
    (void)device;
    return create_at(backend, n_threads, LEVEL_AVX2, &qs_gemm_onednn);
}

static qs_err create_best(qs_backend *backend, int64_t device, int n_threads)
{
    (void)device;
    return create_at(backend, n_threads, cpu_level(), &qs_gemm_onednn);
}

/* ---- the list of ops ---- */

#define KERNEL_ROW(label, member) {label, offsetof(qs_cpu_kernels, member)}
static const struct {
    const char *op;
    size_t offset; /* of a row that begins with its `from` */
} kernel_rows[] = {
    KERNEL_ROW("rmsnorm", rmsnorm),
    KERNEL_ROW("rope", rope),
    KERNEL_ROW("attention", attention),
    KERNEL_ROW("attention_decode", attention_decode),
    KERNEL_ROW("silu_mul", silu_mul),
    KERNEL_ROW("add", add),
    KERNEL_ROW("abs_stats", abs_stats),
    KERNEL_ROW("logit_stats", logit_stats),
    KERNEL_ROW("kld", kld),
    KERNEL_ROW("linear gemv f32", gemv_dense[QS_MATRIX_F32]),
    KERNEL_ROW("linear gemv f16", gemv_dense[QS_MATRIX_F16]),
    KERNEL_ROW("linear gemv bf16", gemv_dense[QS_MATRIX_BF16]),
    KERNEL_ROW("linear gemv int2", gemv_int[QS_CODES_2]),
    KERNEL_ROW("linear gemv int3", gemv_int[QS_CODES_3]),
    KERNEL_ROW("linear gemv int4", gemv_int[QS_CODES_4]),
    KERNEL_ROW("linear gemv int8", gemv_int[QS_CODES_8]),
    KERNEL_ROW("linear gemv nf4", gemv_format[QS_PACKED_NF4]),
    KERNEL_ROW("linear gemv fp4", gemv_format[QS_PACKED_FP4]),
    KERNEL_ROW("linear gemv llmint8", gemv_format[QS_PACKED_INT8]),
    KERNEL_ROW("linear gemv exl2", gemv_format[QS_PACKED_EXL2]),
    KERNEL_ROW("round", round),
    KERNEL_ROW("add_scaled", add_scaled),
    KERNEL_ROW("code_row", code_row),
    KERNEL_ROW("gram", gram),
    KERNEL_ROW("dequant", dequant),
    KERNEL_ROW("to_bf16", to_bf16),
    KERNEL_ROW("turn", turn),
    KERNEL_ROW("sum_groups", sum_groups),
};

static void cpu_list_ops(const qs_backend *backend, qs_op_visit visit, void *context)
{
    const qs_cpu *cpu = qs_cpu_of(backend);
    for (size_t i = 0; i < sizeof kernel_rows / sizeof *kernel_rows; i++) {
        const char *from;
        memcpy(&from, (const char *)&cpu->kernels + kernel_rows[i].offset, sizeof from);
        visit(context, kernel_rows[i].op, from);
    }
    static const char *const engine_ops[] = {"linear gemm", "gemm"};
    for (size_t i = 0; i < sizeof engine_ops / sizeof *engine_ops; i++)
        visit(context, engine_ops[i], cpu->engine->from);
    visit(context, "embed", "memcpy");
    visit(context, "sample", "reference");
}

/* Scratch of a host is not counted. */
static void cpu_decoding_need(qs_need *out, const qs_backend *backend, const qs_attention_shape *shape, int64_t batch,
                              int64_t n_ctx_cap)
{
    (void)out;
    (void)backend;
    (void)shape;
    (void)batch;
    (void)n_ctx_cap;
}

/* They differ only in how the kernel table is filled. */
#define CPU_OPS(backend_name, create_function)                                                              \
    {                                                                                                       \
        .name = backend_name, .create = create_function, .destroy = cpu_destroy, .alloc = cpu_alloc,        \
        .free = cpu_free, .upload = cpu_copy, .download = cpu_copy, .copy = cpu_copy, .sync = cpu_sync,      \
        .load_beside = cpu_load_beside,                                                                      \
        .get_memory = cpu_get_memory, .set_budget = cpu_set_budget, .record_start = cpu_record_start,       \
        .record_stop = cpu_record_stop, .play = cpu_play, .forget = cpu_forget,                              \
        .matrix_update = qs_cpu_matrix_update,                                                              \
        .matrix_destroy = qs_cpu_matrix_destroy, .matrix_need = qs_cpu_matrix_need,                          \
        .decoding_need = cpu_decoding_need, .linears = qs_cpu_linears,                                       \
        .linears_with = qs_cpu_linears_with, .embed = qs_cpu_embed,                                         \
        .rmsnorm = qs_cpu_rmsnorm, .rope = qs_cpu_rope, .attention = qs_cpu_attention,                      \
        .attention_decode = qs_cpu_attention_decode, .silu_mul = qs_cpu_silu_mul, .add = qs_cpu_add,        \
        .gram = qs_cpu_gram, .abs_stats = qs_cpu_abs_stats, .logit_stats = qs_cpu_logit_stats,              \
        .sample = qs_cpu_sample, .kld = qs_cpu_kld, .gemm = qs_cpu_gemm,                                    \
        .measure_peaks = qs_cpu_measure_peaks, .list_ops = cpu_list_ops,                                    \
    }

const qs_backend_ops qs_cpu_backend = CPU_OPS("cpu", create_best);
const qs_backend_ops qs_cpu_avx2_backend = CPU_OPS("cpu-avx2", create_avx2);
const qs_backend_ops qs_reference_backend = CPU_OPS("reference", create_reference);

/* Writes the time of every kernel, copy and fill of a process to the file that KIT_KERNELS names. The driver loads this
   library into a process that has CUDA_INJECTION64_PATH set to it; CUPTI does the rest. */

#include <cupti.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { BUFFER_BYTES = 8 << 20 };

static FILE *out;

static void CUPTIAPI request(uint8_t **buffer, size_t *size, size_t *most_records) {
    *buffer = aligned_alloc(8, BUFFER_BYTES);
    *size = *buffer ? BUFFER_BYTES : 0;
    *most_records = 0;
}

static void write_line(const char *name, uint64_t begin, uint64_t end) {
    fputc('"', out);
    for (; *name; name++)
        fputc(*name == '"' ? '\'' : *name, out);
    fprintf(out, "\",%llu,%llu\n", (unsigned long long)begin, (unsigned long long)end);
}

static void CUPTIAPI complete(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid) {
    (void)context, (void)stream, (void)size;
    CUpti_Activity *record = NULL;
    while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
        if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
            CUpti_ActivityKernel10 *kernel = (CUpti_ActivityKernel10 *)record;
            write_line(kernel->name ? kernel->name : "?", kernel->start, kernel->end);
        } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
            CUpti_ActivityMemcpy6 *copy = (CUpti_ActivityMemcpy6 *)record;
            const char *name = copy->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_HTOD   ? "copy to the device"
                               : copy->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_DTOH ? "copy to the host"
                                                                                   : "copy";
            write_line(name, copy->start, copy->end);
        } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
            CUpti_ActivityMemset4 *fill = (CUpti_ActivityMemset4 *)record;
            write_line("fill", fill->start, fill->end);
        }
    }
    free(buffer);
}

static void flush(void) {
    cuptiActivityFlushAll(1);
    fclose(out);
}

static void check(CUptiResult result, const char *what) {
    const char *text = "";
    if (result != CUPTI_SUCCESS) {
        cuptiGetResultString(result, &text);
        fprintf(stderr, "kernels: %s: %s\n", what, text);
    }
}

/* What the driver calls. */
__attribute__((visibility("default"))) int InitializeInjection(void) {
    const char *path = getenv("KIT_KERNELS");
    out = path ? fopen(path, "w") : NULL;
    if (!out)
        return 1;
    fputs("name,begin_ns,end_ns\n", out);
    check(cuptiActivityRegisterCallbacks(request, complete), "callbacks");
    check(cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL), "kernels");
    check(cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY), "copies");
    check(cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMSET), "fills");
    atexit(flush);
    return 1;
}

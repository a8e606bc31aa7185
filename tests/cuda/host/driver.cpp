// NVIDIA's driver and libraries, as far as the program calls them to launch its own kernels, with the emulator in a
// card's place. So the Rust that launches kernels runs from end to end without one: tests/cuda/host/launch.
//
// A call that a real driver would refuse is refused: what waits for an event of another stream, allocates or records an
// event while a stream is captured, and matrices that do not fit each other. Work is done when it is launched.
#include "../../../src/model/device/kernels/all.cu"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace {

using Work = std::function<void()>;

constexpr int DONE = 0, INVALID = 1, NOT_FOUND = 500, CAPTURE_UNSUPPORTED = 900, CAPTURE_ISOLATION = 905;

struct Stream {
    bool is_captured = false;
    std::vector<Work> captured;
};

struct Graph {
    std::vector<Work> steps;
};

struct Kernel {
    size_t bytes;
    void (*run)(const void *arguments);
    int most_shared = 48 << 10;
};

std::recursive_mutex lock;
unsigned seed = 1;

int refused(const char *why, int code) {
    std::fprintf(stderr, "emulated driver: %s\n", why);
    return code;
}

// Runs work, or keeps it for the graph that its stream is captured into.
int begin(void *stream, Work work) {
    std::lock_guard<std::recursive_mutex> locked(lock);
    Stream *on = static_cast<Stream *>(stream);
    if (on && on->is_captured)
        on->captured.push_back(work);
    else
        work();
    return DONE;
}

template <class A, void (*run)(const A &)> Kernel kernel() {
    return {sizeof(A), [](const void *arguments) { run(*static_cast<const A *>(arguments)); }};
}

#define ENTRIES(name, T) \
    {"layer_norm_" #name, kernel<LayerNormArguments, layer_norm<T>>()}, \
        {"activate_" #name, kernel<ActivationArguments, activate<T>>()}, \
        {"unfold_" #name, kernel<UnfoldArguments, unfold<T>>()}, {"pool_" #name, kernel<PoolArguments, pool<T>>()}, \
        {"own_heads_" #name, kernel<OwnHeadsArguments, own_heads<T>>()},
#define OF_WIDTH(dim) \
    {"attention_f16_" #dim, kernel<AttentionArguments, attention_16<f16, dim>>()}, \
        {"attention_bf16_" #dim, kernel<AttentionArguments, attention_16<bf16, dim>>()},

std::map<std::string, Kernel> kernels = {
    FOR_EACH_TYPE(ENTRIES) OF_WIDTH(16) OF_WIDTH(32) OF_WIDTH(64) OF_WIDTH(80) OF_WIDTH(96) OF_WIDTH(128)
    {"attention_f32", kernel<AttentionArguments, attention_wide>()},
    {"embed_f32_f32", kernel<EmbedArguments, embed<float, float>>()},
    {"embed_f32_f16", kernel<EmbedArguments, embed<float, f16>>()},
    {"embed_f32_bf16", kernel<EmbedArguments, embed<float, bf16>>()},
    {"embed_f16_f16", kernel<EmbedArguments, embed<f16, f16>>()},
    {"embed_bf16_bf16", kernel<EmbedArguments, embed<bf16, bf16>>()},
};

bool is_captured(void *stream) { return stream && static_cast<Stream *>(stream)->is_captured; }

// Of cuBLASLt.
struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t stride;
};
struct Description {
    std::map<int, uint64_t> attributes;
};

double element(int type, const void *from, size_t at) {
    if (type == 0) return static_cast<const float *>(from)[at];
    return type == 2 ? widen(static_cast<const f16 *>(from)[at]) : widen(static_cast<const bf16 *>(from)[at]);
}

void set_element(int type, void *to, size_t at, float value) {
    if (type == 0)
        static_cast<float *>(to)[at] = value;
    else if (type == 2)
        static_cast<f16 *>(to)[at] = narrow<f16>(value);
    else
        static_cast<bf16 *>(to)[at] = narrow<bf16>(value);
}

} // namespace

extern "C" {

int cuInit(unsigned) { return DONE; }
int cuDriverGetVersion(int *version) { return *version = 13000, DONE; }
int cuDeviceGetCount(int *count) { return *count = 1, DONE; }
int cuDeviceGet(int *device, int) { return *device = 0, DONE; }
int cuDeviceGetAttribute(int *value, int attribute, int) {
    // Of generation 8.0; memory pools are there. Other attributes are of no importance here.
    *value = attribute == 75 ? 8 : attribute == 76 ? 0 : 1;
    return DONE;
}
int cuDevicePrimaryCtxRetain(void **context, int) { return *context = &lock, DONE; }
int cuDevicePrimaryCtxRelease_v2(int) { return DONE; }
int cuCtxSetCurrent(void *) { return DONE; }
int cuCtxGetCurrent(void **context) { return *context = &lock, DONE; }
int cuCtxSynchronize() { return DONE; }
int cuCtxGetStreamPriorityRange(int *least, int *greatest) { return *least = *greatest = 0, DONE; }
int cuGetErrorName(int, const char **text) { return *text = "an error of the emulated driver", DONE; }
int cuGetErrorString(int, const char **text) { return *text = "an error of the emulated driver", DONE; }
int cuMemGetInfo_v2(size_t *free, size_t *all) { return *free = *all = size_t(8) << 30, DONE; }

int cuStreamCreate(void **stream, unsigned) { return *stream = new Stream, DONE; }
int cuStreamCreateWithPriority(void **stream, unsigned, int) { return *stream = new Stream, DONE; }
int cuStreamDestroy_v2(void *stream) { return delete static_cast<Stream *>(stream), DONE; }
int cuStreamSynchronize(void *stream) {
    return is_captured(stream) ? refused("a wait for a captured stream", CAPTURE_UNSUPPORTED) : DONE;
}
int cuStreamWaitEvent(void *stream, void *, unsigned) {
    return is_captured(stream) ? refused("a captured stream waits for an event", CAPTURE_ISOLATION) : DONE;
}
int cuEventCreate(void **event, unsigned) { return *event = new char, DONE; }
int cuEventDestroy_v2(void *event) { return delete static_cast<char *>(event), DONE; }
int cuEventRecord(void *, void *stream) {
    return is_captured(stream) ? refused("an event in a captured stream", CAPTURE_UNSUPPORTED) : DONE;
}
int cuEventSynchronize(void *) { return DONE; }
int cuEventQuery(void *) { return DONE; }

int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    void *memory = std::aligned_alloc(256, (bytes + 256) / 256 * 256);
    // Whoever reads what nobody wrote reads what is no number.
    std::memset(memory, 0xff, bytes);
    return *address = reinterpret_cast<uint64_t>(memory), DONE;
}
int cuMemAllocAsync(uint64_t *address, size_t bytes, void *stream) {
    return is_captured(stream) ? refused("memory for a captured stream", CAPTURE_UNSUPPORTED) : cuMemAlloc_v2(address, bytes);
}
int cuMemFree_v2(uint64_t address) { return std::free(reinterpret_cast<void *>(address)), DONE; }
int cuMemFreeAsync(uint64_t address, void *stream) {
    return is_captured(stream) ? refused("memory of a captured stream", CAPTURE_UNSUPPORTED) : cuMemFree_v2(address);
}
int cuMemHostAlloc(void **memory, size_t bytes, unsigned) { return *memory = std::malloc(bytes), DONE; }
int cuMemFreeHost(void *memory) { return std::free(memory), DONE; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    if (is_captured(stream)) return refused("a copy from the host into a captured stream", CAPTURE_UNSUPPORTED);
    return std::memcpy(reinterpret_cast<void *>(to), from, bytes), DONE;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    if (is_captured(stream)) return refused("a copy to the host out of a captured stream", CAPTURE_UNSUPPORTED);
    return std::memcpy(to, reinterpret_cast<const void *>(from), bytes), DONE;
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) {
    return begin(stream, [=] { std::memcpy(reinterpret_cast<void *>(to), reinterpret_cast<const void *>(from), bytes); });
}

int cuModuleLoadData(void **module, const void *) { return *module = &kernels, DONE; }
int cuModuleUnload(void *) { return DONE; }
int cuModuleGetFunction(void **function, void *, const char *name) {
    const auto found = kernels.find(name);
    if (found == kernels.end()) return refused(name, NOT_FOUND);
    return *function = &found->second, DONE;
}
int cuFuncSetAttribute(void *function, int attribute, int value) {
    // The most dynamic shared memory.
    if (attribute == 8) static_cast<Kernel *>(function)->most_shared = value;
    return DONE;
}
int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                   unsigned threads_z, unsigned shared, void *stream, void **arguments, void **) {
    const Kernel kernel = *static_cast<Kernel *>(function);
    if (x == 0 || y == 0 || y > 65535 || z != 1 || threads == 0 || threads_y != 1 || threads_z != 1)
        return refused("a grid that no card takes", INVALID);
    if (shared > unsigned(kernel.most_shared)) return refused("more shared memory than was asked for", INVALID);
    std::vector<char> kept(kernel.bytes);
    std::memcpy(kept.data(), arguments[0], kernel.bytes);
    return begin(stream, [=] {
        emulator::run({x, y, z}, threads, shared, seed++, [&] { kernel.run(kept.data()); });
    });
}

int cuStreamBeginCapture_v2(void *stream, int) { return static_cast<Stream *>(stream)->is_captured = true, DONE; }
int cuStreamIsCapturing(void *stream, int *status) { return *status = is_captured(stream), DONE; }
int cuStreamEndCapture(void *stream, void **graph) {
    Stream *of = static_cast<Stream *>(stream);
    *graph = new Graph{of->captured};
    of->captured.clear();
    of->is_captured = false;
    return DONE;
}
int cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long) {
    return *executable = new Graph(*static_cast<Graph *>(graph)), DONE;
}
int cuGraphLaunch(void *executable, void *) {
    std::fprintf(stderr, "emulated driver: a graph of %zu steps\n", static_cast<Graph *>(executable)->steps.size());
    for (const Work &step : static_cast<Graph *>(executable)->steps) step();
    return DONE;
}
int cuGraphExecDestroy(void *graph) { return delete static_cast<Graph *>(graph), DONE; }
int cuGraphDestroy(void *graph) { return delete static_cast<Graph *>(graph), DONE; }

int cublasCreate_v2(void **handle) { return *handle = &lock, DONE; }
int cublasDestroy_v2(void *) { return DONE; }
int cublasSetStream_v2(void *, void *) { return DONE; }
int curandCreateGenerator(void **handle, int) { return *handle = &lock, DONE; }
int curandSetPseudoRandomGeneratorSeed(void *, unsigned long long) { return DONE; }
int curandSetStream(void *, void *) { return DONE; }
int curandDestroyGenerator(void *) { return DONE; }

int cublasLtCreate(void **handle) { return *handle = &lock, DONE; }
int cublasLtDestroy(void *) { return DONE; }
int cublasLtMatrixLayoutCreate(void **layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    if (stride < int64_t(rows)) return refused("columns lie over each other", 7);
    return *layout = new Layout{type, rows, columns, stride}, DONE;
}
int cublasLtMatrixLayoutDestroy(void *layout) { return delete static_cast<Layout *>(layout), DONE; }
int cublasLtMatmulDescCreate(void **description, int, int) { return *description = new Description, DONE; }
int cublasLtMatmulDescDestroy(void *description) { return delete static_cast<Description *>(description), DONE; }
int cublasLtMatmulDescSetAttribute(void *description, int attribute, const void *value, size_t bytes) {
    uint64_t number = 0;
    std::memcpy(&number, value, bytes);
    return static_cast<Description *>(description)->attributes[attribute] = number, DONE;
}
int cublasLtMatmulPreferenceCreate(void **preference) { return *preference = new Description, DONE; }
int cublasLtMatmulPreferenceDestroy(void *preference) { return delete static_cast<Description *>(preference), DONE; }
int cublasLtMatmulPreferenceSetAttribute(void *, int, const void *, size_t) { return DONE; }
int cublasLtMatmulAlgoGetHeuristic(void *, void *, void *, void *, void *, void *, void *, int, void *results, int *count) {
    // An algorithm of 64 bytes, the size of its scratch memory, and whether it is one.
    std::memset(results, 0, 64 + 8 + 4);
    return *count = 1, DONE;
}
int cublasLtMatmul(void *, void *description, const float *alpha, const void *a, void *a_layout, const void *b,
                   void *b_layout, const float *beta, const void *c, void *c_layout, void *d, void *d_layout, const void *,
                   void *, size_t, void *stream) {
    const Layout left = *static_cast<Layout *>(a_layout), right = *static_cast<Layout *>(b_layout);
    const Layout added = *static_cast<Layout *>(c_layout), result = *static_cast<Layout *>(d_layout);
    auto attributes = static_cast<Description *>(description)->attributes;
    // TRANSA, TRANSB, EPILOGUE, BIAS_POINTER.
    const uint64_t transposed = attributes[3], other = attributes[4], epilogue = attributes[7];
    const void *bias = reinterpret_cast<const void *>(attributes[8]);
    const bool fits = transposed == 1 && other == 0 && left.rows == right.rows && left.columns == result.rows &&
                      right.columns == result.columns && added.rows == result.rows && added.columns == result.columns;
    if (!fits) return refused("matrices that do not fit each other", 7);
    if (epilogue != 4 && epilogue != 36) return refused("an epilogue that is not emulated", 15);
    if (c == d && added.stride != result.stride) return refused("in place with another stride", 7);
    const float with = *alpha, again = *beta;
    return begin(stream, [=] {
        std::vector<float> sums(result.rows * result.columns);
        for (uint64_t column = 0; column < result.columns; column++)
            for (uint64_t row = 0; row < result.rows; row++) {
                double sum = 0;
                for (uint64_t k = 0; k < left.rows; k++)
                    sum += element(left.type, a, row * left.stride + k) * element(right.type, b, column * right.stride + k);
                sum = sum * with + element(result.type, bias, row);
                if (again != 0) sum += again * element(added.type, c, column * added.stride + row);
                sums[column * result.rows + row] = epilogue == 36 ? activated(sum, 0) : sum;
            }
        // Behind all reads: the result may overwrite what was added, but not what was multiplied.
        for (uint64_t at = 0; at < sums.size(); at++)
            set_element(result.type, d, at / result.rows * result.stride + at % result.rows, sums[at]);
    });
}

} // extern "C"

// What a tower reads: pixels as patches, and ids as the rows of a table with their positions.
#include "types.cuh"

struct UnfoldArguments {
    // `[images, height, width, 3]`, bytes.
    const uint8_t *pixels;
    // `[images, down * across, patch * patch * 3]`: of each patch row, column, channel.
    void *patches;
    int height;
    int width;
    int patch;
    // Whole patches; pixels to the right of them and below are not read.
    int down;
    int across;
    float scale[3];
    float offset[3];
};

// A block has one line of pixels of one image.
template <class T> __device__ void unfold(const UnfoldArguments &a) {
    const int lines = a.down * a.patch, run = a.patch * 3;
    const long long image = blockIdx.x / lines;
    const int line = blockIdx.x % lines;
    const uint8_t *from = a.pixels + (image * a.height + line) * a.width * 3;
    T *to = static_cast<T *>(a.patches);
    const long long first_patch = (image * a.down + line / a.patch) * a.across;
    for (int at = threadIdx.x; at < a.across * run; at += blockDim.x) {
        const long long patch = first_patch + at / run;
        const long long inside = static_cast<long long>(line % a.patch) * run + at % run;
        const int channel = at % 3;
        // Chosen and not indexed: parameters with an index would be copied to the stack.
        const float scale = channel == 0 ? a.scale[0] : channel == 1 ? a.scale[1] : a.scale[2];
        const float offset = channel == 0 ? a.offset[0] : channel == 1 ? a.offset[1] : a.offset[2];
        to[patch * a.patch * run + inside] = narrow<T>(from[at] * scale + offset);
    }
}

#define UNFOLD(name, T) \
    extern "C" __global__ void __launch_bounds__(256) unfold_##name(UnfoldArguments a) { unfold<T>(a); }
FOR_EACH_TYPE(UNFOLD)

struct EmbedArguments {
    // `[texts * tokens]`
    const unsigned *ids;
    // `[vocabulary, width]`
    const void *table;
    // `[tokens, width]`
    const void *positions;
    // `[texts * tokens, width]`
    void *out;
    int tokens;
    int width;
    unsigned vocabulary;
};

// A block has one token. An id outside of the vocabulary gives no number, which the server never answers with.
template <class T, class Table> __device__ void embed(const EmbedArguments &a) {
    const unsigned id = a.ids[blockIdx.x];
    const T *position = static_cast<const T *>(a.positions) + static_cast<long long>(blockIdx.x % a.tokens) * a.width;
    T *out = static_cast<T *>(a.out) + static_cast<long long>(blockIdx.x) * a.width;
    const bool is_known = id < a.vocabulary;
    const Table *row = static_cast<const Table *>(a.table) + static_cast<long long>(is_known ? id : 0) * a.width;
    for (int at = threadIdx.x; at < a.width; at += blockDim.x) {
        const float value = widen(narrow<T>(widen(row[at]))) + widen(position[at]);
        out[at] = narrow<T>(is_known ? value : __builtin_nanf(""));
    }
}

#define EMBED(name, T, Table) \
    extern "C" __global__ void __launch_bounds__(256) embed_##name(EmbedArguments a) { embed<T, Table>(a); }
EMBED(f32_f32, float, float)
EMBED(f32_f16, float, f16)
EMBED(f32_bf16, float, bf16)
EMBED(f16_f16, f16, f16)
EMBED(bf16_bf16, bf16, bf16)

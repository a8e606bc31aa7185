// Every kernel on random inputs of many shapes, against the textbook in f64: tests/cuda/host/run.
#include "../../../src/model/device/kernels/all.cu"

#include "references.h"

namespace {

unsigned seed = 1;
// Leaves out the shapes that take the longest.
bool is_short = false;

template <class Kernel> void launch(Index grid, unsigned threads, size_t shared, Kernel kernel) {
    emulator::run(grid, threads, shared, seed++, kernel);
}

template <class T> Values all_of(const Numbers<T> &numbers) {
    Values values(numbers.size());
    for (size_t at = 0; at < values.size(); at++) values[at] = numbers[at];
    return values;
}

void numbers_are_rounded() {
    // Every half is itself, and what is between two goes to the nearer, or to the even one.
    Values found, expected;
    for (unsigned bits = 0; bits < 0x7c00; bits++) {
        const float value = widen(f16{static_cast<uint16_t>(bits)});
        const float next = widen(f16{static_cast<uint16_t>(bits + 1)});
        const auto rounded = [](float value) { return narrow<f16>(value).bits; };
        const float middle = value / 2 + next / 2;
        const bool right = rounded(value) == bits && rounded(-value) == (bits | 0x8000) &&
                           (std::isinf(next) || rounded(middle) == bits + bits % 2) &&
                           (std::isinf(next) || rounded(std::nextafterf(middle, next)) == bits + 1) &&
                           (std::isinf(next) || rounded(std::nextafterf(middle, value)) == bits);
        if (!right) {
            std::printf("half %#x is not rounded\n", bits);
            failures++;
            return;
        }
    }
    comparisons++;
}

template <class T> void norms(const char *type) {
    for (const int width : {8, 37, 64, 768, 1152, 2048, 2056})
        for (const bool with_residual : {false, true}) {
            // Of each row only the first of two halves is read.
            const int rows = 7, stride = 2 * width;
            Numbers<T> x(rows * stride, seed++, 2.0f, 3.0f), residual(rows * width, seed++), weight(width, seed++),
                bias(width, seed++), y(rows * width), sum(rows * width);
            x.set(2 * stride + 3, NAN);
            x.set(4 * stride + 5, INFINITY);
            Values whole(rows * width);
            for (int at = 0; at < rows * width; at++) {
                const double value = x[at / width * stride + at % width];
                whole[at] = with_residual ? widen(narrow<T>(float(value) + float(residual[at]))) : value;
            }
            LayerNormArguments a{};
            a.x = x.data();
            if (with_residual) a.residual = residual.data(), a.sum = sum.data();
            a.y = y.data(), a.weight = weight.data(), a.bias = bias.data();
            a.x_stride = stride, a.rows = rows, a.width = width, a.eps = 1e-6f;
            launch({2, 1, 1}, 128, 0, [=] { layer_norm<T>(a); });
            const std::string name = std::string("layer_norm ") + type + " " + std::to_string(width);
            compare(name, y, normed(whole, width, all_of(weight), all_of(bias), 1e-6), 4 * unit<T> + 2e-5);
            if (with_residual) compare(name + " sum", sum, whole, 0);
        }
    // A large mean: the one-pass formula is off by 0.1.
    const int width = 768;
    Numbers<T> x(width, seed++, 1.0f, 1000.0f), weight(width, seed++), bias(width, seed++), y(width);
    LayerNormArguments a{};
    a.x = x.data(), a.y = y.data(), a.weight = weight.data(), a.bias = bias.data();
    a.x_stride = width, a.rows = 1, a.width = width, a.eps = 1e-6f;
    launch({1, 1, 1}, 128, 0, [=] { layer_norm<T>(a); });
    compare(std::string("layer_norm of a large mean ") + type, y, normed(all_of(x), width, all_of(weight), all_of(bias), 1e-6),
            4 * unit<T> + 1e-3);
}

template <class T> void activations(const char *type) {
    for (const int width : {8, 19, 3072})
        for (int kind = 0; kind < 3; kind++)
            for (const bool with_bias : {false, true}) {
                const int rows = 3, count = rows * width;
                Numbers<T> x(count, seed++, 3.0f), bias(width, seed++);
                x.set(1, NAN), x.set(2, INFINITY), x.set(3, 60.0f), x.set(4, -60.0f);
                Values expected(count);
                for (int at = 0; at < count; at++)
                    expected[at] = activated_exactly(x[at] + (with_bias ? bias[at % width] : 0.0), kind);
                const ActivationArguments a{x.data(), with_bias ? bias.data() : nullptr, count, width, kind};
                launch({static_cast<unsigned>((count + 2047) / 2048), 1, 1}, 256, 0, [=] { activate<T>(a); });
                compare(std::string("activate ") + type + " " + std::to_string(kind), x, expected, unit<T> + 2e-6);
            }
}

template <class T> void patches(const char *type) {
    struct Case {
        int images, height, width, patch;
    };
    for (const Case c : {Case{2, 32, 48, 16}, Case{3, 29, 30, 14}, Case{1, 4, 4, 4}, Case{2, 14, 9, 3}, Case{1, 5, 64, 5}}) {
        const int down = c.height / c.patch, across = c.width / c.patch, area = c.patch * c.patch * 3;
        std::vector<uint8_t> pixels(c.images * c.height * c.width * 3);
        std::mt19937 random(seed++);
        for (uint8_t &value : pixels) value = random();
        Numbers<T> out(static_cast<size_t>(c.images) * down * across * area);
        UnfoldArguments a{pixels.data(), out.data(), c.height, c.width, c.patch, down, across, {}, {}};
        for (int channel = 0; channel < 3; channel++)
            a.scale[channel] = 0.007f + 0.001f * channel, a.offset[channel] = 0.3f * channel - 1.0f;
        Values expected(out.size());
        for (size_t at = 0; at < expected.size(); at++) {
            const int channel = at % 3, inside = at % area, patch = at / area % (down * across);
            const int y = patch / across * c.patch + inside / (3 * c.patch);
            const int x = patch % across * c.patch + inside / 3 % c.patch;
            const size_t image = at / area / (down * across);
            expected[at] = pixels[((image * c.height + y) * c.width + x) * 3 + channel] * double(a.scale[channel]) + a.offset[channel];
        }
        launch({static_cast<unsigned>(c.images * down * c.patch), 1, 1}, 256, 0, [=] { unfold<T>(a); });
        compare(std::string("unfold ") + type, out, expected, unit<T> + 1e-6);
    }
}

template <class T, class Table> void embeddings(const char *types) {
    for (const int width : {5, 768}) {
        const int texts = 3, tokens = 4, vocabulary = 11;
        std::vector<unsigned> ids = {0, 10, 3, 3, 9, 1, 2, 11, 7, 4, 4, 4000000000u};
        Numbers<Table> table(vocabulary * width, seed++);
        Numbers<T> positions(tokens * width, seed++), out(texts * tokens * width);
        Values expected(out.size());
        for (size_t at = 0; at < expected.size(); at++) {
            const unsigned id = ids[at / width];
            const double row = id < unsigned(vocabulary) ? table[size_t(id) * width + at % width] : NAN;
            expected[at] = widen(narrow<T>(float(row))) + positions[at / width % tokens * width + at % width];
        }
        const EmbedArguments a{ids.data(), table.data(), positions.data(), out.data(), tokens, width, unsigned(vocabulary)};
        launch({static_cast<unsigned>(texts * tokens), 1, 1}, 256, 0, [=] { embed<T, Table>(a); });
        compare(std::string("embed ") + types, out, expected, unit<T>);
    }
}

template <class T> void pools(const char *type) {
    struct Case {
        int batch, tokens, width, heads;
    };
    for (const Case c : {Case{2, 196, 96, 12}, Case{1, 729, 72, 3}, Case{2, 1, 40, 5}, Case{1, 33, 768, 4}}) {
        Numbers<T> x(c.batch * c.tokens * c.width, seed++), queries(c.heads * c.width, seed++);
        Numbers<T> out(c.batch * c.heads * c.width), own(c.batch * c.width);
        if (c.batch == 2) x.set(c.tokens * c.width + 1, NAN);
        const PoolArguments a{queries.data(), x.data(), out.data(), c.tokens, c.width, c.heads, 1 / sqrtf(float(c.width))};
        launch({static_cast<unsigned>((c.heads + POOL_HEADS - 1) / POOL_HEADS), static_cast<unsigned>(c.batch), 1}, 256,
               POOL_HEADS * c.tokens * 4, [=] { pool<T>(a); });
        const AttentionCase shape{c.batch, c.heads, c.tokens, 1, c.width, false, {}};
        const auto row = [&](int row, int token, int, int at) { return x[(size_t(row) * c.tokens + token) * c.width + at]; };
        const auto query = [&](int, int head, int, int at) { return queries[head * c.width + at]; };
        compare(std::string("pool ") + type, out, attended(shape, query, row, row), unit<T> + 1e-5);
        const OwnHeadsArguments b{out.data(), own.data(), c.batch, c.heads, c.width};
        launch({static_cast<unsigned>((c.batch * c.width + 255) / 256), 1, 1}, 256, 0, [=] { own_heads<T>(b); });
        Values expected(own.size());
        for (size_t at = 0; at < expected.size(); at++) {
            const size_t row = at / c.width, column = at % c.width;
            expected[at] = out[(row * c.heads + column / (c.width / c.heads)) * c.width + column];
        }
        compare(std::string("own_heads ") + type, own, expected, 0);
    }
}

template <class T> void attend(const AttentionArguments &a, int batch, int dim) {
    const auto grid = [&](int tile) { return Index{unsigned((a.queries + tile - 1) / tile * batch * a.heads), 1, 1}; };
    if constexpr (sizeof(T) == 4) {
        launch(grid(16), 128, 4 * (16 * dim + 2 * 32 * (dim + 1) + 16 * 32), [=] { attention_wide(a); });
    } else {
        const auto with = [&](auto padded) {
            constexpr int DIM = decltype(padded)::value;
            launch(grid(64), 128, 5 * 64 * (DIM + 8) * 2, [=] { attention_16<T, DIM>(a); });
        };
        if (dim <= 16) with(std::integral_constant<int, 16>());
        else if (dim <= 32) with(std::integral_constant<int, 32>());
        else if (dim <= 64) with(std::integral_constant<int, 64>());
        else if (dim <= 80) with(std::integral_constant<int, 80>());
        else if (dim <= 96) with(std::integral_constant<int, 96>());
        else with(std::integral_constant<int, 128>());
    }
}

// Q, K and V out of one fused product `[batch, keys, 3 * width]`, where the last tokens ask. Value `poisoned` of the
// product, if any, is `poison`.
template <class T> void attention(const char *type, const AttentionCase &c, float spread = 1.0f, long poisoned = -1, float poison = NAN) {
    const int width = c.heads * c.dim;
    Numbers<T> fused(static_cast<size_t>(c.batch) * c.keys * 3 * width, seed++, spread);
    if (poisoned >= 0) fused.set(poisoned, poison);
    const auto at = [&](int part) {
        return [&fused, c, width, part](int row, int token, int head, int at) {
            const int place = part == 0 ? token + c.keys - c.queries : token;
            return fused[(size_t(row) * c.keys + place) * 3 * width + part * width + head * c.dim + at];
        };
    };
    Numbers<T> out(static_cast<size_t>(c.batch) * c.queries * width);
    std::vector<int> counts = c.counts;
    // What is padded is read by nobody.
    for (int row = 0; row < int(counts.size()); row++)
        for (int token = std::max(0, counts[row]); token < c.keys; token++)
            for (int i = width; i < 3 * width; i++) fused.set((size_t(row) * c.keys + token) * 3 * width + i, NAN);
    AttentionArguments a{};
    a.q = fused.data() + static_cast<size_t>(c.keys - c.queries) * 3 * width;
    a.k = fused.data() + width, a.v = fused.data() + 2 * width, a.out = out.data();
    a.key_counts = counts.empty() ? nullptr : counts.data();
    a.q_batch = a.kv_batch = static_cast<long long>(c.keys) * 3 * width, a.q_token = a.kv_token = 3 * width;
    a.out_batch = static_cast<long long>(c.queries) * width, a.out_token = width;
    a.queries = c.queries, a.keys = c.keys, a.heads = c.heads, a.head_dim = c.dim;
    a.scale = 1 / sqrtf(float(c.dim)), a.causal = c.causal;
    attend<T>(a, c.batch, c.dim);
    // The shares are rounded to the type as well.
    compare(std::string("attention ") + type + " " + c.name(), out, attended(c, at(0), at(1), at(2)), 3 * unit<T> * spread + 2e-5 * spread * spread);
}

template <class T> void attentions(const char *type) {
    for (const int dim : {64, 72, 80, 88, 96}) {
        for (const int tokens : {16, 17, 196, 197})
            if (!is_short || tokens < 100 || dim == 72) attention<T>(type, {1, tokens, tokens, 1, dim, false, {}});
        attention<T>(type, {2, 65, 65, 2, dim, true, {}});
        attention<T>(type, {3, 40, 40, 1, dim, false, {40, 7, 0}});
        attention<T>(type, {1, 1, 77, 2, dim, true, {}});
        attention<T>(type, {1, 1, 64, 3, dim, false, {}});
    }
    if (!is_short) attention<T>(type, {1, 729, 729, 1, 72, false, {}});
    if (!is_short) attention<T>(type, {1, 1024, 1024, 1, 64, true, {}});
    for (const int dim : {1, 4, 9, 16, 24, 31, 48, 127, 128}) attention<T>(type, {2, 5, 70, 2, dim, true, {70, 66}});
    // Sharp: nearly all of the share is one key's, and the greatest comes late or early.
    attention<T>(type, {1, 130, 130, 1, 64, false, {}}, 6.0f);
    // What is no number reaches every query that reads it: through Q, K and V in turn.
    for (const int part : {0, 1, 2}) attention<T>(type, {1, 70, 70, 1, 64, false, {}}, 1.0f, 3 * 64 * 5 + part * 64 + 7);
    for (const int part : {0, 1}) attention<T>(type, {1, 70, 70, 1, 64, false, {}}, 1.0f, 3 * 64 * 5 + part * 64 + 7, INFINITY);
}

template <class T> void all(const char *type) {
    norms<T>(type);
    activations<T>(type);
    patches<T>(type);
    embeddings<T, T>(type);
    pools<T>(type);
    attentions<T>(type);
}

} // namespace

// Arguments: `short`, and the types to test; all of them if none is named.
int main(int count, char **names) {
    is_short = count > 1 && std::string(names[1]) == "short";
    const auto asked = [&](const char *type) {
        bool found = count - is_short == 1;
        for (int at = 1; at < count; at++) found |= std::string(names[at]) == type;
        return found;
    };
    numbers_are_rounded();
    if (asked("f32")) {
        all<float>("f32");
        embeddings<float, f16>("f32 from f16");
        embeddings<float, bf16>("f32 from bf16");
    }
    if (asked("f16")) all<f16>("f16");
    if (asked("bf16")) all<bf16>("bf16");
    std::printf("%d comparisons, %d failures\n", comparisons, failures);
    return failures ? 1 : 0;
}

// A device in plain C++, so that the kernels can be tested without one: the same sources, compiled for the processor.
//
// Blocks run one after the other. The threads of a block are fibers: one runs until it waits for its warp or for its
// block, and then another one does, in an order that a seed decides. So a kernel that forgets to wait reads what
// nobody has written yet, in some order at least: memory that a block shares begins as values that are no numbers, and
// a copy that was begun arrives no sooner than somebody waits for it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __device__
#define __global__
#define __launch_bounds__(...)
#define DYNAMIC_SHARED(name) unsigned char *name = emulator::shared()

struct uint4 {
    unsigned x, y, z, w;
};

struct Index {
    unsigned x, y, z;
};

// Of 16 bits each, with the bits in memory that a device has.
struct f16 {
    uint16_t bits;
};
struct bf16 {
    uint16_t bits;
};

namespace emulator {

// Runs a kernel on a grid. Ends the program with a message where threads wait for each other without an end.
void run(Index grid, unsigned threads, size_t shared, unsigned seed, const std::function<void()> &kernel);

const Index &thread();
const Index &block();
const Index &block_size();
unsigned char *shared();
unsigned lane();

void wait_for_block();

// Waits until all lanes of the warp are here, and then runs `work` once with what each of them brought.
using Operands = void *[32];
void meet(void *own, void (*work)(Operands &));

void begin_copy(void *to, const void *from, size_t bytes);
void end_group();
void wait_groups(unsigned most);

float float_of(f16 value);
f16 half_of(float value);

} // namespace emulator

#define threadIdx (emulator::thread())
#define blockIdx (emulator::block())
#define blockDim (emulator::block_size())

inline void __syncthreads() { emulator::wait_for_block(); }
inline void __syncwarp() {
    emulator::meet(nullptr, [](emulator::Operands &) {});
}

inline float __shfl_xor_sync(unsigned, float value, int distance) {
    struct Brought {
        float value;
        int distance;
        float result;
    } brought{value, distance, 0};
    emulator::meet(&brought, [](emulator::Operands &all) {
        for (int lane = 0; lane < 32; lane++) {
            Brought *own = static_cast<Brought *>(all[lane]);
            own->result = static_cast<Brought *>(all[lane ^ own->distance])->value;
        }
    });
    return brought.result;
}

inline float widen(float value) { return value; }
inline float widen(f16 value) { return emulator::float_of(value); }
inline float widen(bf16 value) {
    const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
    float wide;
    std::memcpy(&wide, &bits, 4);
    return wide;
}

template <class T> inline T narrow(float value);
template <> inline float narrow<float>(float value) { return value; }
template <> inline f16 narrow<f16>(float value) { return emulator::half_of(value); }
template <> inline bf16 narrow<bf16>(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (std::isnan(value)) return {static_cast<uint16_t>(bits >> 16 | 0x40)};
    // To the nearest, and to the even one of two that are as near.
    return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

// What a warp multiplies: 16 x 16 by 16 x 8. Each lane brings four registers of the one, two of the other and four sums.
struct Multiplied {
    float *c;
    const uint32_t *a;
    uint32_t b[2];
};

template <class T> inline float half_of_register(uint32_t both, int half) {
    const T value{static_cast<uint16_t>(half ? both >> 16 : both)};
    return widen(value);
}

template <class T> inline void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    Multiplied own{c, a, {b0, b1}};
    emulator::meet(&own, [](emulator::Operands &all) {
        float left[16][16], right[16][8];
        for (int lane = 0; lane < 32; lane++) {
            const Multiplied &from = *static_cast<Multiplied *>(all[lane]);
            const int group = lane / 4, member = lane % 4;
            for (int i = 0; i < 8; i++) {
                const int row = group + (i / 2 % 2) * 8, column = member * 2 + i % 2 + (i / 4) * 8;
                left[row][column] = half_of_register<T>(from.a[i / 2], i % 2);
            }
            for (int i = 0; i < 4; i++) {
                const int row = member * 2 + i % 2 + (i / 2) * 8;
                right[row][group] = half_of_register<T>(from.b[i / 2], i % 2);
            }
        }
        for (int lane = 0; lane < 32; lane++) {
            Multiplied &to = *static_cast<Multiplied *>(all[lane]);
            const int group = lane / 4, member = lane % 4;
            for (int i = 0; i < 4; i++) {
                const int row = group + i / 2 * 8, column = member * 2 + i % 2;
                float sum = to.c[i];
                for (int k = 0; k < 16; k++) sum += left[row][k] * right[k][column];
                to.c[i] = sum;
            }
        }
    });
}

struct Loaded {
    uint32_t *to;
    const void *row;
};

inline void load_matrices(uint32_t (&to)[4], const void *row) {
    Loaded own{to, row};
    emulator::meet(&own, [](emulator::Operands &all) {
        for (int lane = 0; lane < 32; lane++)
            for (int matrix = 0; matrix < 4; matrix++) {
                const Loaded &row = *static_cast<Loaded *>(all[matrix * 8 + lane / 4]);
                const char *from = static_cast<const char *>(row.row) + lane % 4 * 4;
                std::memcpy(static_cast<Loaded *>(all[lane])->to + matrix, from, 4);
            }
    });
}

inline void load_transposed(uint32_t (&to)[4], const void *row) {
    Loaded own{to, row};
    emulator::meet(&own, [](emulator::Operands &all) {
        for (int lane = 0; lane < 32; lane++)
            for (int matrix = 0; matrix < 4; matrix++) {
                uint16_t both[2];
                for (int i = 0; i < 2; i++) {
                    const Loaded &row = *static_cast<Loaded *>(all[matrix * 8 + lane % 4 * 2 + i]);
                    std::memcpy(&both[i], static_cast<const char *>(row.row) + lane / 4 * 2, 2);
                }
                std::memcpy(static_cast<Loaded *>(all[lane])->to + matrix, both, 4);
            }
    });
}

inline void begin_copy(void *to, const void *from) { emulator::begin_copy(to, from, 16); }
inline void end_group() { emulator::end_group(); }
template <int GROUPS> inline void wait_groups() { emulator::wait_groups(GROUPS); }

inline float power_of_two(float x) { return std::exp2(x); }

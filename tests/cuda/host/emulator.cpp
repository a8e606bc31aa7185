#include "emulator.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <ucontext.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define LEAVE(keep, to) __sanitizer_start_switch_fiber(keep, (to).bottom, (to).size)
#define ARRIVE(kept) __sanitizer_finish_switch_fiber(kept, nullptr, nullptr)
#else
#define LEAVE(keep, to) (void)(keep)
#define ARRIVE(kept) (void)(kept)
#endif

namespace emulator {
namespace {

constexpr unsigned LANES = 32;
constexpr size_t STACK = 128 << 10;

struct Copy {
    void *to;
    const void *from;
    size_t bytes;
    unsigned group;
};

struct Warp {
    Operands operands;
    unsigned here = 0;
    unsigned meetings = 0;
};

struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(STACK);
    Index index;
    bool done;
    // What it waits for: a number of its warp's meetings, or of its block's.
    bool for_warp, for_block;
    unsigned until;
    std::vector<Copy> copies;
    unsigned groups;
};

struct Where {
    const void *bottom = nullptr;
    size_t size = 0;
};

struct Device {
    Index block, block_size;
    std::vector<std::unique_ptr<Fiber>> fibers;
    std::vector<Warp> warps;
    unsigned threads, waiting, block_meetings;
    std::unique_ptr<unsigned char[]> shared;
    const std::function<void()> *kernel;
    Fiber *self = nullptr;
    ucontext_t scheduler;
    Where scheduler_stack;
    void *scheduler_keeps = nullptr;
} device;

[[noreturn]] void fail(const char *why) {
    std::fprintf(stderr, "emulator: %s\n", why);
    std::abort();
}

// Back to who chooses the next.
void leave(bool for_good) {
    Fiber &self = *device.self;
    void *keep = nullptr;
    LEAVE(for_good ? nullptr : &keep, device.scheduler_stack);
    swapcontext(&self.context, &device.scheduler);
    ARRIVE(keep);
}

void entry() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &device.scheduler_stack.bottom, &device.scheduler_stack.size);
#endif
    (*device.kernel)();
    if (!device.self->copies.empty()) fail("a thread ended with copies that nobody waited for");
    device.self->done = true;
    leave(true);
}

bool may_run(const Fiber &fiber) {
    if (fiber.done) return false;
    if (fiber.for_warp) return device.warps[fiber.index.x / LANES].meetings != fiber.until;
    if (fiber.for_block) return device.block_meetings != fiber.until;
    return true;
}

// Gives each lane one turn. Returns 0 if none may run, and else 1 and the number of those that ended.
unsigned run_warp(unsigned warp, bool backwards) {
    unsigned ended = 0;
    bool ran = false;
    for (unsigned step = 0; step < LANES; step++) {
        Fiber &fiber = *device.fibers[warp * LANES + (backwards ? LANES - 1 - step : step)];
        if (!may_run(fiber)) continue;
        fiber.for_warp = fiber.for_block = false;
        ran = true;
        device.self = &fiber;
        const Where to{fiber.stack.data(), fiber.stack.size()};
        LEAVE(&device.scheduler_keeps, to);
        (void)to;
        swapcontext(&device.scheduler, &fiber.context);
        ARRIVE(device.scheduler_keeps);
        ended += fiber.done;
    }
    return ran ? 1 + ended : 0;
}

void run_block(std::mt19937 &order) {
    for (auto &warp : device.warps) warp = Warp();
    device.waiting = device.block_meetings = 0;
    for (auto &made : device.fibers) {
        Fiber &fiber = *made;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, entry, 0);
        fiber.index = {static_cast<unsigned>(&made - device.fibers.data()), 0, 0};
        fiber.done = fiber.for_warp = fiber.for_block = false;
        fiber.groups = 0;
        fiber.copies.clear();
    }
    const unsigned warps = device.threads / LANES;
    for (unsigned left = device.threads; left > 0;) {
        // A warp goes as far as it can while the others stand still, and its lanes in either order.
        const unsigned first = order() % warps;
        bool ran = false;
        for (unsigned step = 0; step < warps; step++)
            while (const unsigned ended_or_ran = run_warp((first + step) % warps, order() % 2)) {
                ran = true;
                left -= ended_or_ran - 1;
            }
        if (!ran) fail("threads wait for others that have ended or wait elsewhere");
    }
}

} // namespace

void run(Index grid, unsigned threads, size_t shared, unsigned seed, const std::function<void()> &kernel) {
    if (threads == 0 || threads % LANES != 0 || threads > 1024) fail("blocks are of whole warps, of 1024 at most");
    std::mt19937 order(seed);
    device.kernel = &kernel;
    device.threads = threads;
    device.block_size = {threads, 1, 1};
    device.warps.resize(threads / LANES);
    while (device.fibers.size() < threads) device.fibers.push_back(std::make_unique<Fiber>());
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                device.block = {x, y, z};
                device.shared.reset(new unsigned char[shared]);
                std::memset(device.shared.get(), 0xff, shared);
                run_block(order);
            }
    device.shared.reset();
}

const Index &thread() { return device.self->index; }
const Index &block() { return device.block; }
const Index &block_size() { return device.block_size; }
unsigned char *shared() { return device.shared.get(); }
unsigned lane() { return device.self->index.x % LANES; }

void wait_for_block() {
    // A thread that has ended is waited for by nobody who is right.
    if (++device.waiting == device.threads) {
        device.waiting = 0;
        device.block_meetings++;
        return;
    }
    device.self->for_block = true;
    device.self->until = device.block_meetings;
    leave(false);
}

void meet(void *own, void (*work)(Operands &)) {
    Warp &warp = device.warps[device.self->index.x / LANES];
    warp.operands[lane()] = own;
    if (++warp.here == LANES) {
        work(warp.operands);
        warp.here = 0;
        warp.meetings++;
        return;
    }
    device.self->for_warp = true;
    device.self->until = warp.meetings;
    leave(false);
}

void begin_copy(void *to, const void *from, size_t bytes) {
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % bytes) fail("a copy is not aligned");
    // If it is read before it is written, the result is not a number.
    std::memset(to, 0xff, bytes);
    device.self->copies.push_back({to, from, bytes, device.self->groups});
}

void end_group() { device.self->groups++; }

void wait_groups(unsigned most) {
    Fiber &self = *device.self;
    std::vector<Copy> later;
    for (const Copy &copy : self.copies) {
        if (copy.group + most < self.groups)
            std::memcpy(copy.to, copy.from, copy.bytes);
        else
            later.push_back(copy);
    }
    self.copies = later;
}

float float_of(f16 value) {
    const int exponent = value.bits >> 10 & 31, fraction = value.bits & 1023;
    const float sign = value.bits >> 15 ? -1.0f : 1.0f;
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
    return sign * std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
}

f16 half_of(float value) {
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    if (std::isnan(value)) return {0x7e00};
    const float size = std::fabs(value);
    // From here on the nearest is infinity.
    if (size >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};
    if (size < std::ldexp(1.0f, -14)) return {static_cast<uint16_t>(sign | std::lrint(std::ldexp(size, 24)))};
    int exponent;
    const float fraction = std::frexp(size, &exponent);
    const long bits = std::lrint(std::ldexp(fraction, 11)) - 1024 + (static_cast<long>(exponent + 14) << 10);
    return {static_cast<uint16_t>(sign | bits)};
}

} // namespace emulator

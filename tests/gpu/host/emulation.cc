#include "emulation.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <unordered_map>
#include <utility>
#include <vector>

namespace dlrm_host {

ThreadPlace place;

namespace {

constexpr size_t kStackBytes = 128 * 1024;
constexpr size_t kDepositBytes = 64;

struct Copy {
  void* target;
  const void* source;
  size_t bytes;
};

struct Fiber {
  ucontext_t context;  // only for the start: later switches by longjmp need no system call
  jmp_buf jump;
  bool started = false;
  std::unique_ptr<unsigned char[]> stack;
  ThreadPlace place;
  bool done = false;
  const char* waiting = nullptr;  // name of the incomplete meeting
  uint64_t block_meetings = 0, warp_meetings = 0;
  std::vector<Copy> open_group;
  std::deque<std::vector<Copy>> groups;
};

// Deposits alternate between two buffers: no lane can be two meetings ahead of another.
struct Warp {
  uint64_t arrived = 0;  // lanes at the current meeting
  uint64_t meetings = 0;
  unsigned char deposits[2][32][kDepositBytes];
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  uint64_t arrived = 0, meetings = 0;
  size_t running_threads = 0;
  std::vector<uint64_t> memory;
};

jmp_buf scheduler;
Block* block = nullptr;
Fiber* running = nullptr;
const std::function<void()>* kernel_body = nullptr;
std::vector<std::unique_ptr<unsigned char[]>> spare_stacks;
std::mt19937_64 schedule;

// Number of the warp that accessed an element in this launch, kAtomics if only atomics did.
constexpr int64_t kAtomics = -1;
std::unordered_map<const float*, int64_t> accesses;

uint64_t below(uint64_t limit) { return schedule() % limit; }
int64_t launches = 0;
int64_t newest_launch[6];  // as in tests/gpu/launch_record.cu; 0 where it has no meaning here

void enter() {
  (*kernel_body)();
  running->done = true;
  _longjmp(scheduler, 1);
}

void pause(const char* reason) {
  running->waiting = reason;
  if (_setjmp(running->jump) == 0) _longjmp(scheduler, 1);
  running->waiting = nullptr;
}

// Runs a fiber until it waits or ends.
void resume(Fiber* fiber) {
  running = fiber;
  place = fiber->place;
  if (_setjmp(scheduler) != 0) return;
  if (fiber->started) _longjmp(fiber->jump, 1);
  fiber->started = true;
  setcontext(&fiber->context);
}

bool can_go_on(const Fiber& fiber) {
  const Warp& warp = block->warps[fiber.place.thread.x / 32];
  return !fiber.done && fiber.block_meetings <= block->meetings &&
         fiber.warp_meetings <= warp.meetings;
}

void complete_block_meeting() {
  if (block->running_threads > 0 && block->arrived == block->running_threads) {
    block->arrived = 0;
    ++block->meetings;
  }
}

// Runs each lane of a warp until it waits or ends; returns whether any could run.
bool run_warp(unsigned warp, unsigned threads) {
  const bool forwards = below(2) == 0;
  bool progress = false;
  for (unsigned k = 0; k < 32; ++k) {
    const unsigned thread = 32 * warp + (forwards ? k : 31 - k);
    if (thread >= threads || !can_go_on(block->fibers[thread])) continue;
    progress = true;
    resume(&block->fibers[thread]);
    if (block->fibers[thread].done) {
      --block->running_threads;
      complete_block_meeting();
    }
  }
  return progress;
}

void run_block(const ThreadPlace& first, unsigned threads, size_t shared_bytes) {
  Block current;
  block = &current;
  current.fibers.resize(threads);
  current.warps.resize((threads + 31) / 32);
  current.memory.assign(shared_bytes / 8 + 2, ~uint64_t{0});
  current.running_threads = threads;
  for (unsigned t = 0; t < threads; ++t) {
    Fiber& fiber = current.fibers[t];
    fiber.place = first;
    fiber.place.thread.x = t;
    if (spare_stacks.empty()) {
      fiber.stack.reset(new unsigned char[kStackBytes]);
    } else {
      fiber.stack = std::move(spare_stacks.back());
      spare_stacks.pop_back();
    }
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
  }
  std::vector<unsigned> order(current.warps.size());
  std::iota(order.begin(), order.end(), 0u);
  bool progress = true;
  while (current.running_threads > 0) {
    if (!progress) {
      for (const Fiber& fiber : current.fibers) {
        if (!fiber.done) {
          std::fprintf(stderr, "block %u: thread %u waits forever at %s\n", fiber.place.block.x,
                       fiber.place.thread.x, fiber.waiting);
        }
      }
      std::abort();
    }
    progress = false;
    std::shuffle(order.begin(), order.end(), schedule);
    for (const unsigned warp : order) {
      // Half of the turns last until the warp waits for the block.
      uint64_t turns = below(2) == 0 ? 1 + below(64) : ~uint64_t{0};
      while (turns-- > 0 && run_warp(warp, threads)) progress = true;
    }
  }
  for (Fiber& fiber : current.fibers) spare_stacks.push_back(std::move(fiber.stack));
  // Memory past the end of the block's share must be unchanged.
  const unsigned char* end = reinterpret_cast<unsigned char*>(current.memory.data()) + shared_bytes;
  for (const unsigned char* p = end; p < end + 8; ++p) {
    if (*p != 0xff) {
      std::fprintf(stderr, "block %u wrote past its shared memory\n", first.block.x);
      std::abort();
    }
  }
  block = nullptr;
}

}  // namespace

void run_grid(unsigned blocks, unsigned threads, size_t shared_bytes,
              const std::function<void()>& body) {
  kernel_body = &body;
  ++launches;
  newest_launch[0] = blocks;
  newest_launch[1] = threads;
  newest_launch[3] = static_cast<int64_t>(shared_bytes);
  accesses.clear();
  std::vector<unsigned> order(blocks);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), schedule);
  for (const unsigned b : order) {
    ThreadPlace first;
    first.thread = uint3{0, 0, 0};
    first.block = uint3{b, 0, 0};
    first.block_size = dim3(threads);
    first.grid_size = dim3(blocks);
    run_block(first, threads, shared_bytes);
  }
}

void seed_schedule(uint64_t seed) { schedule.seed(seed); }

void access_elements(const float* address, int count, bool atomic) {
  const int64_t warp = atomic ? kAtomics : int64_t{place.block.x} * 64 + place.thread.x / 32;
  for (int k = 0; k < count; ++k) {
    const int64_t earlier = accesses.emplace(address + k, warp).first->second;
    if (earlier == warp) continue;
    std::fprintf(stderr, "block %u, thread %u: a row that is accessed by %s\n", place.block.x,
                 place.thread.x,
                 atomic || earlier == kAtomics ? "plain and atomic accesses" : "two warps");
    std::abort();
  }
}

unsigned char* block_memory() { return reinterpret_cast<unsigned char*>(block->memory.data()); }

void meet_block() {
  ++running->block_meetings;
  ++block->arrived;
  complete_block_meeting();
  if (running->block_meetings > block->meetings) pause("__syncthreads");
}

const unsigned char* meet_warp(const void* deposit, size_t bytes) {
  const unsigned thread = running->place.thread.x;
  Warp& warp = block->warps[thread / 32];
  auto& deposits = warp.deposits[running->warp_meetings % 2];
  if (bytes > kDepositBytes) std::abort();
  if (bytes > 0) std::memcpy(deposits[thread % 32], deposit, bytes);
  ++running->warp_meetings;
  if (++warp.arrived == 32) {
    warp.arrived = 0;
    ++warp.meetings;
  } else {
    pause("a warp-wide operation");
  }
  return deposits[0];
}

void copy_later(void* target, const void* source, size_t bytes) {
  running->open_group.push_back({target, source, bytes});
}

void commit_copies() {
  running->groups.push_back(std::move(running->open_group));
  running->open_group.clear();
}

void wait_copies(int pending) {
  while (running->groups.size() > static_cast<size_t>(pending)) {
    for (const Copy& copy : running->groups.front()) {
      std::memcpy(copy.target, copy.source, copy.bytes);
    }
    running->groups.pop_front();
  }
}

}  // namespace dlrm_host

extern "C" {

const char* dlrm_sources() { return DLRM_SOURCES; }

int dlrm_newest_launch(int64_t* out) {
  std::memcpy(out, dlrm_host::newest_launch, sizeof(dlrm_host::newest_launch));
  return 0;
}

// Launches of kernels so far.
int64_t dlrm_launches() { return dlrm_host::launches; }

// out = {elements that atomics accessed, elements that plain accesses to owned elements accessed}
// in the newest launch.
void dlrm_newest_accesses(int64_t* out) {
  out[0] = out[1] = 0;
  for (const auto& access : dlrm_host::accesses)
    ++out[access.second == dlrm_host::kAtomics ? 0 : 1];
}

void dlrm_seed_schedule(uint64_t seed) { dlrm_host::seed_schedule(seed); }

}  // extern "C"

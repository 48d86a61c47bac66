#include "emulation.h"

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
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
  // Alternates direction, so that no test depends on one order of the lanes.
  bool progress = true, forwards = (first.block.x % 2) == 0;
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
    for (unsigned k = 0; k < threads; ++k) {
      Fiber& fiber = current.fibers[forwards ? k : threads - 1 - k];
      if (!can_go_on(fiber)) continue;
      progress = true;
      resume(&fiber);
      if (fiber.done) {
        --current.running_threads;
        complete_block_meeting();
      }
    }
    forwards = !forwards;
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
  newest_launch[0] = blocks;
  newest_launch[1] = threads;
  newest_launch[3] = static_cast<int64_t>(shared_bytes);
  for (unsigned b = 0; b < blocks; ++b) {
    ThreadPlace first;
    first.thread = uint3{0, 0, 0};
    first.block = uint3{b, 0, 0};
    first.block_size = dim3(threads);
    first.grid_size = dim3(blocks);
    run_block(first, threads, shared_bytes);
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

void copy_later(void* target, const void* source) {
  running->open_group.push_back({target, source});
}

void commit_copies() {
  running->groups.push_back(std::move(running->open_group));
  running->open_group.clear();
}

void wait_copies(int pending) {
  while (running->groups.size() > static_cast<size_t>(pending)) {
    for (const Copy& copy : running->groups.front()) std::memcpy(copy.target, copy.source, 16);
    running->groups.pop_front();
  }
}

}  // namespace dlrm_host

extern "C" const char* dlrm_sources() { return DLRM_SOURCES; }

extern "C" int dlrm_newest_launch(int64_t* out) {
  std::memcpy(out, dlrm_host::newest_launch, sizeof(dlrm_host::newest_launch));
  return 0;
}

// A CUDA without a GPU, for TensorFlow: its device memory is host memory, its kernels do nothing,
// and everything is complete at once. It records each call that matters for the traffic between
// host and GPU. One library stands for the driver, NVML, the runtime, cuBLAS and cuBLASLt.
#pragma once

#include <stddef.h>

#define FAKE_EXPORT __attribute__((visibility("default")))

// Appends a call. `kind` must be a literal; `bytes` and `stream` are 0 where they mean nothing.
void fake_record(const char* kind, const char* detail, size_t bytes, const void* stream);

// Two kinds of memory: device memory, and host memory that is pinned. Both are addresses that take
// memory only once they are used, filled with zeros, and never freed.
typedef enum { kDevice, kPinned, kMemories } Memory;

// Returns memory, or NULL if it is used up.
void* fake_allocate(Memory memory, size_t bytes);
size_t fake_bytes(Memory memory);
int fake_is_in(Memory memory, const void* address);

// Copies at once, and records a copy by where the addresses are: "HtoD", "DtoH", "DtoD" or "HtoH".
// Copies from or to host memory that is not pinned are "pageable": CUDA waits for them.
void fake_copy(void* to, const void* from, size_t bytes, const void* stream);

void* fake_context(void);

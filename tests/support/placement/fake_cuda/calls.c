#define _GNU_SOURCE
#include "calls.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { kMostCalls = 1 << 18, kDetail = 120 };
static const size_t kBytes = (size_t)16 << 30;

typedef struct {
  const char* kind;
  char detail[kDetail];
  size_t bytes;
  const void* stream;
} Call;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static Call* calls;
static size_t call_count;
static char* memories[kMemories];
static size_t used[kMemories];

void fake_record(const char* kind, const char* detail, size_t bytes, const void* stream) {
  pthread_mutex_lock(&mutex);
  if (calls == NULL) calls = malloc(kMostCalls * sizeof(Call));
  if (call_count < kMostCalls) {
    Call* call = &calls[call_count];
    call->kind = kind;
    snprintf(call->detail, kDetail, "%s", detail);
    call->bytes = bytes;
    call->stream = stream;
  }
  ++call_count;
  pthread_mutex_unlock(&mutex);
}

// Forgets all calls.
FAKE_EXPORT void fake_calls_reset(void) {
  pthread_mutex_lock(&mutex);
  call_count = 0;
  pthread_mutex_unlock(&mutex);
}

// Writes the calls since the last reset to a file, one a line with tabs; returns their number, or
// -1 if there were too many or the file cannot be written.
FAKE_EXPORT long fake_calls_write(const char* path) {
  FILE* file = fopen(path, "w");
  if (file == NULL) return -1;
  pthread_mutex_lock(&mutex);
  const long count = call_count <= kMostCalls ? (long)call_count : -1;
  for (long i = 0; i < count; ++i) {
    const Call* call = &calls[i];
    fprintf(file, "%s\t%s\t%zu\t%p\n", call->kind, call->detail, call->bytes, call->stream);
  }
  pthread_mutex_unlock(&mutex);
  return fclose(file) == 0 ? count : -1;
}

static void reserve(Memory memory) {
  if (memories[memory] != NULL) return;
  void* reserved = mmap(NULL, kBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) {
    perror("fake CUDA: cannot reserve addresses");
    abort();
  }
  memories[memory] = reserved;
}

void* fake_allocate(Memory memory, size_t bytes) {
  const size_t aligned = (bytes + 4095) / 4096 * 4096;
  void* result = NULL;
  pthread_mutex_lock(&mutex);
  reserve(memory);
  if (aligned <= kBytes - used[memory]) {
    result = memories[memory] + used[memory];
    used[memory] += aligned;
  }
  pthread_mutex_unlock(&mutex);
  return result;
}

size_t fake_bytes(Memory memory) { return kBytes; }

int fake_is_in(Memory memory, const void* address) {
  const uintptr_t first = (uintptr_t)memories[memory];
  return first != 0 && (uintptr_t)address >= first && (uintptr_t)address < first + kBytes;
}

void fake_copy(void* to, const void* from, size_t bytes, const void* stream) {
  static const char* const kinds[2][2] = {{"HtoH", "HtoD"}, {"DtoH", "DtoD"}};
  const int from_device = fake_is_in(kDevice, from), to_device = fake_is_in(kDevice, to);
  const int pageable =
      !(from_device || fake_is_in(kPinned, from)) || !(to_device || fake_is_in(kPinned, to));
  fake_record(kinds[from_device][to_device], pageable ? "pageable" : "pinned", bytes, stream);
  memmove(to, from, bytes);
}

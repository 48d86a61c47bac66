// Shared by the TensorFlow GPU kernels of the embedding.
#ifndef DLRM_OPS_EMBEDDING_EMBEDDING_GPU_H_
#define DLRM_OPS_EMBEDDING_EMBEDDING_GPU_H_

#include "gpu_stream.h"

#include <mutex>

#include "embedding/embedding_launchers.h"
#include "embedding/embedding_tables.h"
#include "side_stream/side_stream_of_op.h"

namespace dlrm {

// The record that kernels on the current device write bad ids to: one per device and process, so
// that whichever embedding op runs next reports them. Allocated on first use, never freed.
inline Status IdErrorOfDevice(DlrmIdError** error) {
  constexpr int kDevices = 64;
  static std::mutex mu;
  static DlrmIdError* errors[kDevices] = {};
  int device = 0;
  TF_RETURN_IF_ERROR(CudaStatus(cudaGetDevice(&device), "current device"));
  if (device >= kDevices) return Internal("CUDA device ", device);
  std::lock_guard<std::mutex> lock(mu);
  if (errors[device] == nullptr) {
    TF_RETURN_IF_ERROR(
        CudaStatus(dlrm_id_error_create(&errors[device]), "allocating the bad-id record"));
  }
  *error = errors[device];
  return Status();
}

// Reports a bad id from an earlier embedding op. Does not wait for the GPU: the first embedding op
// that starts after the failing kernel has run reports the id.
inline Status CheckEarlierIds(DlrmIdError* error) {
  DlrmIdError found;
  if (dlrm_id_error_take(error, &found) == 0) return Status();
  return InvalidArgument("id out of range: table ", found.table, ", sample ", found.sample, ": id ",
                         found.id, " is not in [0, ", found.bound,
                         ") (found on the GPU by an earlier call, which used zeros for its row)");
}

// A batch as the launchers take it, with its host arrays.
struct GpuBatch {
  Tables tables;
  DlrmEmbeddingBatch launch;

  // Checks ids, base_rows and table_rows against a variable of `rows` rows of `dim` elements, and
  // reports bad ids of earlier calls.
  template <class R, class T, class Id>
  Status Prepare(const tensorflow::Tensor& ids, const tensorflow::Tensor& base_rows,
                 const tensorflow::Tensor& table_rows, int64_t rows, int64_t dim) {
    DlrmIdError* error = nullptr;
    TF_RETURN_IF_ERROR(IdErrorOfDevice(&error));
    TF_RETURN_IF_ERROR(CheckEarlierIds(error));
    TF_RETURN_IF_ERROR(ReadTables(ids, base_rows, table_rows, rows, &tables));
    launch = {ids.dim_size(0),
              ids.dim_size(1),
              dim,
              rows,
              DeviceData(ids),
              tables.base.data(),
              tables.count.data(),
              error,
              CudaType<Id>::kValue,
              CudaType<T>::kValue,
              CudaType<R>::kValue};
    return Status();
  }
};

// Gives a variable whose value a reader holds a buffer of its own, on the compute stream.
inline Status OwnDeviceBuffer(tensorflow::OpKernelContext* c, tensorflow::Var* variable,
                              const std::string& role) {
  return OwnBuffer(
      c, variable, role, [c](const tensorflow::Tensor& from, const tensorflow::Tensor& to) {
        return CudaStatus(cudaMemcpyAsync(MutableDeviceData(to), DeviceData(from),
                                          from.TotalBytes(), cudaMemcpyDeviceToDevice, StreamOf(c)),
                          "copying a variable with readers");
      });
}

}  // namespace dlrm

#endif  // DLRM_OPS_EMBEDDING_EMBEDDING_GPU_H_

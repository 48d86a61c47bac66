// Shared by the TensorFlow GPU kernels of the embedding.
#ifndef DLRM_OPS_EMBEDDING_EMBEDDING_GPU_H_
#define DLRM_OPS_EMBEDDING_EMBEDDING_GPU_H_

#include "gpu_stream.h"

#include <mutex>
#include <vector>

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

// The attributes of a bag op as the launchers take them.
struct GpuBags {
  BagAttributes attributes;
  std::vector<int32_t> hotness;
  std::vector<uint8_t> mean, variable;

  Status Read(tensorflow::OpKernelConstruction* c) {
    TF_RETURN_IF_ERROR(attributes.Read(c));
    constexpr int64_t kMostSlots = 1 << 30;
    if (attributes.slots() > kMostSlots) {
      return InvalidArgument("hotness: expected at most ", kMostSlots, " slots, found ",
                             attributes.slots());
    }
    hotness.assign(attributes.hotness.begin(), attributes.hotness.end());
    mean.assign(attributes.mean.begin(), attributes.mean.end());
    variable.assign(attributes.variable.begin(), attributes.variable.end());
    return Status();
  }
};

// A batch as the launchers take it, with its host arrays.
struct GpuBatch {
  Tables tables;
  DlrmEmbeddingBatch launch = {};

  // Checks ids, base_rows and table_rows against a variable of `rows` rows of `dim` elements, and
  // reports bad ids of earlier calls.
  template <class R, class T, class Id>
  Status Prepare(const tensorflow::Tensor& ids, const tensorflow::Tensor& base_rows,
                 const tensorflow::Tensor& table_rows, int64_t rows, int64_t dim) {
    TF_RETURN_IF_ERROR(ReportEarlierIds());
    TF_RETURN_IF_ERROR(ReadTables(ids, base_rows, table_rows, rows, &tables));
    Describe<R, T, Id>(ids, ids.dim_size(0), rows, dim);
    return Status();
  }

  // The same for a bag op. `bags` outlives this object.
  template <class R, class T, class Id>
  Status PrepareBags(const tensorflow::Tensor& ids, const tensorflow::Tensor& offsets,
                     const tensorflow::Tensor& base_rows, const tensorflow::Tensor& table_rows,
                     int64_t rows, int64_t dim, const GpuBags& bags) {
    TF_RETURN_IF_ERROR(ReportEarlierIds());
    int64_t batch = 0;
    TF_RETURN_IF_ERROR(
        ReadBags(ids, offsets, base_rows, table_rows, rows, bags.attributes, &tables, &batch));
    Describe<R, T, Id>(ids, batch, rows, dim);
    if (bags.attributes.has_offsets()) {
      launch.offsets = reinterpret_cast<const int32_t*>(DeviceData(offsets));
      launch.ids_count = ids.NumElements();
    } else {
      launch.hotness = bags.hotness.data();
      launch.mean = bags.mean.data();
      launch.variable = bags.variable.data();
    }
    return Status();
  }

 private:
  Status ReportEarlierIds() {
    TF_RETURN_IF_ERROR(IdErrorOfDevice(&launch.error));
    return CheckEarlierIds(launch.error);
  }

  template <class R, class T, class Id>
  void Describe(const tensorflow::Tensor& ids, int64_t batch, int64_t rows, int64_t dim) {
    launch.batch = batch;
    launch.tables = static_cast<int64_t>(tables.base.size());
    launch.dim = dim;
    launch.total_rows = rows;
    launch.ids = DeviceData(ids);
    launch.base_rows = tables.base.data();
    launch.table_rows = tables.count.data();
    launch.id_type = CudaType<Id>::kValue;
    launch.dtype = CudaType<T>::kValue;
    launch.row_type = CudaType<R>::kValue;
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

// The CPU kernel of Dlrm>ReadSlice: reads, decodes and checks a slice block by block.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "read_slice/column_files.h"
#include "read_slice/decode_kernels.h"
#include "read_slice/list_files.h"
#include "read_slice/slice_plan.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace dlrm {
namespace {

namespace tf = ::tensorflow;

// Maximum rows, and bytes of stored and decoded values, read at a time: both fit the second-level
// cache.
constexpr int64_t kBlockRows = 4096;
constexpr int64_t kBlockBytes = 2 << 20;
// Rows decoded at a time if several columns interleave: the output fits the first-level cache.
constexpr int64_t kTileRows = 128;
// A slot without an id, as in ops/bags.py.
constexpr int32_t kEmpty = -1;

Status ToStatus(const ReadError& error) {
  switch (error.kind) {
    case ReadError::kNone:
      return Status();
    case ReadError::kOpen:
    case ReadError::kReplaced:
      return NotFound(error.message);
    case ReadError::kPermission:
      return PermissionDenied(error.message);
    case ReadError::kValue:
      return InvalidArgument(error.message);
    default:
      // Not OutOfRange, which would end a tf.data pipeline silently.
      return DataLoss(error.message);
  }
}

Stored StoredAs(tf::DataType dtype) {
  switch (dtype) {
    case tf::DT_BOOL:  // read as a byte so that values other than 0 and 1 are detected
    case tf::DT_UINT8:
      return Stored::kUint8;
    case tf::DT_INT8:
      return Stored::kInt8;
    case tf::DT_INT16:
      return Stored::kInt16;
    case tf::DT_INT32:
      return Stored::kInt32;
    case tf::DT_HALF:
      return Stored::kHalf;
    default:
      return Stored::kFloat;
  }
}

template <typename Out>
class ReadSliceOp : public tf::OpKernel {
 public:
  explicit ReadSliceOp(tf::OpKernelConstruction* context) : tf::OpKernel(context) {
    OP_REQUIRES_OK(context, SlicePlan::Make(context, std::is_same_v<Out, float>, &plan_));
    for (Segment& segment : plan_.segments) segment.file = files_.Add(segment.path);
    for (Segment& segment : plan_.boundaries) {
      if (!segment.path.empty()) segment.file = files_.Add(segment.path);
    }
    int64_t row_bytes = plan_.width * static_cast<int64_t>(sizeof(Out));
    for (const SliceColumn& column : plan_.columns) row_bytes += ScratchBytes(column);
    block_rows_ = std::clamp(kBlockBytes / row_bytes, int64_t{16}, kBlockRows);
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& first = context->input(0);
    const tf::Tensor& count = context->input(1);
    OP_REQUIRES(context, first.dims() == 1 && first.shape() == count.shape(),
                InvalidArgument("read slice: expected first [P] and count [P], found shapes ",
                                first.shape().DebugString(), " and ", count.shape().DebugString()));
    const int64_t parts = first.NumElements();
    OP_REQUIRES(
        context, parts >= 1 && plan_.rows % parts == 0,
        InvalidArgument("read slice: expected rows divisible by the number of parts, found ",
                        plan_.rows, " rows and ", parts, " parts"));
    OP_REQUIRES_OK(context, OpenAll());
    tf::Tensor* output = nullptr;
    const tf::TensorShape shape({plan_.rows, plan_.width});
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &output));
    const int64_t part_rows = plan_.rows / parts;
    Out* out = output->flat<Out>().data();
    Scratch scratch(*this);
    for (int64_t part = 0; part < parts; ++part, out += part_rows * plan_.width) {
      const int64_t begin = first.vec<int64_t>()(part);
      const int64_t samples = count.vec<int64_t>()(part);
      OP_REQUIRES(
          context, begin >= 0 && samples >= 0 && samples <= part_rows,
          InvalidArgument("read slice: part ", part, ": expected first >= 0 and count 0 to ",
                          part_rows, ", found first ", begin, " and count ", samples));
      for (int64_t done = 0; done < samples; done += block_rows_) {
        const int64_t block = std::min(block_rows_, samples - done);
        const ReadError error = ReadBlock(begin + done, block, out + done * plan_.width, &scratch);
        OP_REQUIRES(context, !error, ToStatus(error));
      }
      std::fill(out + samples * plan_.width, out + part_rows * plan_.width, Out{0});
      for (const SliceColumn& column : plan_.columns) {
        for (int64_t row = samples; column.lists && row < part_rows; ++row) {
          std::fill_n(out + row * plan_.width + column.first_output, column.width, Out{kEmpty});
        }
      }
    }
  }

 private:
  // Stored bytes of a sample in a buffer, at most.
  static int64_t ScratchBytes(const SliceColumn& column) {
    return column.lists ? column.width * column.size : column.stride;
  }

  // A buffer for the stored bytes of a block, column after column.
  struct Scratch {
    explicit Scratch(const ReadSliceOp& op) : worst(op.plan_.width) {
      int64_t bytes = 0;
      for (const SliceColumn& column : op.plan_.columns) {
        starts.push_back(bytes);
        bytes += op.block_rows_ * ScratchBytes(column);
        list_starts.emplace_back(column.lists ? op.block_rows_ + 1 : 0);
      }
      // Uninitialised: every byte that is used is read from a file first.
      stored.reset(new char[bytes]);
    }
    std::unique_ptr<char[]> stored;
    std::vector<int64_t> starts;
    std::vector<std::vector<int64_t>> list_starts;  // of each column, in values
    std::vector<uint32_t> worst;
  };

  Status OpenAll() {
    {
      std::lock_guard<std::mutex> lock(open_mutex_);
      if (!opened_) {
        if (const ReadError error = files_.Open()) return ToStatus(error);
        opened_ = true;
      }
    }
    return ToStatus(files_.StillThere());
  }

  // Reads a column's stored values of samples [first, first + rows) as one strided run.
  ReadError ReadStored(const SliceColumn& column, int64_t first, int64_t rows, char* out) const {
    const int64_t value_bytes = column.width * column.size;
    int64_t segment = column.first_segment;
    const int64_t end = column.first_segment + column.segments;
    while (rows > 0) {
      for (; segment < end && first >= plan_.segments[segment].samples; ++segment) {
        first -= plan_.segments[segment].samples;
      }
      if (segment == end) return BeyondLast(plan_.segments[end - 1], first, rows);
      const Segment& part = plan_.segments[segment];
      const int64_t here = std::min(rows, part.samples - first);
      // The last sample's bytes end with its values, not a full stride.
      const ReadError error = files_.Of(part).Read(part.offset + first * column.stride,
                                                   (here - 1) * column.stride + value_bytes, out);
      if (error) return error;
      out += here * column.stride;
      first += here;
      rows -= here;
    }
    return {};
  }

  ReadError ReadBlock(int64_t first, int64_t rows, Out* out, Scratch* scratch) const {
    const SliceColumn& only = plan_.columns[0];
    constexpr bool kToFloat = std::is_same_v<Out, float>;
    const bool as_stored = plan_.columns.size() == 1 && !only.lists &&
                           only.stride == only.width * only.size &&
                           only.stored == (kToFloat ? tf::DT_FLOAT : tf::DT_INT32);
    if (as_stored) {
      if (const ReadError error = ReadStored(only, first, rows, reinterpret_cast<char*>(out))) {
        return error;
      }
    } else {
      for (size_t i = 0; i < plan_.columns.size(); ++i) {
        const SliceColumn& column = plan_.columns[i];
        char* stored = scratch->stored.get() + scratch->starts[i];
        const ReadError error = column.lists ? ReadLists(plan_, files_, column, first, rows, stored,
                                                         scratch->list_starts[i].data())
                                             : ReadStored(column, first, rows, stored);
        if (error) return error;
      }
      const int64_t tile_rows = plan_.columns.size() == 1 ? rows : kTileRows;
      for (int64_t row = 0; row < rows; row += tile_rows) {
        const int64_t tile = std::min(tile_rows, rows - row);
        for (size_t i = 0; i < plan_.columns.size(); ++i) {
          const SliceColumn& column = plan_.columns[i];
          const char* in = scratch->stored.get() + scratch->starts[i];
          Out* to = out + row * plan_.width + column.first_output;
          if constexpr (!kToFloat) {
            if (column.lists) {
              const int64_t* starts = scratch->list_starts[i].data() + row;
              const uint32_t worst = kernels_.lists(StoredAs(column.stored), in, starts, tile,
                                                    column.width, to, plan_.width);
              if (plan_.check == SlicePlan::kIds &&
                  worst >= static_cast<uint32_t>(plan_.bounds[column.first_output])) {
                return ExplainList(column, first + row, starts, to);
              }
              continue;
            }
          }
          in += row * column.stride;
          if constexpr (kToFloat) {
            kernels_.to_float(StoredAs(column.stored), in, column.stride, tile, column.width, to,
                              plan_.width);
          } else {
            kernels_.to_int32(StoredAs(column.stored), in, column.stride, tile, column.width, to,
                              plan_.width);
          }
        }
      }
    }
    return CheckBlock(first, rows, out, scratch);
  }

  ReadError CheckBlock(int64_t first, int64_t rows, Out* out, Scratch* scratch) const {
    const int64_t values = rows * plan_.width;
    if constexpr (std::is_same_v<Out, float>) {
      if (plan_.log_shift >= 0) kernels_.shifted_log(out, values, plan_.log_shift);
      if (plan_.check == SlicePlan::kFinite && !kernels_.all_finite(out, values)) {
        return Explain(first, rows, out, [](float value, int64_t) { return std::isfinite(value); });
      }
      if (plan_.check == SlicePlan::kBinary && !kernels_.all_binary(out, values)) {
        return Explain(first, rows, out,
                       [](float value, int64_t) { return value == 0.0f || value == 1.0f; });
      }
    } else {
      if (plan_.check == SlicePlan::kIds &&
          !kernels_.all_at_most(out, rows, plan_.width, plan_.largest.data(),
                                scratch->worst.data())) {
        return Explain(first, rows, out, [this](int32_t id, int64_t j) {
          return static_cast<uint32_t>(id) <= plan_.largest[j];
        });
      }
    }
    return {};
  }

  // Describes the first id that is outside its vocabulary in decoded lists from sample `first` on.
  ReadError ExplainList(const SliceColumn& column, int64_t first, const int64_t* starts,
                        const int32_t* out) const {
    const int32_t bound = plan_.bounds[column.first_output];
    for (int64_t row = 0;; ++row, out += plan_.width) {
      for (int64_t i = 0; i < starts[row + 1] - starts[row]; ++i) {
        if (out[i] >= 0 && out[i] < bound) continue;
        return {ReadError::kValue, plan_.segments[column.first_segment].path + ": sample " +
                                       std::to_string(first + row) + TableOf(plan_, column) + ": " +
                                       Outside(out[i], bound)};
      }
    }
  }

  static std::string Outside(int64_t id, int64_t bound) {
    return "id " + std::to_string(id) + " is outside its vocabulary: expected 0 to " +
           std::to_string(bound - 1);
  }

  // Describes the first value of a block that is not `good`.
  template <typename Good>
  ReadError Explain(int64_t first, int64_t rows, const Out* out, Good good) const {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t j = 0; j < plan_.width; ++j) {
        const Out value = out[row * plan_.width + j];
        if (good(value, j)) continue;
        const SliceColumn* column = &plan_.columns[0];
        for (const SliceColumn& one : plan_.columns) {
          if (one.first_output <= j) column = &one;
        }
        std::string what =
            plan_.segments[column->first_segment].path + ": sample " + std::to_string(first + row) +
            (plan_.tables.empty() ? ", value " + std::to_string(j - column->first_output)
                                  : ", table " + std::to_string(plan_.tables[j])) +
            ": ";
        if (plan_.check == SlicePlan::kIds) {
          what += Outside(static_cast<int64_t>(value), plan_.bounds[j]);
        } else if (plan_.check == SlicePlan::kBinary) {
          what += "label " + std::to_string(value) + ": expected 0 or 1";
        } else {
          what += plan_.log_shift >= 0
                      ? "log(value + " + std::to_string(static_cast<int>(plan_.log_shift)) +
                            ") is not finite"
                      : "dense value is not finite";
        }
        return {ReadError::kValue, std::move(what)};
      }
    }
    return {};
  }

  const DecodeKernels& kernels_ = BestDecodeKernels();
  SlicePlan plan_;
  int64_t block_rows_ = kBlockRows;
  ColumnFiles files_;
  std::mutex open_mutex_;
  bool opened_ = false;  // guarded by open_mutex_
};

REGISTER_KERNEL_BUILDER(Name("Dlrm>ReadSlice").Device(tf::DEVICE_CPU).TypeConstraint<float>("T"),
                        ReadSliceOp<float>);
REGISTER_KERNEL_BUILDER(Name("Dlrm>ReadSlice").Device(tf::DEVICE_CPU).TypeConstraint<int32_t>("T"),
                        ReadSliceOp<int32_t>);

}  // namespace
}  // namespace dlrm

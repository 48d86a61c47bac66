// Dlrm>ReadSlice: slices of samples from column files, decoded into one tensor [rows, width].
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "read_slice/column_files.h"
#include "read_slice/decode_kernels.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/platform/errors.h"
#include "tensorflow/core/platform/mutex.h"

namespace dlrm {
namespace {

namespace tf = ::tensorflow;

REGISTER_OP("Dlrm>ReadSlice")
    .Input("first: int64")
    .Input("count: int64")
    .Output("values: T")
    .Attr("T: {float, int32}")
    .Attr("rows: int >= 1")
    .Attr("filenames: list(string)")
    .Attr("offsets: list(int)")
    .Attr("samples: list(int)")
    .Attr("segments: list(int)")
    .Attr("stored: list({bool, int8, uint8, int16, int32, half, float})")
    .Attr("widths: list(int)")
    .Attr("strides: list(int)")
    .Attr("check: {'none', 'finite', 'binary', 'ids'} = 'none'")
    .Attr("bounds: list(int) = []")
    .Attr("tables: list(int) = []")
    .Attr("log_shift: float = -1.0")
    .SetIsStateful()
    .SetShapeFn([](tf::shape_inference::InferenceContext* context) -> tf::Status {
      tf::shape_inference::ShapeHandle first;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 1, &first));
      TF_RETURN_IF_ERROR(context->Merge(first, context->input(1), &first));
      tf::int64 rows;
      TF_RETURN_IF_ERROR(context->GetAttr("rows", &rows));
      std::vector<int> widths;
      TF_RETURN_IF_ERROR(context->GetAttr("widths", &widths));
      tf::int64 width = 0;
      for (int one : widths) width += one;
      context->set_output(0, context->Matrix(rows, width));
      return tf::Status();
    })
    .Doc(R"doc(
Reads samples from column files into a [rows, sum(widths)] tensor.

Part p of the P parts of `first` and `count` fills rows p * rows / P onwards with samples
first[p] .. first[p] + count[p] - 1; the part's rows after those are zero.

first: [P] index of each part's first sample.
count: [P] samples to read, at most rows / P.
filenames: one for each segment, column after column.
offsets: byte offset of each segment's first sample.
samples: samples in each segment.
segments: number of segments of each column.
stored: dtype of each column in its files, little endian.
widths: values per sample of each column.
strides: bytes from one sample to the next in each column's files.
check: 'finite' or 'binary' (each value 0 or 1) for float, 'ids' (0 <= id < bound) for int32.
bounds: one for each output column, with check 'ids'.
tables: likewise, the tables that the ids belong to, for the message about a bad one.
log_shift: where not negative, the output is log(value + log_shift).
)doc");

// Rows read at a time: their stored bytes and their decoded form both fit the second-level cache.
constexpr int64_t kBlockRows = 4096;
// Rows decoded at a time when several columns interleave: their output fits the first-level cache.
constexpr int64_t kTileRows = 128;

struct SliceColumn {
  tf::DataType stored;
  int64_t size;  // bytes of one stored value
  int64_t width;
  int64_t stride;
  int64_t first_output;
  int64_t first_segment;
  int64_t segments;
};

tf::Status ToStatus(const ReadError& error) {
  switch (error.kind) {
    case ReadError::kNone:
      return tf::Status();
    case ReadError::kOpen:
    case ReadError::kReplaced:
      return tf::errors::NotFound(error.message);
    case ReadError::kPermission:
      return tf::errors::PermissionDenied(error.message);
    case ReadError::kValue:
      return tf::errors::InvalidArgument(error.message);
    default:
      // OutOfRange would end a tf.data pipeline in silence.
      return tf::errors::DataLoss(error.message);
  }
}

Stored StoredAs(tf::DataType dtype) {
  switch (dtype) {
    case tf::DT_BOOL:  // a byte: other values than 0 and 1 must show up, so not read as bool
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
    std::vector<std::string> filenames;
    std::vector<int64_t> offsets, samples, segments, widths, strides, bounds, tables;
    tf::DataTypeVector stored;
    std::string check;
    OP_REQUIRES_OK(context, context->GetAttr("rows", &rows_));
    OP_REQUIRES_OK(context, context->GetAttr("filenames", &filenames));
    OP_REQUIRES_OK(context, GetInts(context, "offsets", &offsets));
    OP_REQUIRES_OK(context, GetInts(context, "samples", &samples));
    OP_REQUIRES_OK(context, GetInts(context, "segments", &segments));
    OP_REQUIRES_OK(context, context->GetAttr("stored", &stored));
    OP_REQUIRES_OK(context, GetInts(context, "widths", &widths));
    OP_REQUIRES_OK(context, GetInts(context, "strides", &strides));
    OP_REQUIRES_OK(context, context->GetAttr("check", &check));
    OP_REQUIRES_OK(context, GetInts(context, "bounds", &bounds));
    OP_REQUIRES_OK(context, GetInts(context, "tables", &tables));
    OP_REQUIRES_OK(context, context->GetAttr("log_shift", &log_shift_));
    OP_REQUIRES(context,
                !stored.empty() && widths.size() == stored.size() &&
                    strides.size() == stored.size() && segments.size() == stored.size(),
                tf::errors::InvalidArgument(
                    "expected as many widths, strides and segments as stored dtypes, found ",
                    widths.size(), ", ", strides.size(), ", ", segments.size(), " and ",
                    stored.size()));
    int64_t all_segments = 0;
    for (size_t i = 0; i < stored.size(); ++i) {
      const int64_t size = tf::DataTypeSize(stored[i]);
      OP_REQUIRES(context, widths[i] >= 1 && strides[i] >= size * widths[i] && segments[i] >= 1,
                  tf::errors::InvalidArgument(
                      "column ", i, ": width ", widths[i], ", stride ", strides[i], ", ",
                      segments[i], " segments: expected at least 1, ", size * widths[i], ", 1"));
      columns_.push_back(
          {stored[i], size, widths[i], strides[i], width_, all_segments, segments[i]});
      width_ += widths[i];
      all_segments += segments[i];
    }
    OP_REQUIRES(context,
                filenames.size() == static_cast<size_t>(all_segments) &&
                    offsets.size() == filenames.size() && samples.size() == filenames.size(),
                tf::errors::InvalidArgument("expected ", all_segments,
                                            " filenames, offsets and samples, found ",
                                            filenames.size(), ", ", offsets.size(), " and ",
                                            samples.size()));
    for (size_t i = 0; i < filenames.size(); ++i) {
      OP_REQUIRES(context, offsets[i] >= 0 && samples[i] >= 0,
                  tf::errors::InvalidArgument(filenames[i], ": offset ", offsets[i], ", samples ",
                                              samples[i], ": neither may be negative"));
      segments_.push_back({filenames[i], offsets[i], samples[i]});
      files_.emplace_back(filenames[i]);
    }
    const bool ids = check == "ids";
    check_ = ids ? kIds : check == "finite" ? kFinite : check == "binary" ? kBinary : kNone;
    const bool is_float = std::is_same_v<Out, float>;
    OP_REQUIRES(context, check_ == kNone || is_float != ids,
                tf::errors::InvalidArgument("check '", check, "' does not fit the output dtype"));
    OP_REQUIRES(context, bounds.size() == static_cast<size_t>(ids ? width_ : 0),
                tf::errors::InvalidArgument("expected ", ids ? width_ : 0, " bounds, found ",
                                            bounds.size()));
    OP_REQUIRES(context, tables.empty() || tables.size() == bounds.size(),
                tf::errors::InvalidArgument("expected ", bounds.size(), " tables, found ",
                                            tables.size()));
    tables_ = tables;
    OP_REQUIRES(context, log_shift_ < 0 || is_float,
                tf::errors::InvalidArgument("log_shift needs a float output"));
    bounds_.assign(bounds.begin(), bounds.end());
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& first = context->input(0);
    const tf::Tensor& count = context->input(1);
    OP_REQUIRES(context, first.dims() == 1 && first.shape() == count.shape(),
                tf::errors::InvalidArgument("first and count must be vectors of one length, found ",
                                            first.shape().DebugString(), " and ",
                                            count.shape().DebugString()));
    const int64_t parts = first.NumElements();
    OP_REQUIRES(context, parts >= 1 && rows_ % parts == 0,
                tf::errors::InvalidArgument(rows_, " rows cannot be dealt to ", parts, " parts"));
    OP_REQUIRES_OK(context, OpenAll());
    tf::Tensor* output = nullptr;
    OP_REQUIRES_OK(context,
                   context->allocate_output(0, tf::TensorShape({rows_, width_}), &output));
    const int64_t part_rows = rows_ / parts;
    Out* out = output->flat<Out>().data();
    Scratch scratch(*this);
    for (int64_t part = 0; part < parts; ++part, out += part_rows * width_) {
      const int64_t begin = first.vec<tf::int64>()(part);
      const int64_t samples = count.vec<tf::int64>()(part);
      OP_REQUIRES(context, begin >= 0 && samples >= 0 && samples <= part_rows,
                  tf::errors::InvalidArgument("part ", part, ": first sample ", begin, ", count ",
                                              samples, ": expected a count of 0 to ", part_rows));
      for (int64_t done = 0; done < samples; done += kBlockRows) {
        const int64_t block = std::min(kBlockRows, samples - done);
        const ReadError error = ReadBlock(begin + done, block, out + done * width_, &scratch);
        OP_REQUIRES(context, !error, ToStatus(error));
      }
      std::fill(out + samples * width_, out + part_rows * width_, Out{0});
    }
  }

 private:
  enum Check { kNone, kFinite, kBinary, kIds };

  // One buffer for the stored bytes of a block, column after column.
  struct Scratch {
    explicit Scratch(const ReadSliceOp& op) : worst(op.width_) {
      int64_t bytes = 0;
      for (const SliceColumn& column : op.columns_) {
        starts.push_back(bytes);
        bytes += kBlockRows * column.stride;
      }
      // Left uninitialised: every byte that is used is read from a file first.
      stored.reset(new char[bytes]);
    }
    std::unique_ptr<char[]> stored;
    std::vector<int64_t> starts;
    std::vector<uint32_t> worst;
  };

  static tf::Status GetInts(tf::OpKernelConstruction* context, const char* name,
                            std::vector<int64_t>* out) {
    std::vector<tf::int64> values;
    TF_RETURN_IF_ERROR(context->GetAttr(name, &values));
    out->assign(values.begin(), values.end());
    return tf::Status();
  }

  tf::Status OpenAll() {
    {
      tf::mutex_lock lock(open_mutex_);
      if (!opened_) {
        for (ColumnFile& file : files_) {
          if (const ReadError error = file.Open()) return ToStatus(error);
        }
        opened_ = true;
      }
    }
    for (const ColumnFile& file : files_) {
      if (const ReadError error = file.StillThere()) return ToStatus(error);
    }
    return tf::Status();
  }

  // Reads a column's stored values of samples [first, first + rows) as one strided run.
  ReadError ReadStored(const SliceColumn& column, int64_t first, int64_t rows, char* out) const {
    const int64_t value_bytes = column.width * column.size;
    int64_t segment = column.first_segment;
    const int64_t end = column.first_segment + column.segments;
    while (rows > 0) {
      for (; segment < end && first >= segments_[segment].samples; ++segment) {
        first -= segments_[segment].samples;
      }
      if (segment == end) {
        return {ReadError::kShort, segments_[end - 1].path + ": a sample beyond the last one, by " +
                                       std::to_string(first) + ", was asked for"};
      }
      const int64_t here = std::min(rows, segments_[segment].samples - first);
      // The last sample's bytes end with its values, not with its stride.
      const ReadError error =
          files_[segment].Read(segments_[segment].offset + first * column.stride,
                               (here - 1) * column.stride + value_bytes, out);
      if (error) return error;
      out += here * column.stride;
      first += here;
      rows -= here;
    }
    return {};
  }

  ReadError ReadBlock(int64_t first, int64_t rows, Out* out, Scratch* scratch) const {
    const SliceColumn& only = columns_[0];
    constexpr bool kToFloat = std::is_same_v<Out, float>;
    const bool as_stored = columns_.size() == 1 && only.stride == only.width * only.size &&
                           only.stored == (kToFloat ? tf::DT_FLOAT : tf::DT_INT32);
    if (as_stored) {
      if (const ReadError error = ReadStored(only, first, rows, reinterpret_cast<char*>(out))) {
        return error;
      }
    } else {
      for (size_t i = 0; i < columns_.size(); ++i) {
        char* stored = scratch->stored.get() + scratch->starts[i];
        if (const ReadError error = ReadStored(columns_[i], first, rows, stored)) return error;
      }
      const int64_t tile_rows = columns_.size() == 1 ? rows : kTileRows;
      for (int64_t row = 0; row < rows; row += tile_rows) {
        const int64_t tile = std::min(tile_rows, rows - row);
        for (size_t i = 0; i < columns_.size(); ++i) {
          const SliceColumn& column = columns_[i];
          const char* in = scratch->stored.get() + scratch->starts[i] + row * column.stride;
          Out* to = out + row * width_ + column.first_output;
          if constexpr (kToFloat) {
            kernels_.to_float(StoredAs(column.stored), in, column.stride, tile, column.width, to,
                              width_);
          } else {
            kernels_.to_int32(StoredAs(column.stored), in, column.stride, tile, column.width, to,
                              width_);
          }
        }
      }
    }
    return CheckBlock(first, rows, out, scratch);
  }

  ReadError CheckBlock(int64_t first, int64_t rows, Out* out, Scratch* scratch) const {
    const int64_t values = rows * width_;
    if constexpr (std::is_same_v<Out, float>) {
      if (log_shift_ >= 0) kernels_.shifted_log(out, values, log_shift_);
      if (check_ == kFinite && !kernels_.all_finite(out, values)) {
        return Explain(first, rows, out, [](float value, int64_t) { return std::isfinite(value); });
      }
      if (check_ == kBinary && !kernels_.all_binary(out, values)) {
        return Explain(first, rows, out,
                       [](float value, int64_t) { return value == 0.0f || value == 1.0f; });
      }
    } else {
      if (check_ == kIds &&
          !kernels_.all_below(out, rows, width_, bounds_.data(), scratch->worst.data())) {
        return Explain(first, rows, out, [this](int32_t id, int64_t j) {
          return id >= 0 && id < bounds_[j];
        });
      }
    }
    return {};
  }

  // Names the first value of a block that is not `good`.
  template <typename Good>
  ReadError Explain(int64_t first, int64_t rows, const Out* out, Good good) const {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t j = 0; j < width_; ++j) {
        const Out value = out[row * width_ + j];
        if (good(value, j)) continue;
        const SliceColumn* column = &columns_[0];
        for (const SliceColumn& one : columns_) {
          if (one.first_output <= j) column = &one;
        }
        std::string what = segments_[column->first_segment].path + ": sample " +
                           std::to_string(first + row) +
                           (tables_.empty()
                                ? ", value " + std::to_string(j - column->first_output)
                                : ", table " + std::to_string(tables_[j])) +
                           ": ";
        if (check_ == kIds) {
          what += "id " + std::to_string(value) + " is outside its vocabulary: expected 0 to " +
                  std::to_string(bounds_[j] - 1);
        } else if (check_ == kBinary) {
          what += "label " + std::to_string(value) + ": expected 0 or 1";
        } else {
          what += log_shift_ >= 0
                      ? "log(value + " + std::to_string(static_cast<int>(log_shift_)) +
                            ") is not finite"
                      : "dense value is not finite";
        }
        return {ReadError::kValue, std::move(what)};
      }
    }
    return {};
  }

  const DecodeKernels& kernels_ = BestDecodeKernels();
  int64_t rows_ = 0;
  int64_t width_ = 0;
  std::vector<SliceColumn> columns_;
  std::vector<Segment> segments_;
  std::vector<ColumnFile> files_;
  std::vector<int32_t> bounds_;
  std::vector<int64_t> tables_;
  Check check_ = kNone;
  float log_shift_ = -1;
  tf::mutex open_mutex_;
  bool opened_ TF_GUARDED_BY(open_mutex_) = false;
};

REGISTER_KERNEL_BUILDER(
    Name("Dlrm>ReadSlice").Device(tf::DEVICE_CPU).TypeConstraint<float>("T"), ReadSliceOp<float>);
REGISTER_KERNEL_BUILDER(
    Name("Dlrm>ReadSlice").Device(tf::DEVICE_CPU).TypeConstraint<tf::int32>("T"),
    ReadSliceOp<int32_t>);

}  // namespace
}  // namespace dlrm

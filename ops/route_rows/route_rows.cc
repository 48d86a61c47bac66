// Computes which rows a rank requests from each owner, and where the answers belong in its samples.
//
// Each (sample, table) needs one row of each of the table's pieces (one, or two where tables are
// split by columns). A piece is either complete on one rank, or its rows are partitioned over the
// ranks: owner = id mod N, row = id div N.

#include <cstdint>
#include <vector>

#include "route_rows/partition.h"
#include "status.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace dlrm {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

REGISTER_OP("Dlrm>RouteRows")
    .Input("ids: int32")
    .Attr("vocab_sizes: list(int)")
    .Attr("owners: list(int)")
    .Attr("bases: list(int)")
    .Attr("steps: list(int)")
    .Attr("ranks: int >= 1")
    .Attr("unique: bool")
    .Output("rows: int32")
    .Output("requested: int32")
    .Output("order: int32")
    .Output("position: int32")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle ids;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &ids));
      int64_t ranks;
      TF_RETURN_IF_ERROR(c->GetAttr("ranks", &ranks));
      c->set_output(0, c->Vector(InferenceContext::kUnknownDim));
      c->set_output(1, c->Vector(ranks));
      c->set_output(2, c->Vector(InferenceContext::kUnknownDim));
      c->set_output(3, c->Vector(InferenceContext::kUnknownDim));
      return Status();
    })
    .Doc("ids [b, T]. rows [n] of the owners' variables, sorted by owner; requested [ranks] is "
         "the number per owner. Needed row k = (sample, table, piece) is at rows[position[k]]; "
         "without unique, "
         "rows[i] is needed by k = order[i]. With unique no row occurs twice, and order only has "
         "rows' length.");

// Numbers distinct (owner, row) pairs in order of appearance, in a hash table with open addressing.
class PairNumbers {
 public:
  explicit PairNumbers(size_t capacity) {
    size_t slots = 16;
    while (slots < 2 * capacity) slots *= 2;
    mask_ = slots - 1;
    keys_.assign(slots, kEmpty);
    numbers_.resize(slots);
  }

  // Returns the number of the pair; sets `fresh` if it is new.
  int32_t Number(int32_t owner, int32_t row, bool* fresh) {
    const uint64_t key = (static_cast<uint64_t>(owner) << 32) | static_cast<uint32_t>(row);
    // Fibonacci hashing: the multiplier is 2^64 over the golden ratio.
    size_t slot = ((key * 0x9E3779B97F4A7C15ull) >> 20) & mask_;
    while (keys_[slot] != kEmpty && keys_[slot] != key) slot = (slot + 1) & mask_;
    *fresh = keys_[slot] == kEmpty;
    if (*fresh) {
      keys_[slot] = key;
      numbers_[slot] = count_++;
    }
    return numbers_[slot];
  }

 private:
  static constexpr uint64_t kEmpty = ~0ull;  // no owner is 2^32 - 1
  std::vector<uint64_t> keys_;
  std::vector<int32_t> numbers_;
  size_t mask_;
  int32_t count_ = 0;
};

class RouteRowsOp : public OpKernel {
 public:
  explicit RouteRowsOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("vocab_sizes", &vocab_sizes_));
    OP_REQUIRES_OK(context, context->GetAttr("owners", &owners_));
    OP_REQUIRES_OK(context, context->GetAttr("bases", &bases_));
    OP_REQUIRES_OK(context, context->GetAttr("steps", &steps_));
    OP_REQUIRES_OK(context, context->GetAttr("ranks", &ranks_));
    OP_REQUIRES_OK(context, context->GetAttr("unique", &unique_));
    const size_t tables = vocab_sizes_.size(), pieces = owners_.size();
    OP_REQUIRES(context,
                tables > 0 && pieces % tables == 0 && pieces > 0 && steps_.size() == pieces &&
                    bases_.size() == pieces * ranks_,
                InvalidArgument("RouteRows: ", tables, " vocab_sizes, ", pieces, " owners, ",
                                steps_.size(), " steps, ", bases_.size(), " bases for ", ranks_,
                                " ranks: the lengths do not match"));
    for (int64_t owner : owners_) {
      OP_REQUIRES(context, owner >= -1 && owner < ranks_,
                  InvalidArgument("RouteRows: owner must be in [-1, ", ranks_, "), got ", owner));
    }
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& ids = context->input(0);
    const int64_t tables = vocab_sizes_.size(), pieces = owners_.size() / tables;
    OP_REQUIRES(context, ids.dims() == 2 && ids.dim_size(1) == tables,
                InvalidArgument("RouteRows: ids have shape ", ids.shape().DebugString(),
                                ", expected [b, ", tables, "]"));
    const int64_t samples = ids.dim_size(0), needed = samples * tables * pieces;
    OP_REQUIRES(context, needed < (int64_t{1} << 31),
                InvalidArgument("RouteRows: ", needed, " rows are more than 32 bits can count"));
    const int32_t* id = ids.flat<int32_t>().data();

    Tensor *rows_out, *requested_out, *order_out, *position_out;
    OP_REQUIRES_OK(context, context->allocate_output(1, TensorShape({ranks_}), &requested_out));
    OP_REQUIRES_OK(context, context->allocate_output(3, TensorShape({needed}), &position_out));
    int32_t* requested = requested_out->flat<int32_t>().data();
    int32_t* position = position_out->flat<int32_t>().data();
    std::fill_n(requested, ranks_, 0);

    // First pass: the distinct requests in order of first use; position[k] is a request's number.
    std::vector<int32_t> owners, rows;
    owners.reserve(needed);
    rows.reserve(needed);
    PairNumbers numbers(unique_ ? needed : 0);
    const RankPartition partition(ranks_);
    int64_t k = 0;
    for (int64_t sample = 0; sample < samples; ++sample) {
      for (int64_t table = 0; table < tables; ++table) {
        const int32_t value = id[sample * tables + table];
        OP_REQUIRES(context, value >= 0 && value < vocab_sizes_[table],
                    InvalidArgument("table ", table, ", sample ", sample, ": id ", value,
                                    " is outside [0, ", vocab_sizes_[table], ")"));
        for (int64_t piece = table * pieces; piece < (table + 1) * pieces; ++piece, ++k) {
          const bool partitioned = owners_[piece] < 0;
          const int32_t owner = partitioned ? partition.Owner(value) : owners_[piece];
          const int64_t local = partitioned ? partition.Row(value) : value;
          const int32_t row = bases_[piece * ranks_ + owner] + local * steps_[piece];
          bool fresh = true;
          position[k] = unique_ ? numbers.Number(owner, row, &fresh) : static_cast<int32_t>(k);
          if (fresh) {
            owners.push_back(owner);
            rows.push_back(row);
            ++requested[owner];
          }
        }
      }
    }

    // Second pass: a stable counting sort of the requests by owner.
    const int64_t count = rows.size();
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({count}), &rows_out));
    OP_REQUIRES_OK(context, context->allocate_output(2, TensorShape({count}), &order_out));
    int32_t* sorted = rows_out->flat<int32_t>().data();
    int32_t* order = order_out->flat<int32_t>().data();
    std::vector<int32_t> next(ranks_, 0), place(count);
    for (int64_t rank = 1; rank < ranks_; ++rank) next[rank] = next[rank - 1] + requested[rank - 1];
    for (int64_t i = 0; i < count; ++i) {
      place[i] = next[owners[i]]++;
      sorted[place[i]] = rows[i];
      order[place[i]] = i;
    }
    for (int64_t i = 0; i < needed; ++i) position[i] = place[position[i]];
  }

 private:
  std::vector<int64_t> vocab_sizes_, owners_, bases_, steps_;
  int64_t ranks_;
  bool unique_;
};

REGISTER_KERNEL_BUILDER(Name("Dlrm>RouteRows").Device(tensorflow::DEVICE_CPU), RouteRowsOp);

}  // namespace
}  // namespace dlrm

// Computes which rows a rank requests from each owner if features have bags of ids, and how their
// vectors and the samples' bags sum to each other.
//
// As in route_rows.cc, a table has one or two pieces, and a piece is complete on one rank, or its
// rows are partitioned over the ranks. A request is the rows of one owner that it adds before it
// returns them as one vector:
// - a *partial sum*: the rows of one sample, table and piece, repetitions included;
// - or one row, which is added to every bag that contains it. Only with `unique`, for the tables
//   whose distinct rows are not more than their partial sums in this batch.

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "route_rows/bag_requests.h"
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

constexpr int32_t kEmpty = -1;  // EMPTY of ops/bags.py

REGISTER_OP("Dlrm>RouteBags")
    .Input("ids: int32")
    .Attr("vocab_sizes: list(int)")
    .Attr("owners: list(int)")
    .Attr("bases: list(int)")
    .Attr("steps: list(int)")
    .Attr("hotness: list(int)")
    .Attr("mean: list(bool)")
    .Attr("variable: list(bool)")
    .Attr("ranks: int >= 1")
    .Attr("unique: bool")
    .Output("rows: int32")
    .Output("rows_requested: int32")
    .Output("sizes: int32")
    .Output("requested: int32")
    .Output("inverse_permutation: int32")
    .Output("bag_segments: int32")
    .Output("permutation: int32")
    .Output("vector_segments: int32")
    .Output("counts: int32")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle ids;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &ids));
      int64_t ranks;
      TF_RETURN_IF_ERROR(c->GetAttr("ranks", &ranks));
      std::vector<bool> mean;
      TF_RETURN_IF_ERROR(c->GetAttr("mean", &mean));
      for (int i = 0; i < 8; ++i) c->set_output(i, c->Vector(InferenceContext::kUnknownDim));
      c->set_output(1, c->Vector(ranks));
      c->set_output(3, c->Vector(ranks));
      const bool averages = std::find(mean.begin(), mean.end(), true) != mean.end();
      const int64_t tables = mean.size();
      c->set_output(8, averages ? c->Matrix(c->Dim(ids, 0), tables) : c->Matrix(0, 0));
      return Status();
    })
    .Doc("ids [b, W]. sizes [n]: the number of rows of each request, sorted by owner; rows: their "
         "rows of the owners' variables, one request after another. requested, rows_requested "
         "[ranks]: the number of requests and rows per owner. Bag k = (sample, table, piece) is "
         "the sum of the vectors inverse_permutation[i] with bag_segments[i] = k; the gradient of "
         "vector v is the sum of those of the bags permutation[i] with vector_segments[i] = v, or "
         "without unique that of bag permutation[v] (vector_segments is empty). Both segments are "
         "sorted. counts [b, T]: the number of ids of each bag where mean, at least 1, else 1; [0, "
         "0] without mean.");

class RouteBagsOp : public OpKernel {
 public:
  explicit RouteBagsOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("vocab_sizes", &vocab_sizes_));
    OP_REQUIRES_OK(context, context->GetAttr("owners", &owners_));
    OP_REQUIRES_OK(context, context->GetAttr("bases", &bases_));
    OP_REQUIRES_OK(context, context->GetAttr("steps", &steps_));
    OP_REQUIRES_OK(context, context->GetAttr("hotness", &hotness_));
    OP_REQUIRES_OK(context, context->GetAttr("mean", &mean_));
    OP_REQUIRES_OK(context, context->GetAttr("variable", &variable_));
    OP_REQUIRES_OK(context, context->GetAttr("ranks", &ranks_));
    OP_REQUIRES_OK(context, context->GetAttr("unique", &unique_));
    const size_t tables = vocab_sizes_.size(), pieces = owners_.size();
    OP_REQUIRES(context,
                tables > 0 && pieces % tables == 0 && pieces > 0 && steps_.size() == pieces &&
                    bases_.size() == pieces * ranks_ && hotness_.size() == tables &&
                    mean_.size() == tables && variable_.size() == tables,
                InvalidArgument("RouteBags: ", tables, " vocab_sizes, ", pieces, " owners, ",
                                steps_.size(), " steps, ", bases_.size(), " bases for ", ranks_,
                                " ranks, ", hotness_.size(), " hotness, ", mean_.size(), " mean, ",
                                variable_.size(), " variable: the lengths do not match"));
    for (int64_t owner : owners_) {
      OP_REQUIRES(context, owner >= -1 && owner < ranks_,
                  InvalidArgument("RouteBags: owner must be in [-1, ", ranks_, "), got ", owner));
    }
    for (int64_t slots : hotness_) {
      OP_REQUIRES(context, slots >= 1,
                  InvalidArgument("RouteBags: hotness must be at least 1, got ", slots));
      first_slots_.push_back(slots_);
      slots_ += slots;
    }
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& ids = context->input(0);
    OP_REQUIRES(context, ids.dims() == 2 && ids.dim_size(1) == slots_,
                InvalidArgument("RouteBags: ids have shape ", ids.shape().DebugString(),
                                ", expected [b, ", slots_, "]"));
    const Batch batch{ids.flat<int32_t>().data(), ids.dim_size(0)};
    const int64_t needed = batch.samples * slots_ * pieces();
    OP_REQUIRES(context, needed < (int64_t{1} << 31),
                InvalidArgument("RouteBags: ", needed, " rows are more than 32 bits can count"));
    OP_REQUIRES_OK(context, CheckIds(batch));
    OP_REQUIRES_OK(context, WriteCounts(context, batch));
    Requests requests;
    Request(batch, &requests);
    OP_REQUIRES_OK(context, WriteSorted(context, requests));
  }

 private:
  struct Batch {
    const int32_t* ids;
    int64_t samples;
  };

  // The distinct ids of a table, if each of its rows is requested once.
  struct Distinct {
    bool once = false;
    std::vector<int32_t> numbers;  // of each slot of each sample
    std::vector<int32_t> vectors;  // of each number and piece, kEmpty before it is requested
  };

  int64_t tables() const { return vocab_sizes_.size(); }
  int64_t pieces() const { return owners_.size() / vocab_sizes_.size(); }

  const int32_t* Slots(const Batch& batch, int64_t sample, int64_t table) const {
    return batch.ids + sample * slots_ + first_slots_[table];
  }

  int32_t Owner(int64_t piece, int32_t id) const {
    // 32 bits divide faster than 64.
    return owners_[piece] < 0 ? static_cast<uint32_t>(id) % static_cast<uint32_t>(ranks_)
                              : owners_[piece];
  }

  int32_t Row(int64_t piece, int32_t owner, int32_t id) const {
    const int64_t local =
        owners_[piece] < 0 ? static_cast<uint32_t>(id) / static_cast<uint32_t>(ranks_) : id;
    return bases_[piece * ranks_ + owner] + local * steps_[piece];
  }

  Status CheckIds(const Batch& batch) const {
    for (int64_t sample = 0; sample < batch.samples; ++sample) {
      for (int64_t table = 0; table < tables(); ++table) {
        const int32_t* id = Slots(batch, sample, table);
        for (int64_t slot = 0; slot < hotness_[table]; ++slot) {
          const bool inside = id[slot] >= 0 && id[slot] < vocab_sizes_[table];
          if (inside || (variable_[table] && id[slot] == kEmpty)) continue;
          return InvalidArgument("table ", table, ", sample ", sample, ": id ", id[slot],
                                 " is outside [0, ", vocab_sizes_[table], ")");
        }
      }
    }
    return Status();
  }

  Status WriteCounts(OpKernelContext* context, const Batch& batch) const {
    const bool averages = std::find(mean_.begin(), mean_.end(), true) != mean_.end();
    Tensor* output;
    TF_RETURN_IF_ERROR(context->allocate_output(
        8, averages ? TensorShape({batch.samples, tables()}) : TensorShape({0, 0}), &output));
    if (!averages) return Status();
    int32_t* divisor = output->flat<int32_t>().data();
    for (int64_t sample = 0; sample < batch.samples; ++sample) {
      for (int64_t table = 0; table < tables(); ++table, ++divisor) {
        *divisor = 1;
        if (!mean_[table]) continue;
        const int32_t* id = Slots(batch, sample, table);
        const int64_t empty = std::count(id, id + hotness_[table], kEmpty);
        *divisor = std::max<int64_t>(1, hotness_[table] - empty);
      }
    }
    return Status();
  }

  // Decides for each table whether its rows are requested once, and numbers its ids if so.
  std::vector<Distinct> FindDistinct(const Batch& batch) const {
    std::vector<Distinct> found(tables());
    std::vector<int64_t> last_use(ranks_, -1);
    for (int64_t table = 0; unique_ && table < tables(); ++table) {
      const int64_t hotness = hotness_[table], first = table * pieces();
      IdNumbers numbers(batch.samples * hotness, vocab_sizes_[table]);
      Distinct& distinct = found[table];
      distinct.numbers.resize(batch.samples * hotness);
      int64_t partial_sums = 0;
      std::fill(last_use.begin(), last_use.end(), -1);
      for (int64_t sample = 0; sample < batch.samples; ++sample) {
        const int32_t* id = Slots(batch, sample, table);
        int32_t* number = distinct.numbers.data() + sample * hotness;
        for (int64_t slot = 0; slot < hotness; ++slot) {
          if (id[slot] == kEmpty) continue;
          number[slot] = numbers.Number(id[slot]);
          // Either each piece of a table is partitioned, or none; in the latter case each piece
          // has one owner, so that owner 0 represents it here.
          const int32_t owner = owners_[first] < 0 ? Owner(first, id[slot]) : 0;
          partial_sums += last_use[owner] != sample;
          last_use[owner] = sample;
        }
      }
      distinct.once = numbers.count() <= partial_sums;
      distinct.vectors.assign(distinct.once ? numbers.count() * pieces() : 0, kEmpty);
    }
    return found;
  }

  void Request(const Batch& batch, Requests* requests) const {
    std::vector<Distinct> distinct = FindDistinct(batch);
    std::vector<int32_t> counts(ranks_, 0), next(ranks_), used;
    int32_t bag = 0;
    for (int64_t sample = 0; sample < batch.samples; ++sample) {
      for (int64_t table = 0; table < tables(); ++table) {
        const int32_t *begin = Slots(batch, sample, table), *end = begin + hotness_[table];
        Distinct& own = distinct[table];
        const int32_t* number = own.once ? own.numbers.data() + sample * hotness_[table] : nullptr;
        for (int64_t piece = 0; piece < pieces(); ++piece, ++bag) {
          const int64_t facts = table * pieces() + piece;
          if (own.once) {
            for (const int32_t* id = begin; id < end; ++id) {
              if (*id == kEmpty) continue;
              int32_t& vector = own.vectors[number[id - begin] * pieces() + piece];
              if (vector == kEmpty) {
                const int32_t owner = Owner(facts, *id);
                vector = requests->Add(owner, 1);
                requests->rows.push_back(Row(facts, owner, *id));
              }
              requests->Contribute(vector, bag);
            }
            continue;
          }
          used.clear();
          for (const int32_t* id = begin; id < end; ++id) {
            if (*id == kEmpty) continue;
            const int32_t owner = Owner(facts, *id);
            if (counts[owner]++ == 0) used.push_back(owner);
          }
          for (int32_t owner : used) {
            requests->Contribute(requests->Add(owner, counts[owner]), bag);
            next[owner] = requests->rows.size();
            requests->rows.resize(requests->rows.size() + counts[owner]);
            counts[owner] = 0;
          }
          for (const int32_t* id = begin; id < end; ++id) {
            if (*id == kEmpty) continue;
            const int32_t owner = Owner(facts, *id);
            requests->rows[next[owner]++] = Row(facts, owner, *id);
          }
        }
      }
    }
  }

  // Sorts requests by owner, stably, and writes them and the contributions.
  Status WriteSorted(OpKernelContext* context, const Requests& requests) const {
    const int64_t count = requests.owners.size(), rows = requests.rows.size();
    const int64_t contributions = requests.vectors.size();
    const int64_t lengths[] = {
        rows,          ranks_,        count,         ranks_,
        contributions, contributions, contributions, unique_ ? contributions : 0};
    int32_t* out[8];
    for (int i = 0; i < 8; ++i) {
      Tensor* output;
      TF_RETURN_IF_ERROR(context->allocate_output(i, TensorShape({lengths[i]}), &output));
      out[i] = output->flat<int32_t>().data();
    }
    int32_t *rows_requested = out[1], *requested = out[3];
    std::fill_n(rows_requested, ranks_, 0);
    std::fill_n(requested, ranks_, 0);
    for (int64_t i = 0; i < count; ++i) {
      ++requested[requests.owners[i]];
      rows_requested[requests.owners[i]] += requests.sizes[i];
    }
    std::vector<int32_t> next(ranks_, 0), next_row(ranks_, 0), place(count);
    for (int64_t rank = 1; rank < ranks_; ++rank) {
      next[rank] = next[rank - 1] + requested[rank - 1];
      next_row[rank] = next_row[rank - 1] + rows_requested[rank - 1];
    }
    const int32_t* row = requests.rows.data();
    for (int64_t i = 0; i < count; ++i) {
      const int32_t owner = requests.owners[i], size = requests.sizes[i];
      place[i] = next[owner]++;
      out[2][place[i]] = size;
      std::copy_n(row, size, out[0] + next_row[owner]);
      next_row[owner] += size;
      row += size;
    }
    int32_t *vectors = out[4], *bags = out[5];
    for (int64_t i = 0; i < contributions; ++i) vectors[i] = place[requests.vectors[i]];
    std::copy_n(requests.bags.data(), contributions, bags);
    // The same contributions, sorted by vector. Without `unique` each vector has one.
    std::vector<int32_t> begin(count + 1, 0);
    for (int64_t i = 0; i < contributions; ++i) ++begin[vectors[i] + 1];
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    for (int64_t i = 0; i < contributions; ++i) {
      const int32_t at = begin[vectors[i]]++;
      out[6][at] = bags[i];
      if (unique_) out[7][at] = vectors[i];
    }
    return Status();
  }

  std::vector<int64_t> vocab_sizes_, owners_, bases_, steps_, hotness_, first_slots_;
  std::vector<bool> mean_, variable_;
  int64_t ranks_, slots_ = 0;
  bool unique_;
};

REGISTER_KERNEL_BUILDER(Name("Dlrm>RouteBags").Device(tensorflow::DEVICE_CPU), RouteBagsOp);

}  // namespace
}  // namespace dlrm

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
#include "tensorflow/core/util/work_sharder.h"

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
    .Output("divisors: int32")
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
      bool unique;
      TF_RETURN_IF_ERROR(c->GetAttr("unique", &unique));
      const int64_t tables = mean.size();
      c->set_output(8, averages && unique ? c->Matrix(c->Dim(ids, 0), tables) : c->Matrix(0, 0));
      c->set_output(9, c->Vector(averages ? InferenceContext::kUnknownDim : 0));
      return Status();
    })
    .Doc("ids [b, W]. sizes [n]: the number of rows of each request, sorted by owner; rows: their "
         "rows of the owners' variables, one request after another. requested, rows_requested "
         "[ranks]: the number of requests and rows per owner. Bag k = (sample, table, piece) is "
         "the sum of the vectors inverse_permutation[i] with bag_segments[i] = k; the gradient of "
         "vector v is the sum of those of the bags permutation[i] with vector_segments[i] = v, or "
         "without unique that of bag permutation[v] (vector_segments is empty). Both segments are "
         "sorted. divisors [n]: the number of ids of the bag of a partial sum where mean, else 1; "
         "[0] without mean. counts [b, T]: the same where mean and a table's rows are requested "
         "once, at least 1, else 1; [0, 0] without mean or unique.");

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
    std::vector<Distinct> distinct = FindDistinct(context, batch);
    OP_REQUIRES_OK(context, WriteCounts(context, batch, distinct));
    Requests requests(ranks_, needed);
    Request(batch, &distinct, &requests);
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
    std::vector<int32_t> numbers;    // of each slot of each sample
    std::vector<RequestId> vectors;  // of each number and piece, kNoRequest before it is requested
  };

  int64_t tables() const { return vocab_sizes_.size(); }
  int64_t pieces() const { return owners_.size() / vocab_sizes_.size(); }

  const int32_t* Slots(const Batch& batch, int64_t sample, int64_t table) const {
    return batch.ids + sample * slots_ + first_slots_[table];
  }

  bool averages() const { return std::find(mean_.begin(), mean_.end(), true) != mean_.end(); }

  // The number of ids of a bag where its vectors are averaged, at least 1, else 1.
  int32_t Divisor(int64_t table, const int32_t* slots) const {
    if (!mean_[table]) return 1;
    const int64_t empty = std::count(slots, slots + hotness_[table], kEmpty);
    return std::max<int64_t>(1, hotness_[table] - empty);
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

  Status WriteCounts(OpKernelContext* context, const Batch& batch,
                     const std::vector<Distinct>& distinct) const {
    const bool counted = averages() && unique_;
    Tensor* output;
    TF_RETURN_IF_ERROR(context->allocate_output(
        8, counted ? TensorShape({batch.samples, tables()}) : TensorShape({0, 0}), &output));
    if (!counted) return Status();
    int32_t* count = output->flat<int32_t>().data();
    for (int64_t sample = 0; sample < batch.samples; ++sample) {
      for (int64_t table = 0; table < tables(); ++table, ++count) {
        *count = distinct[table].once ? Divisor(table, Slots(batch, sample, table)) : 1;
      }
    }
    return Status();
  }

  // Decides for each table whether its rows are requested once, and numbers its ids if so.
  std::vector<Distinct> FindDistinct(OpKernelContext* context, const Batch& batch) const {
    std::vector<Distinct> found(tables());
    if (!unique_) return found;
    const auto& workers = *context->device()->tensorflow_cpu_worker_threads();
    const int64_t cycles = 30 * batch.samples * slots_ / tables();  // on average, for a table
    tensorflow::Shard(workers.num_threads, workers.workers, tables(), cycles,
                      [&](int64_t begin, int64_t end) {
                        for (int64_t table = begin; table < end; ++table) {
                          Distinct& distinct = found[table];
                          distinct.once = Number(batch, table, &distinct);
                          if (!distinct.once) distinct = Distinct();
                        }
                      });
    return found;
  }

  // Numbers the ids of a table; returns false if they are more than its partial sums.
  bool Number(const Batch& batch, int64_t table, Distinct* distinct) const {
    const int64_t hotness = hotness_[table], first = table * pieces();
    // Either each piece of a table is partitioned, or none; in the latter case each piece has one
    // owner, so that owner 0 represents it here.
    const bool partitioned = owners_[first] < 0;
    const int64_t most = batch.samples * (partitioned ? std::min(hotness, ranks_) : 1);
    IdNumbers numbers(most + 1, vocab_sizes_[table]);
    distinct->numbers.resize(batch.samples * hotness);
    std::vector<int64_t> last_use(ranks_, -1);
    int64_t partial_sums = 0;
    int32_t* number = distinct->numbers.data();
    for (int64_t sample = 0; sample < batch.samples; ++sample) {
      const int32_t* id = Slots(batch, sample, table);
      for (int64_t slot = 0; slot < hotness; ++slot, ++number) {
        if (id[slot] == kEmpty) continue;
        *number = numbers.Number(id[slot]);
        if (numbers.count() > most) return false;  // there are at most `most` partial sums
        const int32_t owner = partitioned ? Owner(first, id[slot]) : 0;
        partial_sums += last_use[owner] != sample;
        last_use[owner] = sample;
      }
    }
    if (numbers.count() > partial_sums) return false;
    distinct->vectors.assign(numbers.count() * pieces(), kNoRequest);
    return true;
  }

  void Request(const Batch& batch, std::vector<Distinct>* distinct, Requests* requests) const {
    std::vector<int32_t> last_use(ranks_, -1);  // the newest bag that requests a partial sum
    int32_t bag = 0;
    for (int64_t sample = 0; sample < batch.samples; ++sample) {
      for (int64_t table = 0; table < tables(); ++table) {
        const int32_t *begin = Slots(batch, sample, table), *end = begin + hotness_[table];
        Distinct& own = (*distinct)[table];
        if (own.once) {
          RequestOnce(begin, own.numbers.data() + sample * hotness_[table], table, bag, &own,
                      requests);
          bag += pieces();
          continue;
        }
        const int32_t divisor = Divisor(table, begin);
        for (int64_t piece = table * pieces(); piece < (table + 1) * pieces(); ++piece, ++bag) {
          for (const int32_t* id = begin; id < end; ++id) {
            if (*id == kEmpty) continue;
            const int32_t owner = Owner(piece, *id);
            if (last_use[owner] != bag) {
              requests->Contribute(requests->Add(owner, divisor), bag);
              last_use[owner] = bag;
            }
            requests->AddRow(owner, Row(piece, owner, *id));
          }
        }
      }
    }
  }

  // Adds the rows of a sample's ids in a table, from `bag` on, to its bags.
  void RequestOnce(const int32_t* ids, const int32_t* numbers, int64_t table, int32_t bag,
                   Distinct* distinct, Requests* requests) const {
    for (int64_t piece = 0; piece < pieces(); ++piece, ++bag) {
      for (int64_t slot = 0; slot < hotness_[table]; ++slot) {
        if (ids[slot] == kEmpty) continue;
        RequestId& vector = distinct->vectors[numbers[slot] * pieces() + piece];
        if (vector == kNoRequest) {
          const int64_t facts = table * pieces() + piece;
          const int32_t owner = Owner(facts, ids[slot]);
          vector = requests->Add(owner, 1);
          requests->AddRow(owner, Row(facts, owner, ids[slot]));
        }
        requests->Contribute(vector, bag);
      }
    }
  }

  // Writes the requests, sorted by owner, and the contributions.
  Status WriteSorted(OpKernelContext* context, const Requests& requests) const {
    int64_t count = 0, rows = 0;
    std::vector<int32_t> first;  // request to each owner
    for (const Requests::OfOwner& owner : requests.owners) {
      first.push_back(count);
      count += owner.sizes.size();
      rows += owner.rows.size();
    }
    const int64_t contributions = requests.vectors.size();
    const int64_t lengths[] = {rows,
                               ranks_,
                               count,
                               ranks_,
                               contributions,
                               contributions,
                               contributions,
                               unique_ ? contributions : 0,
                               0,
                               averages() ? count : 0};
    int32_t* out[10];
    for (int i = 0; i < 10; ++i) {
      if (i == 8) continue;  // WriteCounts
      Tensor* output;
      TF_RETURN_IF_ERROR(context->allocate_output(i, TensorShape({lengths[i]}), &output));
      out[i] = output->flat<int32_t>().data();
    }
    int32_t *row = out[0], *size = out[2], *divisor = out[9];
    for (int64_t rank = 0; rank < ranks_; ++rank) {
      const Requests::OfOwner& owner = requests.owners[rank];
      out[1][rank] = owner.rows.size();
      out[3][rank] = owner.sizes.size();
      row = std::copy(owner.rows.begin(), owner.rows.end(), row);
      size = std::copy(owner.sizes.begin(), owner.sizes.end(), size);
      if (averages()) divisor = std::copy(owner.divisors.begin(), owner.divisors.end(), divisor);
    }
    int32_t *vectors = out[4], *bags = out[5], *permutation = out[6];
    for (int64_t i = 0; i < contributions; ++i) {
      const RequestId id = requests.vectors[i];
      vectors[i] = first[id >> 32] + static_cast<int32_t>(id);
    }
    std::copy_n(requests.bags.data(), contributions, bags);
    if (!unique_) {  // each vector has one contribution
      for (int64_t i = 0; i < contributions; ++i) permutation[vectors[i]] = bags[i];
      return Status();
    }
    // The same contributions, sorted by vector.
    std::vector<int32_t> begin(count + 1, 0);
    for (int64_t i = 0; i < contributions; ++i) ++begin[vectors[i] + 1];
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    for (int64_t i = 0; i < contributions; ++i) {
      const int32_t at = begin[vectors[i]]++;
      permutation[at] = bags[i];
      out[7][at] = vectors[i];
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

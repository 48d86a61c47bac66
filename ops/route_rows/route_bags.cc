// Computes which rows a rank requests from each owner if features have bags of ids, and how their
// vectors and the samples' bags sum to each other.
//
// As in route_rows.cc, a table has one or two pieces, and a piece is complete on one rank, or its
// rows are partitioned over the ranks. A request is the rows of one owner that it adds before it
// returns them as one vector:
// - a *partial sum*: the rows of one sample, table and piece, repetitions included;
// - or one row, which is added to every bag that contains it. Only with `unique`, for the tables
//   whose distinct rows are not more than their partial sums in this batch.
//
// Threads share the batch by blocks of samples. The requests of all blocks are counted first, so
// that each is then written in its place, whichever thread does so.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "route_rows/distinct_ids.h"
#include "route_rows/partition.h"
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
    std::vector<int64_t> vocab_sizes, hotness;
    std::vector<bool> mean, variable;
    OP_REQUIRES_OK(context, context->GetAttr("vocab_sizes", &vocab_sizes));
    OP_REQUIRES_OK(context, context->GetAttr("owners", &owners_));
    OP_REQUIRES_OK(context, context->GetAttr("bases", &bases_));
    OP_REQUIRES_OK(context, context->GetAttr("steps", &steps_));
    OP_REQUIRES_OK(context, context->GetAttr("hotness", &hotness));
    OP_REQUIRES_OK(context, context->GetAttr("mean", &mean));
    OP_REQUIRES_OK(context, context->GetAttr("variable", &variable));
    OP_REQUIRES_OK(context, context->GetAttr("ranks", &ranks_));
    OP_REQUIRES_OK(context, context->GetAttr("unique", &unique_));
    const size_t tables = vocab_sizes.size(), pieces = owners_.size();
    OP_REQUIRES(context,
                tables > 0 && pieces % tables == 0 && pieces > 0 && steps_.size() == pieces &&
                    bases_.size() == pieces * ranks_ && hotness.size() == tables &&
                    mean.size() == tables && variable.size() == tables,
                InvalidArgument("RouteBags: ", tables, " vocab_sizes, ", pieces, " owners, ",
                                steps_.size(), " steps, ", bases_.size(), " bases for ", ranks_,
                                " ranks, ", hotness.size(), " hotness, ", mean.size(), " mean, ",
                                variable.size(), " variable: the lengths do not match"));
    for (int64_t owner : owners_) {
      OP_REQUIRES(context, owner >= -1 && owner < ranks_,
                  InvalidArgument("RouteBags: owner must be in [-1, ", ranks_, "), got ", owner));
    }
    pieces_ = pieces / tables;
    partition_ = RankPartition(ranks_);
    for (size_t i = 0; i < tables; ++i) {
      OP_REQUIRES(context, hotness[i] >= 1,
                  InvalidArgument("RouteBags: hotness must be at least 1, got ", hotness[i]));
      tables_.push_back({vocab_sizes[i], hotness[i], slots_, mean[i], variable[i]});
      averages_ |= mean[i];
      most_owners_ = std::max(most_owners_, std::min(hotness[i], ranks_));
      slots_ += hotness[i];
      // In a variable table EMPTY + 1 = 0 is valid, too.
      const uint32_t bound = std::clamp<int64_t>(vocab_sizes[i], 0, int64_t{1} << 31);
      offsets_.resize(slots_, variable[i]);
      bounds_.resize(slots_, bound + variable[i]);
    }
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& ids = context->input(0);
    OP_REQUIRES(context, ids.dims() == 2 && ids.dim_size(1) == slots_,
                InvalidArgument("RouteBags: ids have shape ", ids.shape().DebugString(),
                                ", expected [b, ", slots_, "]"));
    const Batch batch{ids.flat<int32_t>().data(), ids.dim_size(0)};
    const int64_t needed = batch.samples * slots_ * pieces_;
    OP_REQUIRES(context, needed < (int64_t{1} << 31),
                InvalidArgument("RouteBags: ", needed, " rows are more than 32 bits can count"));
    std::vector<Block> blocks(BlockCount(batch), Block(ranks_, most_owners_));
    OP_REQUIRES_OK(context, CheckIds(context, batch));
    const std::unique_ptr<Use[]> uses(unique_ ? new Use[batch.samples * slots_] : nullptr);
    std::vector<Distinct> distinct = FindDistinct(context, batch, uses.get());
    Outputs out{};
    ForBlocks(context, batch, [&](int64_t block, int64_t begin, int64_t end) {
      Request<false>(batch, begin, end, &distinct, out, &blocks[block]);
    });
    OP_REQUIRES_OK(context, Allocate(context, batch, &blocks, &out));
    ForBlocks(context, batch, [&](int64_t block, int64_t begin, int64_t end) {
      Request<true>(batch, begin, end, &distinct, out, &blocks[block]);
    });
    if (!unique_) return;
    // Bags of one block contain rows that others request.
    ForBlocks(context, batch, [&](int64_t block, int64_t begin, int64_t end) {
      const int32_t contribution = block == 0 ? 0 : blocks[block - 1].contribution;
      ContributeOnce(batch, begin, end, distinct, contribution, blocks[block].contribution, out);
    });
  }

 private:
  struct Table {
    int64_t vocab_size, hotness, first_slot;
    bool mean, variable;
  };

  struct Batch {
    const int32_t* ids;
    int64_t samples;
  };

  using Use = DistinctIds::Use;

  // The distinct ids of a table, if each of its rows is requested once.
  struct Distinct {
    struct Vector {
      int32_t vector, first_use;
    };

    bool once = false;
    std::vector<DistinctIds::Id> ids;
    std::vector<Vector> vectors;  // of each id and piece
    Use* uses = nullptr;          // of each slot of each sample
  };

  // The next row and request of an owner, and the newest bag with its first row. The next
  // contribution sorted by vector is request + repeated_uses.
  struct Cursor {
    int32_t row = 0, bag_row = 0, bag = -1, request = 0, repeated_uses = 0;
  };

  // The cursors of a block of samples by owner, and its next contribution sorted by bag. They begin
  // at 0 to count.
  struct Block {
    std::vector<Cursor> owners;
    int32_t contribution = 0;
    std::vector<int32_t> bag_owners;  // of the newest bag

    Block(int64_t ranks, int64_t most_owners) : owners(ranks), bag_owners(most_owners + 1) {}
  };

  struct Outputs {
    int32_t *rows, *rows_requested, *sizes, *requested, *inverse_permutation, *bag_segments,
        *permutation, *vector_segments, *counts, *divisors;
  };

  static constexpr int64_t kBlockSamples = 64;

  static int64_t BlockCount(const Batch& batch) {
    return (batch.samples + kBlockSamples - 1) / kBlockSamples;
  }

  // Calls function(block, first sample, end of samples) in threads.
  template <typename Function>
  void ForBlocks(OpKernelContext* context, const Batch& batch, const Function& function) const {
    const int64_t cycles = 5 * kBlockSamples * slots_ * pieces_;
    Parallel(context, BlockCount(batch), cycles, [&](int64_t block) {
      const int64_t begin = block * kBlockSamples;
      function(block, begin, std::min(begin + kBlockSamples, batch.samples));
    });
  }

  template <typename Function>
  static void Parallel(OpKernelContext* context, int64_t count, int64_t cycles,
                       const Function& function) {
    const auto& workers = *context->device()->tensorflow_cpu_worker_threads();
    tensorflow::Shard(workers.num_threads, workers.workers, count, cycles,
                      [&](int64_t begin, int64_t end) {
                        for (int64_t i = begin; i < end; ++i) function(i);
                      });
  }

  int64_t tables() const { return tables_.size(); }

  const int32_t* Slots(const Batch& batch, int64_t sample, int64_t table) const {
    return batch.ids + sample * slots_ + tables_[table].first_slot;
  }

  // The number of ids of a bag.
  static int64_t Length(const Table& table, const int32_t* ids) {
    if (!table.variable) return table.hotness;
    return table.hotness - std::count(ids, ids + table.hotness, kEmpty);
  }

  int32_t Owner(int64_t piece, int32_t id) const {
    return owners_[piece] < 0 ? partition_.Owner(id) : owners_[piece];
  }

  int32_t Row(int64_t piece, int32_t owner, int32_t id) const {
    const int64_t local = owners_[piece] < 0 ? partition_.Row(id) : id;
    return bases_[piece * ranks_ + owner] + local * steps_[piece];
  }

  bool Invalid(int64_t slot, int32_t id) const {
    return static_cast<uint32_t>(id) + offsets_[slot] >= bounds_[slot];
  }

  Status CheckIds(OpKernelContext* context, const Batch& batch) const {
    std::atomic<bool> valid{true};
    ForBlocks(context, batch, [&](int64_t, int64_t begin, int64_t end) {
      bool invalid = false;
      for (int64_t sample = begin; sample < end; ++sample) {
        const int32_t* ids = batch.ids + sample * slots_;
        for (int64_t slot = 0; slot < slots_; ++slot) invalid |= Invalid(slot, ids[slot]);
      }
      if (invalid) valid = false;
    });
    if (valid) return Status();
    int64_t at = 0, table = tables() - 1;
    while (!Invalid(at % slots_, batch.ids[at])) ++at;
    while (tables_[table].first_slot > at % slots_) --table;
    return InvalidArgument("table ", table, ", sample ", at / slots_, ": id ", batch.ids[at],
                           " is outside [0, ", tables_[table].vocab_size, ")");
  }

  // Decides for each table whether its rows are requested once, and numbers its ids if so.
  std::vector<Distinct> FindDistinct(OpKernelContext* context, const Batch& batch,
                                     Use* uses) const {
    std::vector<Distinct> found(tables());
    if (!unique_) return found;
    const int64_t cycles = 30 * batch.samples * slots_ / tables();  // on average, for a table
    Parallel(context, tables(), cycles, [&](int64_t table) {
      found[table].uses = uses + batch.samples * tables_[table].first_slot;
      found[table].once = Number(batch, table, &found[table]);
    });
    return found;
  }

  // Numbers the ids of a table; returns false if they are more than its partial sums.
  bool Number(const Batch& batch, int64_t table, Distinct* distinct) const {
    const int64_t hotness = tables_[table].hotness;
    // Either each piece of a table is partitioned, or none; in the latter case each piece has one
    // owner, so that owner 0 represents it here.
    const bool partitioned = owners_[table * pieces_] < 0;
    const int64_t most = batch.samples * (partitioned ? std::min(hotness, ranks_) : 1);
    DistinctIds ids(most + 1, tables_[table].vocab_size);
    std::vector<int32_t> newest_sample(ranks_, -1);
    int64_t partial_sums = 0;
    Use* use = distinct->uses;
    for (int64_t sample = 0; sample < batch.samples; ++sample) {
      const int32_t* id = Slots(batch, sample, table);
      for (int64_t slot = 0; slot < hotness; ++slot, ++use) {
        if (id[slot] == kEmpty) continue;
        *use = ids.Add(id[slot], sample);
        if (ids.count() > most) return false;  // there are at most `most` partial sums
        const int32_t owner = partitioned ? partition_.Owner(id[slot]) : 0;
        partial_sums += newest_sample[owner] != sample;
        newest_sample[owner] = sample;
      }
    }
    if (ids.count() > partial_sums) return false;
    distinct->vectors.resize(ids.count() * pieces_);
    distinct->ids = std::move(ids.all());
    return true;
  }

  // Advances the cursors of a block by the requests and contributions of its samples; with kWrite
  // writes them.
  template <bool kWrite>
  void Request(const Batch& batch, int64_t begin, int64_t end, std::vector<Distinct>* distinct,
               const Outputs& outputs, Block* block) const {
    // Copies, which stores of other integers cannot change.
    const Outputs out = outputs;
    const RankPartition partition = partition_;
    Cursor* const cursors = block->owners.data();
    int32_t* const bag_owners = block->bag_owners.data();
    std::vector<int32_t> next = FirstIds(*distinct, begin);
    const int32_t* ids = batch.ids + begin * slots_;
    int32_t bag = begin * owners_.size();
    for (int64_t sample = begin; sample < end; ++sample) {
      for (int64_t table = 0; table < tables(); ids += tables_[table++].hotness) {
        if (unique_ && (*distinct)[table].once) {
          RequestOnce<kWrite>(ids, sample, table, &(*distinct)[table], &next[table], out, block);
          bag += pieces_;
          continue;
        }
        const int32_t* end_of_bag = ids + tables_[table].hotness;
        for (int64_t piece = table * pieces_; piece < (table + 1) * pieces_; ++piece, ++bag) {
          const int64_t *base = &bases_[piece * ranks_], step = steps_[piece];
          int64_t owners = 0, length = 0;
          // Whether an owner is new to the bag is not predictable, so that this does not branch.
          const auto add = [&](uint32_t owner, int64_t local) {
            Cursor& cursor = cursors[owner];
            const bool is_new = cursor.bag != bag;
            cursor.bag = bag;
            if (kWrite) {
              bag_owners[owners] = owner;
            } else {
              cursor.request += is_new;
            }
            owners += is_new;
            if (kWrite) out.rows[cursor.row] = base[owner] + local * step;
            ++cursor.row;
            ++length;
          };
          if (owners_[piece] < 0) {
            for (const int32_t* id = ids; id < end_of_bag; ++id) {
              if (*id != kEmpty) add(partition.Owner(*id), partition.Row(*id));
            }
          } else {
            for (const int32_t* id = ids; id < end_of_bag; ++id) {
              if (*id != kEmpty) add(owners_[piece], *id);
            }
          }
          int32_t contribution = block->contribution;
          block->contribution += owners;
          for (int64_t i = 0; kWrite && i < owners; ++i, ++contribution) {
            Cursor& cursor = cursors[bag_owners[i]];
            const int32_t request = cursor.request++;
            out.sizes[request] = cursor.row - cursor.bag_row;
            cursor.bag_row = cursor.row;
            out.inverse_permutation[contribution] = request;
            out.bag_segments[contribution] = bag;
            if (averages_) out.divisors[request] = tables_[table].mean ? length : 1;
            if (!unique_) {
              out.permutation[request] = bag;
              continue;
            }
            const int32_t use = request + cursor.repeated_uses;
            out.permutation[use] = bag;
            out.vector_segments[use] = request;
          }
        }
        if (kWrite && unique_ && averages_) out.counts[sample * tables() + table] = 1;
      }
    }
  }

  // The first distinct id of each table that appears in this sample or after it.
  std::vector<int32_t> FirstIds(const std::vector<Distinct>& distinct, int64_t sample) const {
    const auto before = [](const DistinctIds::Id& id, int64_t sample) {
      return id.first_sample < sample;
    };
    std::vector<int32_t> first;
    for (const Distinct& own : distinct) {
      const auto& ids = own.ids;
      first.push_back(std::lower_bound(ids.begin(), ids.end(), sample, before) - ids.begin());
    }
    return first;
  }

  // Requests the rows that first appear in a sample, from those of the distinct id `next` on.
  template <bool kWrite>
  void RequestOnce(const int32_t* ids, int64_t sample, int64_t table, Distinct* distinct,
                   int32_t* next, const Outputs& out, Block* block) const {
    const int32_t first = *next, all = distinct->ids.size(), length = Length(tables_[table], ids);
    while (*next < all && distinct->ids[*next].first_sample == sample) ++*next;
    const int64_t row = sample * tables() + table;
    for (int64_t piece = 0; piece < pieces_; ++piece) {
      for (int32_t i = first; i < *next; ++i) {
        RequestRow<kWrite>(distinct->ids[i], table * pieces_ + piece, out,
                           &distinct->vectors[i * pieces_ + piece], block);
      }
      if (kWrite) {
        std::fill_n(out.bag_segments + block->contribution, length, row * pieces_ + piece);
      }
      block->contribution += length;
    }
    if (kWrite && averages_) out.counts[row] = tables_[table].mean ? std::max(1, length) : 1;
  }

  // Requests a piece of the row of a distinct id.
  template <bool kWrite>
  void RequestRow(const DistinctIds::Id& id, int64_t piece, const Outputs& out,
                  Distinct::Vector* vector, Block* block) const {
    const int32_t owner = Owner(piece, id.id);
    Cursor& cursor = block->owners[owner];
    if (kWrite) {
      out.rows[cursor.row] = Row(piece, owner, id.id);
      out.sizes[cursor.request] = 1;
      if (averages_) out.divisors[cursor.request] = 1;
      const int32_t use = cursor.request + cursor.repeated_uses;
      std::fill_n(out.vector_segments + use, id.uses, cursor.request);
      *vector = {cursor.request, use};
    }
    cursor.bag_row = ++cursor.row;
    ++cursor.request;
    cursor.repeated_uses += id.uses - 1;
  }

  // Allocates the outputs, and changes blocks' numbers of rows, requests and contributions to the
  // places of their first ones.
  Status Allocate(OpKernelContext* context, const Batch& batch, std::vector<Block>* blocks,
                  Outputs* out) const {
    const auto allocate = [&](int i, const TensorShape& shape, int32_t** data) {
      Tensor* output;
      TF_RETURN_IF_ERROR(context->allocate_output(i, shape, &output));
      *data = output->flat<int32_t>().data();
      return Status();
    };
    TF_RETURN_IF_ERROR(allocate(1, TensorShape({ranks_}), &out->rows_requested));
    TF_RETURN_IF_ERROR(allocate(3, TensorShape({ranks_}), &out->requested));
    Cursor next;
    for (int64_t owner = 0; owner < ranks_; ++owner) {
      const Cursor first = next;
      for (Block& block : *blocks) {
        Cursor& cursor = block.owners[owner];
        const Cursor count = cursor;
        cursor = next;
        next.row += count.row;
        next.bag_row = next.row;
        next.request += count.request;
        next.repeated_uses += count.repeated_uses;
      }
      out->rows_requested[owner] = next.row - first.row;
      out->requested[owner] = next.request - first.request;
    }
    int32_t contributions = 0;
    for (Block& block : *blocks) {
      const int32_t count = block.contribution;
      block.contribution = contributions;
      contributions += count;
    }
    const TensorShape per_request({next.request}), per_contribution({contributions});
    const bool counted = averages_ && unique_;
    TF_RETURN_IF_ERROR(allocate(0, TensorShape({next.row}), &out->rows));
    TF_RETURN_IF_ERROR(allocate(2, per_request, &out->sizes));
    TF_RETURN_IF_ERROR(allocate(4, per_contribution, &out->inverse_permutation));
    TF_RETURN_IF_ERROR(allocate(5, per_contribution, &out->bag_segments));
    TF_RETURN_IF_ERROR(allocate(6, per_contribution, &out->permutation));
    TF_RETURN_IF_ERROR(
        allocate(7, unique_ ? per_contribution : TensorShape({0}), &out->vector_segments));
    TF_RETURN_IF_ERROR(allocate(
        8, counted ? TensorShape({batch.samples, tables()}) : TensorShape({0, 0}), &out->counts));
    TF_RETURN_IF_ERROR(allocate(9, averages_ ? per_request : TensorShape({0}), &out->divisors));
    return Status();
  }

  // Writes the contributions of rows that are requested once, for the bags of a block of samples.
  void ContributeOnce(const Batch& batch, int64_t begin, int64_t end,
                      const std::vector<Distinct>& distinct, int32_t contribution,
                      int32_t contributions, const Outputs& out) const {
    int32_t bag = begin * tables() * pieces_;
    for (int64_t sample = begin; sample < end; ++sample) {
      for (int64_t table = 0; table < tables(); ++table) {
        const Distinct& own = distinct[table];
        const int64_t hotness = tables_[table].hotness;
        const int32_t* ids = Slots(batch, sample, table);
        const Use* uses = own.uses + sample * hotness;
        for (int64_t piece = 0; piece < pieces_; ++piece, ++bag) {
          if (!own.once) {
            while (contribution < contributions && out.bag_segments[contribution] == bag) {
              ++contribution;
            }
            continue;
          }
          for (int64_t slot = 0; slot < hotness; ++slot) {
            if (ids[slot] == kEmpty) continue;
            const Distinct::Vector& vector = own.vectors[uses[slot].number * pieces_ + piece];
            out.inverse_permutation[contribution++] = vector.vector;
            out.permutation[vector.first_use + uses[slot].nth] = bag;
          }
        }
      }
    }
  }

  std::vector<Table> tables_;
  std::vector<uint32_t> offsets_, bounds_;  // of the ids in each slot
  std::vector<int64_t> owners_, bases_, steps_;
  int64_t ranks_, pieces_, slots_ = 0, most_owners_ = 0;
  RankPartition partition_{1};
  bool averages_ = false, unique_;
};

REGISTER_KERNEL_BUILDER(Name("Dlrm>RouteBags").Device(tensorflow::DEVICE_CPU), RouteBagsOp);

}  // namespace
}  // namespace dlrm

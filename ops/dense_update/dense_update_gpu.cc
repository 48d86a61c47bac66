// TensorFlow GPU kernels of the update of the dense variables and of the record of the loss.

// First: it prepares Eigen for GPUs.
#include "gpu_variables.h"

#include "dense_update/dense_update_launchers.h"

namespace dlrm {
namespace {

using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

// Sets `data` to the device memory of a scalar input.
template <class T>
Status ReadScalar(OpKernelContext* c, const char* op, const char* name, const T** data) {
  const Tensor* tensor = nullptr;
  TF_RETURN_IF_ERROR(c->input(name, &tensor));
  if (tensor->dims() != 0) {
    return InvalidArgument(op, ": ", name, ": expected a scalar, found shape ",
                           tensor->shape().DebugString());
  }
  *data = reinterpret_cast<const T*>(DeviceData(*tensor));
  return Status();
}

class GpuDenseUpdateKernel : public OpKernel {
 public:
  explicit GpuDenseUpdateKernel(OpKernelConstruction* c) : OpKernel(c) {
    int states = 0;
    std::string name;
    OP_REQUIRES_OK(c, c->GetAttr("optimizer", &name));
    OP_REQUIRES_OK(c, c->GetAttr("N", &variables_));
    OP_REQUIRES_OK(c, c->GetAttr("M", &states));
    optimizer_ = name == "sgd"       ? DLRM_DENSE_SGD
                 : name == "adagrad" ? DLRM_DENSE_ADAGRAD
                                     : DLRM_DENSE_ADAM;
    // The numbers of the optimizers are those of their states.
    states_ = optimizer_;
    std::vector<float> values;
    OP_REQUIRES_OK(c, c->GetAttr("hyperparameters", &values));
    const size_t expected = optimizer_ == DLRM_DENSE_SGD       ? 0
                            : optimizer_ == DLRM_DENSE_ADAGRAD ? 1
                                                               : DLRM_DENSE_HYPERPARAMETERS;
    OP_REQUIRES(c, values.size() == expected,
                InvalidArgument(kOp, ": ", name, ": expected ", expected,
                                " hyper-parameters, found ", values.size()));
    std::copy(values.begin(), values.end(), hyperparameters_);
    OP_REQUIRES(c, variables_ <= DLRM_DENSE_MOST,
                InvalidArgument(kOp, ": expected at most ", int{DLRM_DENSE_MOST},
                                " variables, found ", variables_));
    OP_REQUIRES(c, states == states_ * variables_,
                InvalidArgument(kOp, ": ", name, " of ", variables_, " variables: expected ",
                                states_ * variables_, " states, found ", states));
  }

  void Compute(OpKernelContext* c) override {
    DlrmDenseUpdate update = {};
    update.optimizer = optimizer_;
    update.variables = variables_;
    std::copy(std::begin(hyperparameters_), std::end(hyperparameters_), update.hyperparameters);
    LockedVariables locked;
    const int iteration = variables_ + states_ * variables_;
    OP_REQUIRES_OK(c, locked.Open(c, kOp, iteration + 1));
    std::vector<float*> variable(static_cast<size_t>(variables_));
    std::vector<float*> state(static_cast<size_t>(states_ * variables_));
    std::vector<int64_t> size(static_cast<size_t>(variables_));
    int64_t needed = 0;
    for (int i = 0; i < variables_; ++i) {
      size[i] = locked.elements(i);
      needed += size[i];
      OP_REQUIRES_OK(c, locked.Use(c, i, absl::StrCat("variable ", i), size[i], &variable[i]));
      for (int s = 0; s < states_; ++s) {
        const int number = states_ * i + s;
        OP_REQUIRES_OK(
            c, locked.Use(c, variables_ + number, absl::StrCat("state ", s, " of variable ", i),
                          size[i], &state[number]));
      }
    }
    int64_t* updates = nullptr;
    OP_REQUIRES_OK(c, locked.Use(c, iteration, "iteration", 1, &updates));
    std::vector<const float*> piece;
    std::vector<int64_t> piece_size;
    OP_REQUIRES_OK(c, ReadPieces(c, needed, &piece, &piece_size));
    OP_REQUIRES_OK(c, ReadScalar(c, kOp, "learning_rate", &update.learning_rate));
    OP_REQUIRES_OK(c, ReadScalar(c, kOp, "loss_scale", &update.loss_scale));
    OP_REQUIRES_OK(c, ReadScalar(c, kOp, "finite", &update.finite));
    update.pieces = static_cast<int32_t>(piece.size());
    update.variable = variable.data();
    update.states = state.data();
    update.variable_size = size.data();
    update.piece = piece.data();
    update.piece_size = piece_size.data();
    update.iteration = updates;
    Tensor* result = nullptr;
    OP_REQUIRES_OK(c, c->allocate_output(0, TensorShape({}), &result));
    update.weights_finite = reinterpret_cast<unsigned char*>(MutableDeviceData(*result));
    size_t bytes = 0;
    OP_REQUIRES_OK(c, CudaStatus(dlrm_dense_update_workspace_bytes(&update, &bytes),
                                 "workspace of a dense update"));
    Tensor workspace;
    OP_REQUIRES_OK(c, c->allocate_temp(tensorflow::DT_UINT8,
                                       TensorShape({static_cast<int64_t>(bytes)}), &workspace));
    OP_REQUIRES_OK(
        c, CudaStatus(dlrm_dense_update(&update, MutableDeviceData(workspace), bytes, StreamOf(c)),
                      kOp));
  }

 private:
  static constexpr const char* kOp = "dense update";

  // Reads the gradients, which must have at least `needed` elements.
  Status ReadPieces(OpKernelContext* c, int64_t needed, std::vector<const float*>* piece,
                    std::vector<int64_t>* piece_size) const {
    OpInputList gradients;
    TF_RETURN_IF_ERROR(c->input_list("gradients", &gradients));
    if (gradients.size() > DLRM_DENSE_MOST) {
      return InvalidArgument(kOp, ": expected at most ", int{DLRM_DENSE_MOST},
                             " tensors of gradients, found ", gradients.size());
    }
    int64_t found = 0;
    for (int p = 0; p < gradients.size(); ++p) {
      piece->push_back(reinterpret_cast<const float*>(DeviceData(gradients[p])));
      piece_size->push_back(gradients[p].NumElements());
      found += gradients[p].NumElements();
    }
    if (found < needed) {
      return InvalidArgument(kOp, ": gradients: expected at least the ", needed,
                             " elements of the variables, found ", found);
    }
    return Status();
  }

  int32_t optimizer_ = 0;
  int variables_ = 0, states_ = 0;
  float hyperparameters_[DLRM_DENSE_HYPERPARAMETERS] = {};
};

class GpuRecordLossKernel : public OpKernel {
 public:
  explicit GpuRecordLossKernel(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES_OK(c, c->GetAttr("skips", &skips_));
  }

  void Compute(OpKernelContext* c) override {
    DlrmLossRecord record = {};
    record.skips = skips_;
    LockedVariables locked;
    OP_REQUIRES_OK(c, locked.Open(c, kOp, 3));
    OP_REQUIRES_OK(c, locked.Use(c, 0, "sum", 1, &record.sum));
    OP_REQUIRES_OK(c, locked.Use(c, 1, "last", 1, &record.last));
    OP_REQUIRES_OK(c, locked.Use(c, 2, "steps", 1, &record.steps));
    OP_REQUIRES_OK(c, ReadScalar(c, kOp, "loss", &record.loss));
    OP_REQUIRES_OK(c, ReadScalar(c, kOp, "finite", &record.finite));
    OP_REQUIRES_OK(c, ReadScalar(c, kOp, "weights_finite", &record.weights_finite));
    OP_REQUIRES_OK(c, CudaStatus(dlrm_record_loss(&record, StreamOf(c)), kOp));
  }

 private:
  static constexpr const char* kOp = "record of the loss";

  bool skips_ = false;
};

REGISTER_KERNEL_BUILDER(Name("Dlrm>DenseUpdate")
                            .Device(tensorflow::DEVICE_GPU)
                            .HostMemory("variables")
                            .HostMemory("states")
                            .HostMemory("iteration"),
                        GpuDenseUpdateKernel);
REGISTER_KERNEL_BUILDER(Name("Dlrm>RecordLoss")
                            .Device(tensorflow::DEVICE_GPU)
                            .HostMemory("sum")
                            .HostMemory("last")
                            .HostMemory("steps"),
                        GpuRecordLossKernel);

}  // namespace
}  // namespace dlrm

// The update of all dense variables in one op, and the record of a step's loss.

#include "status.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace dlrm {

REGISTER_OP("Dlrm>DenseUpdate")
    .Input("variables: N * resource")
    .Input("states: M * resource")
    .Input("iteration: resource")
    .Input("gradients: G * float")
    .Input("learning_rate: float")
    .Input("loss_scale: float")
    .Input("finite: bool")
    .Output("weights_finite: bool")
    .Attr("N: int >= 1")
    .Attr("M: int >= 0")
    .Attr("G: int >= 1")
    .Attr("optimizer: {'sgd', 'adagrad', 'adam'}")
    .Attr("hyperparameters: list(float)")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::ScalarShape)
    .Doc(
        "Updates float32 variables in place as training/optimizers.py defines it. Their gradients, "
        "in order, are the concatenation of the flattened tensors `gradients`, divided by "
        "loss_scale []; what follows them is ignored. A variable's states are together. "
        "Hyper-parameters: adagrad: epsilon; adam: beta1, beta2, epsilon. Without "
        "`finite` nothing changes. Returns whether all variables are finite afterwards. GPUs "
        "only.");

REGISTER_OP("Dlrm>RecordLoss")
    .Input("sum: resource")
    .Input("last: resource")
    .Input("steps: resource")
    .Input("loss: float")
    .Input("finite: bool")
    .Input("weights_finite: bool")
    .Attr("skips: bool")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::NoOutputs)
    .Doc("Adds a step's loss to the record: sum float64, last float32 and steps int64, scalars. "
         "A loss after which the weights are not finite is NaN. With `skips`, the loss of a step "
         "that is not finite is stored in last only; else last keeps the first loss that is not "
         "finite. GPUs only.");

}  // namespace dlrm

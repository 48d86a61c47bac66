// Registers Dlrm>UploadBatch and Dlrm>ReceiveBatch: signatures, shape functions, documentation.
#include <vector>

#include "status.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace dlrm {
namespace {

using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// Both are stateful: two uploads of equal parts must not be merged, as each package is released
// separately.
REGISTER_OP("Dlrm>UploadBatch")
    .Input("parts: dtypes")
    .Output("package: uint8")
    .Output("dims: int32")
    .Attr("dtypes: list({float, half, bfloat16, bool, uint8, int8, int16, int32, int64}) >= 1")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      int64_t dims = 0;
      for (int p = 0; p < c->num_inputs() && dims >= 0; ++p) {
        dims = c->RankKnown(c->input(p)) ? dims + c->Rank(c->input(p)) : -1;
      }
      c->set_output(0, c->Vector(InferenceContext::kUnknownDim));
      c->set_output(1, c->Vector(dims < 0 ? InferenceContext::kUnknownDim : dims));
      return Status();
    })
    .Doc(R"doc(
Packs tensors in host memory into one buffer in the device's memory, in one asynchronous copy.

package: the bytes of all parts, for ReceiveBatch on the same device. uint8, because TensorFlow
  keeps int32 arguments and results of functions in host memory.
dims: each part's dimensions, one part after another. In host memory.
)doc");

REGISTER_OP("Dlrm>ReceiveBatch")
    .Input("package: uint8")
    .Input("dims: int32")
    .Output("parts: dtypes")
    .Attr("dtypes: list({float, half, bfloat16, bool, uint8, int8, int16, int32, int64}) >= 1")
    .Attr("shapes: list(shape) >= 1")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      std::vector<tensorflow::PartialTensorShape> shapes;
      TF_RETURN_IF_ERROR(c->GetAttr("shapes", &shapes));
      if (static_cast<int>(shapes.size()) != c->num_outputs()) {
        return InvalidArgument("ReceiveBatch: expected a shape for each of ", c->num_outputs(),
                               " dtypes, found ", shapes.size(), " shapes");
      }
      int64_t dims = 0;
      for (size_t p = 0; p < shapes.size(); ++p) {
        if (shapes[p].unknown_rank()) {
          return InvalidArgument("ReceiveBatch: part ", p,
                                 ": expected a shape of known rank, found ",
                                 shapes[p].DebugString());
        }
        dims += shapes[p].dims();
        ShapeHandle part;
        TF_RETURN_IF_ERROR(c->MakeShapeFromPartialTensorShape(shapes[p], &part));
        c->set_output(p, part);
      }
      ShapeHandle unused;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 1, &unused));
      return c->Merge(c->input(1), c->Vector(dims), &unused);
    })
    .Doc(R"doc(
Returns the parts of a package of UploadBatch, without a copy.

package, dims: of UploadBatch.
parts: share the package's memory.
shapes: of the parts; dimensions may be unknown.
)doc");

}  // namespace
}  // namespace dlrm

// TensorFlow GPU kernel of Dlrm>JoinSideStream.

#include "side_stream/side_stream_of_op.h"

namespace dlrm {
namespace {

class GpuJoinKernel : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tensorflow::OpKernelContext* c) override {
    SideStream* side = nullptr;
    OP_REQUIRES_OK(c, SideStreamOf(c, &side));
    OP_REQUIRES_OK(c, CudaStatus(side->Join()));
    const int tables = c->num_inputs() - c->num_outputs();
    for (int i = 0; i < c->num_outputs(); ++i) c->set_output(i, c->input(tables + i));
  }
};

REGISTER_KERNEL_BUILDER(
    Name("Dlrm>JoinSideStream").Device(tensorflow::DEVICE_GPU).HostMemory("tables"), GpuJoinKernel);

}  // namespace
}  // namespace dlrm

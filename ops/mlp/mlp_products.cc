#include "mlp/mlp_products.h"

#include <algorithm>
#include <cstring>

// From the OpenMP runtime that oneDNN is linked with. This file contains no OpenMP code.
extern "C" {
int omp_get_max_threads(void);
void omp_set_num_threads(int);
}

namespace dlrm {
namespace {

using dnnl::memory;
using Type = memory::data_type;

const dnnl::engine& Engine() {
  static const auto* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

// A CPU stream executes primitives immediately in the calling thread.
dnnl::stream& Stream() {
  static thread_local dnnl::stream stream(Engine());
  return stream;
}

memory Memory(const memory::desc& description, const void* data) {
  return memory(description, Engine(), const_cast<void*>(data));
}

memory::desc RowMajor(int64_t rows, int64_t columns, Type type) {
  return memory::desc({rows, columns}, type, memory::dims{columns, 1});
}
memory::desc Transposed(int64_t rows, int64_t columns, Type type) {
  return memory::desc({rows, columns}, type, memory::dims{1, rows});
}

dnnl::primitive_attr Attributes() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

bool IsReference(const dnnl::matmul::primitive_desc& description) {
  return std::strstr(description.impl_info_str(), "ref") != nullptr;
}

memory::desc PlainKernel(KernelUse use, int64_t inputs, int64_t outputs) {
  return use == KernelUse::kForward ? RowMajor(inputs, outputs, Type::f32)
                                    : Transposed(outputs, inputs, Type::f32);
}

dnnl::matmul::primitive_desc Describe(KernelUse use, int64_t rows, int64_t inputs, int64_t outputs,
                                      Type type, const memory::desc& kernel) {
  if (use == KernelUse::kForward) {
    return {Engine(),
            RowMajor(rows, inputs, type),
            kernel,
            RowMajor(1, outputs, Type::f32),
            RowMajor(rows, outputs, type),
            Attributes()};
  }
  return {Engine(), RowMajor(rows, outputs, type), kernel, RowMajor(rows, inputs, type),
          Attributes()};
}

dnnl::matmul::primitive_desc Choose(KernelUse use, int64_t rows, int64_t inputs, int64_t outputs,
                                    Type type, const memory::desc& plain, bool blocked) {
  const memory::dims dims = plain.get_dims();
  const memory::desc any = blocked ? memory::desc(dims, type, memory::format_tag::any)
                                   : RowMajor(dims[0], dims[1], type);
  dnnl::matmul::primitive_desc chosen = Describe(use, rows, inputs, outputs, type, any);
  // If oneDNN prefers no blocked layout, the kernel is used in place.
  if (type == Type::f32 && chosen.weights_desc().get_inner_nblks() == 0) {
    return Describe(use, rows, inputs, outputs, type, plain);
  }
  return chosen;
}

}  // namespace

SingleThreaded::SingleThreaded() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
SingleThreaded::~SingleThreaded() { omp_set_num_threads(before_); }

bool HasBfloat16Products() {
  // The bits of each instruction set include those of its predecessors.
  const auto needed = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
  return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & needed) == needed;
}

KernelProduct::KernelProduct(KernelUse use, int64_t rows, int64_t inputs, int64_t outputs,
                             Type type, bool blocked, const KernelProduct* like)
    : plain_(PlainKernel(use, inputs, outputs)),
      description_(like != nullptr ? Describe(use, rows, inputs, outputs, type,
                                              like->description_.weights_desc())
                                   : Choose(use, rows, inputs, outputs, type, plain_, blocked)),
      product_(description_) {}

size_t KernelProduct::packed_bytes() const {
  const memory::desc wanted = description_.weights_desc();
  return wanted == plain_ ? 0 : wanted.get_size();
}

void KernelProduct::Pack(const float* kernel, void* packed) const {
  memory from = Memory(plain_, kernel);
  memory to = Memory(description_.weights_desc(), packed);
  dnnl::reorder(from, to).execute(Stream(), from, to);
}

void KernelProduct::Run(const void* a, const void* kernel, const float* bias, void* c,
                        void* scratch) const {
  std::unordered_map<int, memory> arguments{
      {DNNL_ARG_SRC, Memory(description_.src_desc(), a)},
      {DNNL_ARG_WEIGHTS, Memory(description_.weights_desc(), kernel)},
      {DNNL_ARG_DST, Memory(description_.dst_desc(), c)},
      {DNNL_ARG_SCRATCHPAD, Memory(description_.scratchpad_desc(), scratch)},
  };
  if (bias != nullptr) {
    arguments.emplace(DNNL_ARG_BIAS, Memory(description_.bias_desc(), bias));
  }
  product_.execute(Stream(), arguments);
}

bool KernelProduct::is_slow() const { return IsReference(description_); }

namespace {

dnnl::matmul::primitive_desc DescribeGradient(bool accumulate, int64_t rows, int64_t inputs,
                                              int64_t outputs, Type type) {
  dnnl::primitive_attr attributes = Attributes();
  if (accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  return {Engine(), Transposed(inputs, rows, type), RowMajor(rows, outputs, type),
          RowMajor(inputs, outputs, Type::f32), attributes};
}

}  // namespace

KernelGradient::KernelGradient(bool accumulate, int64_t rows, int64_t inputs, int64_t outputs,
                               Type type)
    : description_(DescribeGradient(accumulate, rows, inputs, outputs, type)),
      product_(description_) {}

void KernelGradient::Run(const void* activations, const void* gradients, float* gradient,
                         void* scratch) const {
  product_.execute(Stream(),
                   {{DNNL_ARG_SRC, Memory(description_.src_desc(), activations)},
                    {DNNL_ARG_WEIGHTS, Memory(description_.weights_desc(), gradients)},
                    {DNNL_ARG_DST, Memory(description_.dst_desc(), gradient)},
                    {DNNL_ARG_SCRATCHPAD, Memory(description_.scratchpad_desc(), scratch)}});
}

bool KernelGradient::is_slow() const { return IsReference(description_); }

MlpProducts::MlpProducts(const std::vector<int64_t>& widths, int64_t rows, int64_t tail, Type type,
                         bool backward) {
  const auto count = [&](size_t scratch, bool slow) {
    scratch_bytes_ = std::max(scratch_bytes_, scratch);
    is_slow_ = is_slow_ || slow;
  };
  const KernelUse use = backward ? KernelUse::kInputGradient : KernelUse::kForward;
  for (size_t l = 0; l + 1 < widths.size(); ++l) {
    const int64_t inputs = widths[l], outputs = widths[l + 1];
    Layer layer;
    const auto products = [&](bool blocked) {
      layer.kernel.emplace_back(use, rows, inputs, outputs, type, blocked, nullptr);
      if (tail == 0) return;
      layer.kernel.emplace_back(use, tail, inputs, outputs, type, blocked, &layer.kernel[0]);
    };
    try {
      products(true);
    } catch (const dnnl::error&) {
      // The tail's product may not support the chunk's layout; both support row-major kernels.
      layer.kernel.clear();
      products(false);
    }
    for (const KernelProduct& product : layer.kernel) {
      count(product.scratch_bytes(), product.is_slow());
    }
    for (int64_t size : {rows, tail}) {
      if (!backward || size == 0) continue;
      layer.first.emplace_back(false, size, inputs, outputs, type);
      layer.more.emplace_back(true, size, inputs, outputs, type);
      for (const auto* gradient : {&layer.first.back(), &layer.more.back()}) {
        count(gradient->scratch_bytes(), gradient->is_slow());
      }
    }
    layers_.push_back(std::move(layer));
  }
}

}  // namespace dlrm

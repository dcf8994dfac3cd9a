// The floating-point environment of the kernels.
#pragma once

#include <cfenv>

namespace vqgan_fast {

// Round to nearest with subnormals, for as long as the object lives, whatever the thread was set to
// (torch.set_flush_denormal, a caller's rounding mode): exact results must not depend on it. Every
// body that a kernel hands to Parallel::run begins with one, and so does what computes outside.
class DefaultFloatMode {
 public:
  DefaultFloatMode() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloatMode() { std::fesetenv(&saved_); }
  DefaultFloatMode(const DefaultFloatMode&) = delete;
  DefaultFloatMode& operator=(const DefaultFloatMode&) = delete;

 private:
  std::fenv_t saved_;
};

}  // namespace vqgan_fast

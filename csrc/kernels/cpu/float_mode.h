// The floating-point environment of the kernels.
#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#else
#include <cfenv>
#endif

namespace vqgan_fast {

// Round to nearest with subnormals, for as long as the object lives, whatever the thread was set to
// (torch.set_flush_denormal, a caller's rounding mode): exact results must not depend on it. Every
// body that a kernel hands to Parallel::run begins with one, and so does what computes outside.
class DefaultFloatMode {
 public:
#if defined(__x86_64__)
  // The standard functions save and restore the x87 state as well, which takes longer than some
  // rows' search.
  DefaultFloatMode() : saved_(_mm_getcsr()) {
    constexpr unsigned kFlags = 0x3f, kDefault = 0x1f80;
    if ((saved_ & ~kFlags) != kDefault) _mm_setcsr(kDefault);
  }
  ~DefaultFloatMode() {
    if (_mm_getcsr() != saved_) _mm_setcsr(saved_);
  }
#else
  DefaultFloatMode() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloatMode() { std::fesetenv(&saved_); }
#endif
  DefaultFloatMode(const DefaultFloatMode&) = delete;
  DefaultFloatMode& operator=(const DefaultFloatMode&) = delete;

 private:
#if defined(__x86_64__)
  const unsigned saved_;
#else
  std::fenv_t saved_;
#endif
};

}  // namespace vqgan_fast

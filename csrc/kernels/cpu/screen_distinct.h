// Equal codes searched as one: of codes with the same elements the definition only ever chooses the
// first.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/cpu/nearest_code_screen.h"

namespace vqgan_fast {

using MakeScreen = std::shared_ptr<const CodeScreen> (*)(const CodeSource& codes, SimdLevel level,
                                                         const Parallel& parallel);

// What `make` returns for the codebook; where many codes are equal, a screen that `make` packs from
// the different ones alone, and that hands on the first of each.
std::shared_ptr<const CodeScreen> make_screen_distinct(MakeScreen make, const CodeSource& source,
                                                       SimdLevel level, const Parallel& parallel);

}  // namespace vqgan_fast

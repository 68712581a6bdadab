// For arithmetic that is written once, for the core and for the proofs.
//
// What everything else rests on (docs/proofs.md has the list) is written as templates over the word
// that they calculate with. The core never names the word and gets 64 bits; proofs/ puts in a word
// that stands for every value at once, so what is proven is this very source. Therefore these
// templates have no branch on a value (select instead, which evaluates both) and no cast to a
// narrower type, and a word is not deduced from the arguments.
#pragma once

#include <type_traits>
#include <utility>

namespace exclave {

// A parameter of which W is not deduced.
template <class W>
using Given = std::type_identity_t<W>;

// What a comparison of words answers: bool for integers.
template <class W>
using Truth = decltype(std::declval<const W&>() < std::declval<const W&>());

template <class W>
constexpr W select(bool condition, W yes, W no) noexcept {
  return condition ? yes : no;
}

}  // namespace exclave

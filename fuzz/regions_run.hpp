// The model's operations on regions, and beside them arguments that no model needs: ranges out of
// shape, over the enclave, or where nothing is known. What must be answered follows from the words
// of allocator.hpp alone, in numbers too wide to wrap.
#pragma once

#include <string>
#include <variant>

#include "fuzz/allocator_run.hpp"

namespace exclave::fuzz {

struct WildRange {
  enum class From { kZero, kEnclave, kEnclaveEnd, kNobodys, kTop } from;
  std::uint64_t offset;
  std::uint64_t size;
};
struct WildAttach {
  WildRange range;
  AttachOptions options;
};
struct WildDetach {
  WildRange range;
  DetachMode mode;
};
struct WildPin {
  WildRange range;
};
struct WildUnpin {
  std::uint64_t pin;
};
struct WildQuery {
  WildRange range;
};
struct WildFree {
  WildRange range;
};
using RegionOperation = std::variant<testing_support::Operation, WildAttach, WildDetach, WildPin,
                                     WildUnpin, WildQuery, WildFree>;

class RegionsRun : public AllocatorRun {
 public:
  RegionsRun() : AllocatorRun(HostMemory::kPlenty) {}

  void perform(const RegionOperation& operation) {
    std::visit([this](const auto& o) { apply(o); }, operation);
  }

 private:
  __extension__ using Wide = unsigned __int128;

  // Above all places of the model, and of the host.
  static constexpr std::uintptr_t kNobodys =
      testing_support::FakePort::kAttachBase + (std::uintptr_t{1} << 32);

  Extent extent_of(const WildRange& range) {
    std::uintptr_t from = 0;
    switch (range.from) {
      case WildRange::From::kZero:
        break;
      case WildRange::From::kEnclave:
        from = enclave().base;
        break;
      case WildRange::From::kEnclaveEnd:
        from = enclave().end();
        break;
      case WildRange::From::kNobodys:
        from = kNobodys;
        break;
      case WildRange::From::kTop:
        from = kAddressLimit;
        break;
    }
    return {from + range.offset, range.size};
  }
  static bool is_in_shape(Extent range) {
    return range.size != 0 && range.base != 0 && range.base % kPageBytes == 0 &&
           range.size % kPageBytes == 0 && Wide{range.base} + range.size <= Wide{1} << 47;
  }
  static bool meet(Extent a, Extent b) {
    return a.size != 0 && b.size != 0 && Wide{a.base} < Wide{b.base} + b.size &&
           Wide{b.base} < Wide{a.base} + a.size;
  }
  // Wholly where nothing can be known.
  bool is_nobodys(Extent range) {
    return range.base >= kNobodys && Wide{range.base} + range.size <= Wide{1} << 64 &&
           !meet(range, enclave());
  }

  void apply(const testing_support::Operation& o) { AllocatorRun::perform(o); }

  void apply(const WildAttach& o) {
    const Extent range = extent_of(o.range);
    const bool in_shape = is_in_shape(range);
    const bool touches_enclave = in_shape && meet(range, enclave());
    if (in_shape && !touches_enclave && !is_nobodys(range)) return;
    // A pool's books grow with it; those of a pool of terabytes are not what is tested.
    if (in_shape && !touches_enclave && o.options.role == Role::kPool &&
        range.size > std::size_t{1} << 28)
      return;
    const Result<RegionId> id = allocator().attach(range, o.options);
    if (!in_shape) {
      EXPECT_EQ(id.error(), Error::kInvalidArgument);
    } else if (touches_enclave) {
      EXPECT_TRUE(id.error() == Error::kInsideEnclave || id.error() == Error::kInvalidArgument)
          << error_text(id.error());
    } else if (id.ok()) {
      const Result<RegionInfo> info = allocator().query(range.base, range.size);
      EXPECT_TRUE(info.ok());
      EXPECT_EQ(info->id, *id);
      EXPECT_EQ(info->extent, range);
      // It looks at each page.
      if (range.size <= std::size_t{1} << 24) EXPECT_TRUE(allocator().validate_books());
      EXPECT_TRUE(allocator().detach(range).ok());
    } else {
      EXPECT_TRUE(id.error() == Error::kInvalidArgument || id.error() == Error::kOutOfTrustedMemory)
          << error_text(id.error());
    }
    validate();
  }
  void apply(const WildDetach& o) {
    const Extent range = extent_of(o.range);
    if (is_in_shape(range) && !is_nobodys(range) && !meet(range, enclave())) return;
    const Error error = allocator().detach(range, o.mode).error();
    EXPECT_TRUE(error == Error::kNotFound || error == Error::kInvalidArgument) << error_text(error);
    validate();
  }
  void apply(const WildPin& o) {
    const Extent range = extent_of(o.range);
    const bool has_shape = range.size != 0 && Wide{range.base} + range.size <= Wide{1} << 64;
    if (has_shape && !is_nobodys(range) && !meet(range, enclave())) return;
    const Error error = allocator().pin(range).error();
    EXPECT_TRUE(error == Error::kNotFound || error == Error::kInvalidArgument) << error_text(error);
    validate();
  }
  void apply(const WildUnpin& o) {
    // Numbers of pins that were never given.
    EXPECT_EQ(allocator().unpin(PinId{o.pin | std::uint64_t{1} << 63}).error(), Error::kNotFound);
  }
  void apply(const WildQuery& o) {
    const Extent range = extent_of(o.range);
    const Extent asked{range.base, range.size == 0 ? 1 : range.size};
    const bool wraps = Wide{asked.base} + asked.size > Wide{1} << 64;
    if (!wraps && !is_nobodys(asked) && !meet(asked, enclave())) return;
    EXPECT_EQ(allocator().query(range.base, range.size).error(), Error::kNotFound);
    const Error error = allocator().validate(range.base, range.size).error();
    EXPECT_EQ(error, Error::kNotFound);
  }
  void apply(const WildFree& o) {
    const Extent range = extent_of(o.range);
    if (!is_nobodys({range.base, 1}) && !enclave().contains(range.base)) return;
    // A size makes it no better. Neither is a block: nothing may be told of one.
    EXPECT_EQ(allocator().usable_size(testing_support::bytes_at(range.base)).error(),
              Error::kForeignFree);
    EXPECT_EQ(allocator().region_of(testing_support::bytes_at(range.base)).error(),
              Error::kForeignFree);
  }
};

// ---- As C++ ----

inline std::string cpp_of(const WildRange& range) {
  return cpp_call("fuzz::WildRange", cpp_enum("fuzz::WildRange::From", range.from), range.offset,
                  range.size);
}
inline std::string cpp_of(const RegionOperation& operation) {
  struct Printer {
    std::string operator()(const testing_support::Operation& o) const {
      return testing_support::cpp_of(o);
    }
    std::string operator()(const WildAttach& o) const {
      return "fuzz::WildAttach{" + cpp_of(o.range) + ", " +
             testing_support::detail::cpp(o.options) + "}";
    }
    std::string operator()(const WildDetach& o) const {
      return "fuzz::WildDetach{" + cpp_of(o.range) + ", " + cpp_enum("DetachMode", o.mode) + "}";
    }
    std::string operator()(const WildPin& o) const {
      return "fuzz::WildPin{" + cpp_of(o.range) + "}";
    }
    std::string operator()(const WildUnpin& o) const { return cpp_call("fuzz::WildUnpin", o.pin); }
    std::string operator()(const WildQuery& o) const {
      return "fuzz::WildQuery{" + cpp_of(o.range) + "}";
    }
    std::string operator()(const WildFree& o) const {
      return "fuzz::WildFree{" + cpp_of(o.range) + "}";
    }
  };
  return std::visit(Printer{}, operation);
}

}  // namespace exclave::fuzz

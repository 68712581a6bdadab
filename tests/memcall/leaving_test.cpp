// THREATS 67: a place that has left the books and is still to be unmapped, while a growth or a map
// is answered with it. It is a hole for everybody, but nobody can have it.
#include <thread>

#include "support/page_host_fixture.hpp"

namespace exclave {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing_support::kDevice;
using testing_support::kPage;
using testing_support::kReadWrite;
using testing_support::PageHost;
using testing_support::PageHostFixture;

using Kind = PageHost::Kind;

class Threat67_PlaceStillToGo : public PageHostFixture {
 protected:
  static constexpr std::uintptr_t kPlace = std::uintptr_t{0x3000} << 32;
  static constexpr std::size_t kGrownPages = 16;

  // Two mappings with a hole between them; the second is as large as a growth.
  void SetUp() override {
    Config config;
    config.grow_min_bytes = config.grow_max_bytes = kGrownPages * kPage;
    start(config);
  }
  static constexpr Extent first() { return {kPlace, 2 * kPage}; }
  static constexpr Extent hole() { return {kPlace + 2 * kPage, 14 * kPage}; }
  static constexpr Extent second() { return {kPlace + 16 * kPage, kGrownPages * kPage}; }
  static constexpr Extent both() { return {kPlace, second().end() - kPlace}; }
  void map_both() {
    map(first().size / kPage, first().base);
    map(second().size / kPage, second().base);
  }
  void attach_both(AttachOptions options) {
    options.role = Role::kMapping;
    for (const Extent extent : {first(), second()}) {
      host_->put_mapping(extent);
      EXPECT_TRUE(allocator_->attach(extent, options).ok());
    }
  }
  void free_blocks() {
    for (const untrusted_bytes block : blocks_) EXPECT_TRUE(allocator_->deallocate(block).ok());
    blocks_.clear();
  }

  // At its first call of the kind the host has `meanwhile` done, and answers growths and mappings
  // that are asked for there with the place. No call of its may touch what the books know by then.
  void hand_out(Extent place, Kind kind, std::function<void()> meanwhile) {
    host_->answer = [this, place, kind, meanwhile = std::move(meanwhile),
                     seen = false](const PageHost::Call& call) mutable -> std::optional<HostReply> {
      if (call.kind == Kind::kUnmap || call.kind == Kind::kRelease) {
        EXPECT_THAT(book(call.extent.base, call.extent.size / kPage),
                    testing::Not(testing::HasSubstr("P")))
            << "the library has its own region unmapped";
      }
      if (call.kind == kind && !seen) {
        seen = true;
        meanwhile();
        ++done_;
        return std::nullopt;
      }
      const bool asks = call.kind == Kind::kReserve || (call.kind == Kind::kMap && !fixed(call));
      return asks ? std::optional(HostReply{place.base, 0}) : std::nullopt;
    };
  }
  static bool fixed(const PageHost::Call& call) {
    return (call.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0;
  }
  // A growth is answered with what hand_out says.
  void expect_growth(Error error) {
    const auto block = allocator_->allocate(100);
    EXPECT_EQ(block.error(), error);
    if (block.ok()) blocks_.push_back(*block);
  }
  std::vector<PageHost::Call> unmaps() {
    std::vector<PageHost::Call> calls;
    for (const PageHost::Call& call : host_->take_calls()) {
      if (call.kind == Kind::kUnmap) calls.push_back(call);
    }
    return calls;
  }

  std::vector<untrusted_bytes> blocks_;
  int done_ = 0;
};

TEST_F(Threat67_PlaceStillToGo, AGrowthThatTheCallbackAsksForIsRefused) {
  map_both();
  hand_out(second(), Kind::kUnmap, [&] { expect_growth(Error::kHostLied); });
  EXPECT_EQ(calls_->munmap(both().base, both().size), 0);
  EXPECT_EQ(done_, 1);
  EXPECT_THAT(unmaps(), ElementsAre(PageHost::unmap(first()), PageHost::unmap(second())));
  EXPECT_EQ(regions(), 0u);
  EXPECT_GT(allocator_->statistics().lies_refused, 0u);
  host_->answer = nullptr;
  free_blocks();
}

TEST_F(Threat67_PlaceStillToGo, AGrowthThatAnotherThreadAsksForIsRefused) {
  map_both();
  hand_out(second(), Kind::kUnmap, [&] {
    std::thread other([&] { expect_growth(Error::kHostLied); });
    other.join();
  });
  EXPECT_EQ(calls_->munmap(both().base, both().size), 0);
  EXPECT_EQ(done_, 1);
  EXPECT_THAT(unmaps(), ElementsAre(PageHost::unmap(first()), PageHost::unmap(second())));
  host_->answer = nullptr;
  free_blocks();
}

// What is at the host already may have gone, so that its place is anybody's.
TEST_F(Threat67_PlaceStillToGo, AGrowthInThePlaceThatIsAtTheHostIsNone) {
  map(second().size / kPage, second().base);
  bool inside = false;
  host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind == Kind::kReserve) return HostReply{second().base, 0};
    if (call.kind != Kind::kUnmap || inside) return std::nullopt;
    inside = true;
    EXPECT_EQ(host_->host_unmap(call.extent.base, call.extent.size), 0);
    expect_growth(Error::kNone);
    host_->put_foreign(second());
    return HostReply{0, 0};
  };
  EXPECT_EQ(calls_->munmap(second().base, second().size), 0);
  EXPECT_EQ(allocator_->statistics().lies_refused, 0u);
  EXPECT_EQ(book(second().base, 1), "P");
  // The host's table does not know what it gave, so it is not to be told to take it back.
  host_->answer = [](const PageHost::Call& call) -> std::optional<HostReply> {
    return call.kind == Kind::kRelease ? std::optional(HostReply{0, 0}) : std::nullopt;
  };
  free_blocks();
  allocator_->trim();
}

TEST_F(Threat67_PlaceStillToGo, AMappingIsRefused) {
  map_both();
  hand_out(second(), Kind::kUnmap, [&] {
    EXPECT_EQ(calls_->mmap(0, second().size, kReadWrite, MAP_SHARED, kDevice, 0), -EPERM);
    EXPECT_EQ(calls_->adopt(second().base, second().size, kReadWrite), -EPERM);
    EXPECT_EQ(allocator_->attach(second()).error(), Error::kOverlap);
    EXPECT_EQ(calls_->mmap(second().base, kPage, kReadWrite, MAP_SHARED | MAP_FIXED, kDevice, 0),
              -EBUSY);
    EXPECT_EQ(calls_->mmap(second().base, kPage, kReadWrite, MAP_SHARED | MAP_FIXED_NOREPLACE,
                           kDevice, 0),
              -EEXIST);
  });
  EXPECT_EQ(calls_->munmap(both().base, both().size), 0);
  EXPECT_EQ(done_, 1);
  EXPECT_THAT(unmaps(), ElementsAre(PageHost::unmap(first()), PageHost::unmap(second())));
  EXPECT_EQ(regions(), 0u);
}

TEST_F(Threat67_PlaceStillToGo, ItIsAHoleForEveryOtherCall) {
  map_both();
  hand_out(second(), Kind::kUnmap, [&] {
    EXPECT_EQ(book(second().base, kGrownPages), std::string(kGrownPages, '.'));
    EXPECT_FALSE(calls_->is_application_memory(second().base, 1));
    EXPECT_EQ(allocator_->next_region(first().base).error(), Error::kNotFound);
    EXPECT_EQ(allocator_->pin({second().base, 1}).error(), Error::kNotFound);
    EXPECT_EQ(allocator_->detach(second()).error(), Error::kNotFound);
    EXPECT_EQ(calls_->give_up(second().base, kPage), -EINVAL);
    EXPECT_EQ(calls_->munmap(second().base, second().size), 0);
    EXPECT_EQ(calls_->mprotect(second().base, kPage, PROT_READ), -ENOMEM);
    EXPECT_EQ(calls_->madvise(second().base, kPage, MADV_COLD), -ENOMEM);
    EXPECT_EQ(calls_->mremap(second().base, kPage, 2 * kPage, MREMAP_MAYMOVE, 0), -EFAULT);
    EXPECT_TRUE(allocator_->validate_books());
  });
  EXPECT_EQ(calls_->munmap(both().base, both().size), 0);
  EXPECT_EQ(done_, 1);
  EXPECT_THAT(unmaps(), ElementsAre(PageHost::unmap(first()), PageHost::unmap(second())));
}

// gone is called between one piece and the next.
TEST_F(Threat67_PlaceStillToGo, WhileTheOwnerIsToldOfTheFirst) {
  struct Told {
    std::function<void()> then;
    std::vector<Extent> extents;
  } told;
  AttachOptions options;
  options.gone = [](void* context, std::uint64_t, std::uintptr_t base, std::size_t size) {
    auto& t = *static_cast<Told*>(context);
    t.extents.push_back({base, size});
    if (t.extents.size() == 1) t.then();
  };
  options.gone_context = &told;
  told.then = [&] {
    hand_out(second(), Kind::kMap, [] {});
    expect_growth(Error::kHostLied);
  };
  attach_both(options);
  EXPECT_EQ(calls_->munmap(both().base, both().size), 0);
  EXPECT_THAT(told.extents, ElementsAre(first(), second()));
  EXPECT_THAT(unmaps(), ElementsAre(PageHost::unmap(first()), PageHost::unmap(second())));
  host_->answer = nullptr;
  free_blocks();

  // The caller of detach unmaps the pieces itself, when it is told of each or at the end.
  told.extents.clear();
  host_->place_next_at(0);
  host_->put_mapping(hole());
  attach_both(options);
  AttachOptions between;
  between.role = Role::kMapping;
  EXPECT_TRUE(allocator_->attach(hole(), between).ok());
  EXPECT_TRUE(allocator_->detach(both()).ok());
  EXPECT_THAT(told.extents, ElementsAre(first(), second()));
  EXPECT_EQ(regions(), 0u);
  host_->answer = nullptr;
  free_blocks();

  // And what io_destroy and shmdt take.
  told.extents.clear();
  attach_both(options);
  EXPECT_TRUE(allocator_->attach(hole(), between).ok());
  EXPECT_EQ(calls_->give_up(both().base, both().size), 0);
  EXPECT_THAT(told.extents, ElementsAre(first(), second()));
  EXPECT_EQ(regions(), 0u);
  host_->answer = nullptr;
  free_blocks();
}

TEST_F(Threat67_PlaceStillToGo, WhatTheHostRefusesStandsAndTheRestGoes) {
  map_both();
  host_->answer = [n = 0](const PageHost::Call& call) mutable -> std::optional<HostReply> {
    return call.kind == Kind::kUnmap && n++ == 0 ? std::optional(HostReply{0, ENOMEM})
                                                 : std::nullopt;
  };
  EXPECT_EQ(calls_->munmap(both().base, both().size), -ENOMEM);
  EXPECT_EQ(book(first().base, 2), "bb");
  EXPECT_EQ(regions(), 1u);
  EXPECT_TRUE(allocator_->validate_books());
}

// ---- MAP_FIXED and mremap over mappings ----

TEST_F(Threat67_PlaceStillToGo, WhileMapFixedFillsAHole) {
  map_both();
  for (const Extent place : {first(), second()}) {
    hand_out(place, Kind::kMap, [&] { expect_growth(Error::kHostLied); });
    EXPECT_EQ(
        calls_->mmap(both().base, both().size, kReadWrite, MAP_SHARED | MAP_FIXED, kDevice, 0),
        static_cast<std::intptr_t>(both().base));
    EXPECT_EQ(regions(), 1u);
    host_->answer = nullptr;
    free_blocks();
    EXPECT_EQ(calls_->munmap(hole().base, hole().size), 0);
  }
  EXPECT_EQ(done_, 2);
}

TEST_F(Threat67_PlaceStillToGo, WhileAMapFixedThatFailedIsUndone) {
  map_both();
  hand_out(second(), Kind::kUnmap, [&] { expect_growth(Error::kHostLied); });
  host_->answer = [lies = host_->answer,
                   n = 0](const PageHost::Call& call) mutable -> std::optional<HostReply> {
    if (call.kind == Kind::kMap && ++n == 2) return HostReply{0, ENOMEM};
    return lies(call);
  };
  EXPECT_EQ(calls_->mmap(both().base, both().size, kReadWrite, MAP_SHARED | MAP_FIXED, kDevice, 0),
            -ENOMEM);
  EXPECT_EQ(done_, 1);
  EXPECT_THAT(unmaps(), ElementsAre(PageHost::unmap(hole()))) << "what filled the hole";
  host_->answer = nullptr;
  free_blocks();
  EXPECT_EQ(book(first().base, 3), "bb.");
  EXPECT_EQ(book(second().base, kGrownPages), std::string(kGrownPages, 'b'));
  EXPECT_EQ(regions(), 2u);
}

TEST_F(Threat67_PlaceStillToGo, WhileMremapFillsAHoleOfItsTarget) {
  map_both();
  const std::uintptr_t source = map(both().size / kPage);
  hand_out(second(), Kind::kMap, [&] { expect_growth(Error::kHostLied); });
  EXPECT_EQ(
      calls_->mremap(source, both().size, both().size, MREMAP_MAYMOVE | MREMAP_FIXED, both().base),
      static_cast<std::intptr_t>(both().base));
  EXPECT_EQ(done_, 1);
  EXPECT_EQ(regions(), 1u);
  host_->answer = nullptr;
  free_blocks();
}

}  // namespace
}  // namespace exclave

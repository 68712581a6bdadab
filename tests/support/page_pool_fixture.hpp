// A pool of pages over regions that are made up, and never touched.
#pragma once

#include "page/page_pool.hpp"
#include "region/registry.hpp"
#include "support/books_fixture.hpp"

namespace exclave::testing_support {

class PagePoolFixture : public BooksFixture {
 protected:
  using Tail = PagePool::Tail;
  static constexpr std::uintptr_t kBase = 0x200000000000;

  void TearDown() override {
    EXPECT_TRUE(pool_.validate());
    BooksFixture::TearDown();
  }
  Region& add(Extent extent) {
    const Result<Region*> region = registry_.create(extent, AttachOptions{}, true);
    EXPECT_TRUE(region.ok());
    EXPECT_TRUE(pool_.add(**region).ok());
    // One that nobody has had a page of is not idle.
    const Result<PageRun> run = pool_.allocate_block_in(**region, 1, 0);
    EXPECT_TRUE(run.ok());
    EXPECT_EQ(free(**region, run->extent.base), Error::kNone);
    return **region;
  }
  Error free(Region& region, std::uintptr_t address) {
    bool kept = false;
    const Error error = pool_.free_block(region, address, &kept).error();
    EXPECT_FALSE(kept);
    return error;
  }

  Registry registry_{books_};
  PagePool pool_{books_};
};

}  // namespace exclave::testing_support

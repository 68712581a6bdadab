// A book store on a FakePort, for tests of the rooms below the allocator.
#pragma once

#include <gtest/gtest.h>

#include "port/book_store.hpp"
#include "support/fake_port.hpp"

namespace exclave::testing_support {

class BooksFixture : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(books_.open(port_.table()).ok()); }
  void TearDown() override {
    books_.close();
    EXPECT_EQ(port_.trusted_held(), 0u);
  }

  FakePort port_;
  BookStore books_;
};

}  // namespace exclave::testing_support
